//! WebSocket as a browser speaks it (RFC 6455), as far as the answers of the API need it: no message is sent. `kubectl
//! proxy` stands between, which has the administrator's certificate.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::Ctx;

/// `kubectl proxy`, until dropped.
pub struct Proxy {
    child: Child,
    address: String,
    /// Kept open: the program would end with its first word into a closed pipe.
    _output: BufReader<ChildStdout>,
}

impl Proxy {
    pub fn start(ctx: &Ctx) -> Result<Proxy> {
        let mut command = ctx.command(&["proxy", "--port=0", "--reject-paths=^$"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("its output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(address.starts_with("127.0.0.1:"), "kubectl proxy says {line:?}");
        Ok(Proxy { child, address, _output: output })
    }

    /// All messages of a path until the server ends them.
    pub fn messages(&self, path: &str, protocol: &str) -> Result<Vec<Vec<u8>>> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "no answer but {head:?}");
        }
        let agreed = |line: &str| head.lines().any(|l| l.eq_ignore_ascii_case(line));
        ensure!(head.starts_with("HTTP/1.1 101") && agreed(&format!("Sec-WebSocket-Protocol: {protocol}")), "{head}");
        // RFC 6455, 1.3: the answer to that key.
        ensure!(agreed("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let mut messages = Vec::new();
        while let Some((kind, content)) = frame(&mut reader)? {
            match kind {
                1 | 2 => messages.push(content),
                8 => return Ok(messages),
                9 | 10 => {}
                other => bail!("a frame of kind {other}"),
            }
        }
        Ok(messages)
    }
}

/// The next frame: its kind and content. Servers do not mask; what they send here is never in parts.
fn frame(reader: &mut impl std::io::Read) -> Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 2];
    match reader.read_exact(&mut head) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    ensure!(head[0] & 0x80 != 0 && head[1] & 0x80 == 0, "a frame that begins with {head:?}");
    let length = match head[1] {
        126 => {
            let mut long = [0; 2];
            reader.read_exact(&mut long)?;
            u64::from(u16::from_be_bytes(long))
        }
        127 => {
            let mut long = [0; 8];
            reader.read_exact(&mut long)?;
            u64::from_be_bytes(long)
        }
        short => u64::from(short),
    };
    ensure!(length <= 1 << 20, "a frame of {length} bytes");
    let mut content = Vec::new();
    reader.take(length).read_to_end(&mut content)?;
    ensure!(content.len() as u64 == length, "a frame that ends early");
    Ok(Some((head[0] & 0x0f, content)))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
