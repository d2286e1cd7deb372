//! The server as a whole: what is shared by all requests.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::{self, Allocator};
use crate::aggregation::Aggregation;
use crate::audit::{Audit, AuditError};
use crate::authn::{Oidc, OidcError, Sender, TokenError, Tokens, UserInfo};
use crate::authz;
use crate::cache::Caches;
use crate::cache::kind::RingLimits;
use crate::config::Config;
use crate::flow::{self, FlowControl};
use crate::handlers::Documents;
use crate::http::body::{Body, BoxError, RequestBody};
use crate::http::listener::{self, TlsError};
use crate::meter::Meter;
use crate::pki::{self, Pki, PkiError};
use crate::proxy::Kubelets;

/// How often certificates are looked at for renewal.
const RENEWAL: Duration = Duration::from_secs(12 * 3600);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or certificates.
    #[error("prepare keys and certificates")]
    Pki(#[from] PkiError),
    /// TLS.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
    /// The token key.
    #[error("prepare service account tokens")]
    Token(#[from] TokenError),
    /// The audit log.
    #[error("prepare the audit log")]
    Audit(#[from] AuditError),
    /// The other identity provider.
    #[error("prepare OpenID Connect")]
    Oidc(#[from] OidcError),
    /// The store.
    #[error("read the store")]
    Store(#[from] StoreError),
    /// The objects every cluster has could not be made.
    #[error("create {what}")]
    Bootstrap {
        /// Which object.
        what: String,
        /// What the server itself said.
        #[source]
        source: api::status::ApiError,
    },
}

/// The Kubernetes API over one store.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) pki: Pki,
    pub(crate) caches: Arc<Caches>,
    pub(crate) tokens: Tokens,
    pub(crate) authorizers: Arc<authz::Chain>,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) oidc: Option<Oidc>,
    pub(crate) allocator: Allocator,
    pub(crate) admission: admission::State,
    pub(crate) aggregation: Aggregation,
    pub(crate) kubelets: Kubelets,
    pub(crate) meter: Meter,
    pub(crate) metrics: crate::handlers::metrics::Scrapes,
    pub(crate) documents: Documents,
    pub(crate) flow: FlowControl,
    pub(crate) reads: Semaphore,
    pub(crate) writes: Semaphore,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) streams_end: CancellationToken,
    draining: AtomicBool,
    tls: ArcSwap<rustls::ServerConfig>,
    _background: DropGuard,
}

impl ApiServer {
    /// Prepares keys, reads the store, makes the objects every cluster has, and starts the background work, which ends
    /// when the last reference is dropped.
    ///
    /// # Errors
    /// Says what could not be prepared.
    pub async fn new(store: Arc<dyn Store>, config: Config) -> Result<Arc<Self>, StartError> {
        let pki = open_pki(&config)?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let limits = RingLimits { events: config.limits.ring_events, bytes: config.limits.ring_bytes };
        let caches = Caches::start(store.clone(), limits, stop.clone()).await?;
        let server = Arc::new(ApiServer {
            tokens: Tokens::new(&pki, &config.cluster_domain)?,
            tls: ArcSwap::new(listener::tls_config(&pki)?),
            kubelets: Kubelets::new(&pki)?,
            meter: Meter::default(),
            metrics: Default::default(),
            documents: Documents::default(),
            authorizers: Arc::new(authz::default_chain()),
            oidc: config.oidc.clone().map(Oidc::new).transpose()?,
            audit: config.audit.as_ref().map(Audit::open).transpose()?,
            allocator: Allocator::new(&config),
            admission: admission::State::default(),
            aggregation: Aggregation::default(),
            flow: FlowControl::new(config.limits.seats, config.limits.request_timeout / 4),
            reads: Semaphore::new(config.limits.reads_in_flight),
            writes: Semaphore::new(config.limits.writes_in_flight),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            streams_end: CancellationToken::new(),
            draining: AtomicBool::new(false),
            caches,
            pki,
            config,
            _background: guard,
        });
        crate::bootstrap::run(&server).await?;
        tokio::spawn(crate::bootstrap::own::run(Arc::downgrade(&server), stop.clone()));
        tokio::spawn(compact(store, server.config.history, stop.clone()));
        tokio::spawn(admission::quota::run(Arc::downgrade(&server), stop.clone()));
        tokio::spawn(flow::keeper::run(Arc::downgrade(&server), stop.clone()));
        tokio::spawn(crate::extension::run(Arc::downgrade(&server), stop.clone()));
        tokio::spawn(crate::aggregation::run(Arc::downgrade(&server), stop.clone()));
        tokio::spawn(renew(Arc::downgrade(&server), stop));
        Ok(server)
    }

    /// Serves HTTPS until `drain` is cancelled and requests under way have ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, drain: CancellationToken) {
        listener::serve(self, listener, drain).await;
    }

    /// The same server for clients in this process, as this user: no network, no TLS, every other check.
    pub fn in_process(self: &Arc<Self>, user: UserInfo) -> InProcess {
        InProcess { server: self.clone(), user: Arc::new(user) }
    }

    /// The keys and certificates.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// How far the watch cache is: the newest revision that reads are certain to see.
    pub fn revision(&self) -> u64 {
        self.caches.applied()
    }

    pub(crate) fn tls(&self) -> Arc<rustls::ServerConfig> {
        self.tls.load_full()
    }

    /// Ends watches and the like, and turns `/readyz` off.
    pub(crate) fn end_streams(&self) {
        self.draining.store(true, Ordering::Release);
        self.streams_end.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) async fn handle(self: &Arc<Self>, request: Request<RequestBody>, sender: Sender) -> Response<Body> {
        crate::handlers::handle(self, request, sender).await
    }
}

fn open_pki(config: &Config) -> Result<Pki, PkiError> {
    let mut names = config.server_names.clone();
    names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    let mut ips = config.server_ips.clone();
    ips.extend([config.advertise.ip(), config.kubernetes_ip().into()]);
    ips.retain(|ip| !ip.is_unspecified());
    pki::ensure(&config.pki_dir, &names, &ips)
}

/// Drops history that is older than `keep`, every `keep`.
async fn compact(store: Arc<dyn Store>, keep: Duration, stop: CancellationToken) {
    let mut before = store.revision();
    loop {
        tokio::select! {
            () = tokio::time::sleep(keep) => {}
            () = stop.cancelled() => return,
        }
        let now = store.revision();
        if before > 0 {
            match store.compact(before).await {
                // Another server was here first.
                Ok(()) | Err(StoreError::Compacted { .. }) => {}
                Err(error) => tracing::warn!(error = %base::chain(&error), "cannot compact the store"),
            }
        }
        before = now;
    }
}

/// Replaces the server's certificate before it ends, without a restart.
async fn renew(server: std::sync::Weak<ApiServer>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL) => {}
            () = stop.cancelled() => return,
        }
        let Some(server) = server.upgrade() else { return };
        match open_pki(&server.config).map_err(TlsError::from).and_then(|pki| listener::tls_config(&pki)) {
            Ok(tls) => server.tls.store(tls),
            Err(error) => tracing::error!(error = %base::chain(&error), "cannot renew the server certificate"),
        }
    }
}

/// The server as a `tower::Service` for clients in this process.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, user) = (self.server.clone(), self.user.clone());
        let request = request.map(|body| RequestBody::Local(body.map_err(Into::into).boxed_unsync()));
        Box::pin(async move { Ok(server.handle(request, Sender::Trusted(user)).await) })
    }
}
