//! Agents of SSH keys that a build may ask: sockets of this machine, answered for inside by `RUN --mount=type=ssh`.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use engine::build::Client;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Conversations with one agent at a time.
const CONVERSATIONS: usize = 32;

/// Sockets by their ids.
pub(in crate::verbs) type Sockets = BTreeMap<String, PathBuf>;

/// What `--ssh` names: `default`, `ID`, or `ID=SOCKET`; without a socket, that of the agent of whoever builds.
pub(super) fn sockets(args: &[String]) -> anyhow::Result<Sockets> {
    let one = |text: &String| {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, PathBuf::from(path)),
            None => {
                let own = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
                (text.as_str(), own.map(PathBuf::from).context("--ssh: SSH_AUTH_SOCK is not set: no agent runs here")?)
            }
        };
        let kind = std::fs::metadata(&path).with_context(|| format!("--ssh {text}: look at {}", path.display()))?;
        if !std::os::unix::fs::FileTypeExt::is_socket(&kind.file_type()) {
            bail!("--ssh {text}: {} is no socket of an agent; load keys into one with ssh-add", path.display());
        }
        anyhow::Ok((id.to_owned(), path))
    };
    args.iter().map(one).collect()
}

/// Answers a build for these agents.
pub(super) struct Agents {
    pub(super) sockets: Sockets,
    pub(super) runtime: Handle,
}

/// Ends what answers.
struct Answering(tokio::task::AbortHandle);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client for Agents {
    fn agent(&self, id: &str, socket: UnixListener) -> Result<Option<Box<dyn Any + Send>>, String> {
        let Some(path) = self.sockets.get(id).cloned() else { return Ok(None) };
        socket.set_nonblocking(true).map_err(|e| e.to_string())?;
        let _inside = self.runtime.enter();
        let listener = tokio::net::UnixListener::from_std(socket).map_err(|e| e.to_string())?;
        let answering = self.runtime.spawn(answer(listener, path));
        Ok(Some(Box::new(Answering(answering.abort_handle()))))
    }
}

/// Joins each who connects with the agent. The conversations end with this.
async fn answer(listener: tokio::net::UnixListener, agent: PathBuf) {
    let mut open = JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        while open.len() >= CONVERSATIONS {
            open.join_next().await;
        }
        let agent = agent.clone();
        open.spawn(async move {
            if let Ok(mut outside) = UnixStream::connect(&agent).await {
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_build_talks_to_the_agent_that_was_named_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, inside) = (dir.path().join("outside"), dir.path().join("inside"));
        let listener = UnixListener::bind(&outside).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&asked.map(|b| b + 1)).unwrap();
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sockets = sockets(&[format!("work={}", outside.display())]).unwrap();
        let agents = Agents { sockets, runtime: runtime.handle().clone() };
        let answering = agents.agent("work", UnixListener::bind(&inside).unwrap()).unwrap();
        assert!(answering.is_some());
        let mut build = std::os::unix::net::UnixStream::connect(&inside).unwrap();
        build.write_all(&[1, 2, 3]).unwrap();
        let mut said = [0; 3];
        build.read_exact(&mut said).unwrap();
        assert_eq!(said, [2, 3, 4]);
        agent.join().unwrap();
        let other = UnixListener::bind(dir.path().join("other")).unwrap();
        assert!(agents.agent("default", other).unwrap().is_none());
        assert!(super::sockets(&["key=/etc/passwd".to_owned()]).unwrap_err().to_string().contains("ssh-add"));
    }
}
