//! A host and its pods as network namespaces of threads: nothing is named in the file system, so nothing is left behind
//! when a test panics.

#![allow(dead_code, missing_docs)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use net::{Endpoint, HostPort, Network, NetworkConfig, Protocol, ServiceEntry, ServicePort, ServiceTable};
use nix::sched::{CloneFlags, unshare};

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 233, 64, 20);

type Job = Box<dyn FnOnce() + Send>;

/// A namespace with a thread in it that does what it is told.
pub struct Place {
    pub path: PathBuf,
    pub tid: i32,
    jobs: Sender<Job>,
}

impl Place {
    pub fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            run("ip", &["link", "set", "lo", "up"]);
            tell.send(nix::unistd::gettid().as_raw()).expect("heard");
            for job in todo {
                job();
            }
        });
        let tid = told.recv().expect("started");
        Place { path: format!("/proc/self/task/{tid}/ns/net").into(), tid, jobs }
    }

    /// Runs it in the namespace and waits.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.send(Box::new(move || drop(tell.send(work())))).expect("alive");
        told.recv().expect("the work did not panic")
    }

    /// Answers TCP on the port with `tag` and the address of the client.
    pub fn serve(&self, port: u16, tag: &'static str) {
        self.run(move || serve(port, tag));
    }

    pub fn ask(&self, ip: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(move || ask(ip, port))
    }
}

pub fn serve(port: u16, tag: &'static str) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("binds");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            let peer = stream.peer_addr().expect("connected").ip();
            let _ = stream.write_all(format!("{tag} {peer}").as_bytes());
        }
    });
}

pub fn ask(ip: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(ip), port), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Answers UDP on the port with `tag`.
pub fn serve_udp(port: u16, tag: &'static str) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("binds");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(tag.as_bytes(), from);
        }
    });
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A fresh host with an uplink to [`OUTSIDE`], and what is to run in it.
pub fn on_a_host<F: Future<Output = ()>>(name: &str, test: impl FnOnce(World) -> F) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
    run("ip", &["link", "set", "lo", "up"]);
    let outside = Place::new();
    let pid = outside.tid.to_string();
    run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
    run("ip", &["addr", "add", "198.51.100.1/24", "dev", "up0"]);
    run("ip", &["link", "set", "up0", "up", "mtu", "1400"]);
    outside.run(|| {
        run("ip", &["addr", "add", "198.51.100.2/24", "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "up"]);
    });
    run("ip", &["route", "add", "default", "via", "198.51.100.2"]);
    let dir = tempfile::tempdir().expect("a folder");
    let config = NetworkConfig {
        bridge: "wltest0".into(),
        veth_prefix: "wltv".into(),
        net_prefix: "wltb".into(),
        plug_prefix: "wltn".into(),
        nft_table: format!("windlass_{name}"),
        pod_cidr: "10.233.0.0/18".parse().expect("a range"),
        service_cidr: "10.233.64.0/18".parse().expect("a range"),
        state_dir: dir.path().join("net"),
        mtu: None,
        no_masquerade: vec![],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test(World { config, outside, _dir: dir }));
}

pub struct World {
    pub config: NetworkConfig,
    pub outside: Place,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn open(&self) -> Network {
        Network::open(self.config.clone()).await.expect("opens")
    }
}

/// A pod, attached.
pub async fn pod(network: &Network, id: &str, host_ports: &[HostPort]) -> (Place, Ipv4Addr) {
    let place = Place::new();
    let attachment = network.attach(id, Path::new(&place.path), host_ports).await.expect("attaches");
    (place, attachment.ip)
}

pub fn endpoint(ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { ip, port, local: true }
}

pub fn service(protocol: Protocol, node_port: Option<u16>, endpoints: Vec<Endpoint>) -> ServiceEntry {
    ServiceEntry {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec![VIP],
        ports: vec![ServicePort { protocol, port: 80, node_port, endpoints }],
        ..ServiceEntry::default()
    }
}

pub fn table(service: ServiceEntry) -> ServiceTable {
    ServiceTable { services: vec![service] }
}
