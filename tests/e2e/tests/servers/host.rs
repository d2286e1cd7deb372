//! A network namespace that stands for another host: with a link to this one, and nothing else.

use std::process::Command;

use anyhow::Result;
use e2e::command::{LIMIT, run};

pub struct Host {
    /// Of the namespace.
    name: String,
    /// The end of the link that is here.
    link: String,
    /// The address of that end.
    pub here: String,
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args), None, LIMIT)?.ok().map(drop)
}

impl Host {
    /// Makes it.
    pub fn new() -> Result<Host> {
        let pid = std::process::id();
        // From the range for tests of networks (RFC 2544), four addresses for each process.
        let base = (pid % 0x4000) * 4;
        let address = |n: u32| format!("198.18.{}.{}", (base + n) >> 8, (base + n) & 0xff);
        let name = format!("e2e-host-{pid:x}");
        let host = Host { link: format!("e2e{pid:x}h"), here: address(1), name };
        ip(&["netns", "add", &host.name])?;
        let (there, peer) = (address(2), format!("e2e{pid:x}g"));
        ip(&["link", "add", &host.link, "type", "veth", "peer", "name", &peer, "netns", &host.name])?;
        ip(&["addr", "add", &format!("{}/30", host.here), "dev", &host.link])?;
        ip(&["link", "set", &host.link, "up"])?;
        for args in [
            &["addr", "add", &format!("{there}/30"), "dev", &peer][..],
            &["link", "set", &peer, "up"],
            &["link", "set", "lo", "up"],
            &["route", "add", "default", "via", &host.here],
        ] {
            ip(&[&["-n", &host.name], args].concat())?;
        }
        Ok(host)
    }

    /// The command that starts a program there.
    pub fn starter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name)]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The link goes with it; where the namespace was not made, neither was the link.
        let _ = ip(&["netns", "del", &self.name]);
        let _ = ip(&["link", "del", &self.link]);
    }
}
