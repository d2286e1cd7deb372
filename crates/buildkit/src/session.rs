//! The session of a client: a connection on which the client answers, as long as its build goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use grpc::{CallError, Connection, Requests};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::LIMITS;
use crate::messages::{ById, BytesMessage, CredentialsRequest, CredentialsResponse, Nothing};

/// Sessions at once: a client has one for each build, and one to look what there is.
const SESSIONS_MAX: usize = 256;
/// How long a session may take to come after the build that names it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a secret (BuildKit's limit).
const SECRET_MAX: usize = 500 << 10;
/// Bytes sent at once.
const CHUNK: usize = 32 << 10;
/// Connections to one SSH agent at once.
const AGENTS_MAX: usize = 32;

/// What goes wrong with a client that is asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No such session came.
    #[error("no active session for {0}: context deadline exceeded")]
    None(String),
    /// It is there already.
    #[error("session {0} already exists")]
    Exists(String),
    /// Too many are there.
    #[error("{SESSIONS_MAX} sessions are open already")]
    TooMany,
    /// The client does not offer it.
    #[error("method {0} not supported by the client")]
    Unsupported(String),
    /// The call failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// What it sent is not as agreed.
    #[error("{0}")]
    Wrong(String),
    /// The disk said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl SessionError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SessionError {
        let path = path.to_path_buf();
        move |source| SessionError::Io { what, path: path.clone(), source }
    }
}

/// A client that can be asked.
pub struct Session {
    /// What it is called.
    pub id: String,
    /// The same for builds of the same folder by the same client; may be empty.
    pub shared_key: String,
    methods: BTreeSet<String>,
    connection: Connection,
}

/// A name and a password, or a token alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Empty with a token.
    pub username: String,
    /// The password, or the token.
    pub secret: String,
}

impl Session {
    /// Speaks with a client over a connection that it had upgraded; `headers` are those of its request.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn open<T>(wire: T, headers: &HeaderMap) -> Result<Session, SessionError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let methods = headers.get_all("x-docker-expose-session-grpc-method");
        let methods = methods.iter().filter_map(|v| v.to_str().ok()).map(str::to_ascii_lowercase).collect();
        let connection = Connection::over(wire, "http://localhost", LIMITS).await?;
        let shared_key = text("x-docker-expose-session-sharedkey");
        Ok(Session { id: text("x-docker-expose-session-uuid"), shared_key, methods, connection })
    }

    /// Resolves when the client has gone.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Whether the client answers a call.
    pub fn offers(&self, path: &str) -> bool {
        self.methods.contains(&path.to_ascii_lowercase())
    }

    pub(crate) fn needs(&self, path: &str) -> Result<&Connection, SessionError> {
        if self.offers(path) { Ok(&self.connection) } else { Err(SessionError::Unsupported(path.to_owned())) }
    }

    /// A secret; `None` when the client has none of that name.
    ///
    /// # Errors
    /// When it cannot say, or the secret is too large.
    pub async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SessionError> {
        const PATH: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
        if !self.offers(PATH) {
            return Ok(None);
        }
        let answer: Result<BytesMessage, _> = self.connection.unary(PATH, &ById { id: id.to_owned() }).await;
        match answer {
            Ok(secret) if secret.data.len() > SECRET_MAX => {
                Err(SessionError::Wrong(format!("secret {id} is larger than {SECRET_MAX} bytes")))
            }
            Ok(secret) => Ok(Some(secret.data)),
            Err(CallError::Status { code: grpc::server::code::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the client knows of a registry; `None` for nothing.
    ///
    /// # Errors
    /// When it cannot say.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>, SessionError> {
        const PATH: &str = "/moby.filesync.v1.Auth/Credentials";
        if !self.offers(PATH) {
            return Ok(None);
        }
        let asked = CredentialsRequest { host: host.to_owned() };
        let CredentialsResponse { username, secret } = self.connection.unary(PATH, &asked).await?;
        Ok((!secret.is_empty()).then_some(Credentials { username, secret }))
    }

    /// Whether the client forwards an SSH agent of that name.
    ///
    /// # Errors
    /// When it cannot say.
    pub async fn has_agent(&self, id: &str) -> Result<bool, SessionError> {
        const PATH: &str = "/moby.sshforward.v1.SSH/CheckAgent";
        if !self.offers(PATH) {
            return Ok(false);
        }
        match self.connection.unary::<Nothing>(PATH, &ById { id: id.to_owned() }).await {
            Ok(_) => Ok(true),
            // It says in words only which there is none of.
            Err(CallError::Status { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the client's SSH agent answer on a socket; ends when dropped.
    pub async fn forward_agent(self: Arc<Self>, id: String, listener: UnixListener) {
        let slots = Arc::new(Semaphore::new(AGENTS_MAX));
        let mut open = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { return };
            while open.try_join_next().is_some() {}
            let (session, id) = (self.clone(), id.clone());
            open.spawn(async move {
                if let Err(error) = session.agent(&id, stream).await {
                    tracing::debug!(%error, "an SSH agent of a client");
                }
                drop(slot);
            });
        }
    }

    async fn agent(&self, id: &str, stream: UnixStream) -> Result<(), SessionError> {
        const PATH: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
        let (requests, mut answers) = self.needs(PATH)?.duplex(PATH, &[("buildkit.ssh.id", id)]).await?;
        let (read, mut write) = stream.into_split();
        let there = carry(read, requests);
        let back = async {
            while let Some(BytesMessage { data }) = answers.next().await? {
                if write.write_all(&data).await.is_err() {
                    break;
                }
            }
            drop(write.shutdown().await);
            Ok::<_, SessionError>(())
        };
        let (_, back) = tokio::join!(there, back);
        back
    }

    /// An upload that the client has ready, by the path and host of its address.
    ///
    /// # Errors
    /// When the client offers none.
    pub async fn upload(
        &self,
        path: &str,
        host: &str,
    ) -> Result<mpsc::Receiver<std::io::Result<bytes::Bytes>>, SessionError> {
        const PATH: &str = "/moby.upload.v1.Upload/Pull";
        let (requests, mut answers) = self.needs(PATH)?.duplex(PATH, &[("urlpath", path), ("urlhost", host)]).await?;
        let (tx, rx) = mpsc::channel(16);
        // Ends with the upload, or when nobody takes it.
        tokio::spawn(async move {
            let _open = requests;
            loop {
                let chunk = match answers.next::<BytesMessage>().await {
                    Ok(Some(message)) => Ok(bytes::Bytes::from(message.data)),
                    Ok(None) => return,
                    Err(error) => Err(std::io::Error::other(error)),
                };
                let last = chunk.is_err();
                if tx.send(chunk).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(rx)
    }

    /// Sends a file as the result of an exporter, with what is known of it.
    ///
    /// # Errors
    /// When it cannot be read, or the client does not take it.
    pub async fn send_file(
        &self,
        exporter: usize,
        about: &BTreeMap<String, String>,
        path: &Path,
    ) -> Result<(), SessionError> {
        let fail = SessionError::io("read", path);
        let mut file = tokio::fs::File::open(path).await.map_err(&fail)?;
        let id = exporter.to_string();
        let about: Vec<(String, &str)> =
            about.iter().map(|(k, v)| (format!("exporter-md-{}", k.to_ascii_lowercase()), v.as_str())).collect();
        let mut headers = vec![(crate::send::EXPORTER, id.as_str())];
        headers.extend(about.iter().map(|(k, v)| (k.as_str(), *v)));
        let (requests, mut answers) = self.needs(crate::send::PATH)?.duplex(crate::send::PATH, &headers).await?;
        let mut buffer = vec![0; CHUNK];
        let sending = async move {
            loop {
                let n = file.read(&mut buffer).await.map_err(&fail)?;
                if n == 0 {
                    return Ok::<_, SessionError>(());
                }
                // What the client has against it is in its answer.
                if requests.send(&BytesMessage { data: buffer[..n].to_vec() }).await.is_err() {
                    return Ok(());
                }
            }
        };
        let answered = async {
            while answers.next::<BytesMessage>().await?.is_some() {}
            Ok(())
        };
        let (sent, answered) = tokio::join!(sending, answered);
        sent.and(answered)
    }
}

async fn carry(mut read: tokio::net::unix::OwnedReadHalf, requests: Requests) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n) = read.read(&mut buffer).await {
        if n == 0 || requests.send(&BytesMessage { data: buffer[..n].to_vec() }).await.is_err() {
            return;
        }
    }
}

/// The sessions that are open, by id.
pub struct Sessions {
    open: Mutex<BTreeMap<String, Arc<Session>>>,
    changed: watch::Sender<()>,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { open: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Sessions {
    /// Whether one of that name may come.
    ///
    /// # Errors
    /// When there is one, or there are too many.
    pub fn check(&self, id: &str) -> Result<(), SessionError> {
        let open = self.open.lock();
        if id.is_empty() {
            return Err(SessionError::Wrong("a session has a name (X-Docker-Expose-Session-Uuid)".to_owned()));
        }
        if open.contains_key(id) {
            return Err(SessionError::Exists(id.to_owned()));
        }
        if open.len() >= SESSIONS_MAX { Err(SessionError::TooMany) } else { Ok(()) }
    }

    /// Keeps a session until its client has gone.
    ///
    /// # Errors
    /// As [`Sessions::check`].
    pub async fn keep(&self, session: Session) -> Result<(), SessionError> {
        self.check(&session.id)?;
        let session = Arc::new(session);
        self.open.lock().insert(session.id.clone(), session.clone());
        self.changed.send_replace(());
        // Dropped with the connection's task, too.
        let _leave = Leave(self, session.id.clone());
        session.closed().await;
        Ok(())
    }

    /// A session; waits a while for one that is still on its way.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn get(&self, id: &str) -> Result<Arc<Session>, SessionError> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(session) = self.open.lock().get(id) {
                    return session.clone();
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.map_err(|_| SessionError::None(id.to_owned()))
    }
}

struct Leave<'a>(&'a Sessions, String);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}
