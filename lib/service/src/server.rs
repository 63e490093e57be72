use crate::{Error, error::Code, tls};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, FromRequestParts},
    response::{IntoResponse, Response},
};
use hyper::{Request, body::Incoming, http::request::Parts, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ids::Identity;
use rustls::ServerConfig;
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// How much callers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. When they are taken, others wait unaccepted.
    pub connections: usize,
    /// Of these, from one address (IPv6: one network of 64 bits). More are refused: who holds all of theirs leaves some to
    /// the others.
    pub per_address: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for a request's headers; also how long a connection may idle between requests.
    pub headers: Duration,
    /// Time for a request's body.
    pub body: Duration,
    /// Longest body in bytes.
    pub body_size: usize,
    /// Time until an answer. The work goes on behind it: what was begun is not cut off in the middle.
    pub answer: Duration,
    /// Life of a connection.
    pub connection: Duration,
    /// Time that a stop leaves to requests in flight.
    pub stop: Duration,
    /// Threads that serve connections, each its share of them. A handler may block its thread for a moment: that keeps
    /// only the other connections of its share waiting. 0: the caller's runtime serves them, which no handler may block.
    pub lanes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_address: 192,
            handshake: Duration::from_secs(5),
            headers: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_size: 256 * 1024,
            answer: Duration::from_secs(60),
            connection: Duration::from_secs(300),
            stop: Duration::from_secs(10),
            lanes: 0,
        }
    }
}

/// The code of what failed because a revocation list has ended.
pub(crate) const OUTDATED_LIST: &str = "revocation.expired";
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 32 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Something that did not come as far as a handler, or that no handler could read. Told before it is
/// answered.
#[derive(Debug, Clone)]
pub struct Incident {
    /// Who connected.
    pub address: SocketAddr,
    /// Who it is, if the handshake went through and showed a certificate.
    pub peer: Option<Identity>,
    /// `tls.handshake`, `revocation.expired` or one of `request.malformed`, `request.unknown`, `request.too-large`,
    /// `request.timeout`.
    pub code: &'static str,
    /// What was wrong; nothing of the request's content.
    pub detail: String,
}

/// The caller, from their certificate. As an argument of a handler it refuses who showed none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub Identity);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let none = || Error::new(401, "peer.missing", "show a certificate of this environment");
        parts.extensions.get::<Self>().cloned().ok_or_else(none)
    }
}

/// What [`serve`] serves.
pub struct Service {
    /// The handlers. They can take [`Peer`] and `ConnectInfo<SocketAddr>`.
    pub router: Router,
    /// From [`crate::server_config`].
    pub tls: ServerConfig,
    /// Bounds.
    pub limits: Limits,
    /// Told of every [`Incident`], on a thread that may block.
    pub observer: Arc<dyn Fn(Incident) + Send + Sync>,
}

struct Shared {
    router: Router,
    tls: TlsAcceptor,
    limits: Limits,
    observer: Arc<dyn Fn(Incident) + Send + Sync>,
    stopping: watch::Receiver<bool>,
    /// Held by whatever must end before a stop is complete.
    alive: mpsc::Sender<Infallible>,
    /// The runtime that [`serve`] was called in.
    home: Handle,
}

/// A connection's place among [`Limits::connections`]. Work that it began keeps it too: otherwise callers who hang
/// up and come back could pile up work without end.
#[derive(Clone)]
struct Slot(#[allow(dead_code, reason = "held")] Arc<(Result<OwnedSemaphorePermit, AcquireError>, Place)>);

/// How many connections each address has.
type Places = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection's place among [`Limits::per_address`].
struct Place(Places, IpAddr);

impl Place {
    fn take(places: &Places, address: IpAddr, most: usize) -> Option<Self> {
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        let mut held = places.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        (*count < most).then(|| {
            *count += 1;
            Self(places.clone(), address)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.1) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.1)),
        }
    }
}

/// Serves on a listener from [`crate::bind`] until `stop` is ready, then lets requests in flight end.
pub async fn serve(
    listener: std::net::TcpListener,
    service: Service,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let Service { router, tls, limits, observer } = service;
    let (stopper, stopping) = watch::channel(false);
    let (alive, mut ended) = mpsc::channel(1);
    let unknown = || async { Error::new(404, "request.unknown", "there is no such call") };
    let wrong_method = || async { Error::new(405, "request.unknown", "this call has another method") };
    let router = router.fallback(unknown).method_not_allowed_fallback(wrong_method);
    let tls = TlsAcceptor::from(Arc::new(tls));
    // The lanes end with this function, however it ends.
    let (_open, over) = watch::channel(());
    let lanes: Vec<_> = (0..limits.lanes).map(|_| lane(over.clone())).collect::<std::io::Result<_>>()?;
    let home = Handle::current();
    let shared = Arc::new(Shared { router, tls, limits, observer, stopping, alive, home });
    let slots = Arc::new(Semaphore::new(limits.connections));
    let places = Places::default();
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, address)) => {
                    let shared = shared.clone();
                    let place = Place::take(&places, address.ip(), limits.per_address);
                    let lane = lanes.iter().min_by_key(|lane| lane.metrics().num_alive_tasks());
                    let Ok(stream) = stream.into_std() else { continue };
                    lane.unwrap_or(&shared.home.clone()).spawn(async move {
                        let Some(place) = place else {
                            let detail = "too many connections from this address".to_owned();
                            return shared.tell(address, None, "tls.handshake", detail).await;
                        };
                        let slot = Slot(Arc::new((slot, place)));
                        let life = shared.limits.connection;
                        let Ok(stream) = TcpStream::from_std(stream) else { return };
                        let _ = timeout(life, connection(&shared, stream, address, &slot)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop((listener, shared));
    let _ = stopper.send(true);
    let _ = timeout(limits.stop, ended.recv()).await;
    Ok(())
}

/// Starts a thread that runs what is spawned there, until the other end of `over` is gone.
fn lane(mut over: watch::Receiver<()>) -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("lane".to_owned()).spawn(move || runtime.block_on(over.changed()))?;
    Ok(handle)
}

/// Ready at SIGTERM or SIGINT.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}

async fn connection(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr, slot: &Slot) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(shared.limits.handshake, shared.tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let code = if tls::by_outdated_list(&error) { OUTDATED_LIST } else { "tls.handshake" };
            return shared.tell(address, None, code, error.to_string()).await;
        }
        Err(_) => return shared.tell(address, None, "tls.handshake", "too slow".to_owned()).await,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certified = certificates.first().map(tls::read_identity);
    let peer = match certified {
        None => None,
        Some(Some(certified)) => Some(certified.identity),
        Some(None) => {
            let detail = "the certificate names no identity".to_owned();
            return shared.tell(address, None, "tls.handshake", detail).await;
        }
    };
    let handler = service_fn(|request| {
        let (shared, peer, slot) = (shared.clone(), peer.clone(), slot.clone());
        async move { Ok::<_, Infallible>(shared.answer(request, address, peer, slot).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(shared.limits.headers)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(2 * MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), handler)
    );
    let mut stopping = shared.stopping.clone();
    let stop = async move { stopping.wait_for(|stop| *stop).await.map(drop) };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended
        && (error.is_parse() || error.is_incomplete_message())
    {
        shared.tell(address, peer, "request.malformed", error.to_string()).await;
    }
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        address: SocketAddr,
        peer: Option<Identity>,
        slot: Slot,
    ) -> Response {
        let handled = match self.whole(request).await {
            Ok(mut request) => {
                request.extensions_mut().insert(ConnectInfo(address));
                if let Some(peer) = peer.clone() {
                    request.extensions_mut().insert(Peer(peer));
                }
                self.handle(request, slot).await
            }
            Err(refused) => refused.into_response(),
        };
        if let Some(Code(code)) = handled.extensions().get()
            && code.starts_with("request.")
        {
            self.tell(address, peer, code, handled.status().to_string()).await;
        }
        handled
    }

    /// Reads the body to its end, so that no handler waits for a caller.
    async fn whole(&self, request: Request<Incoming>) -> Result<Request<Body>, Error> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(Body::new(body), self.limits.body_size);
        match timeout(self.limits.body, body).await {
            Ok(Ok(body)) => Ok(Request::from_parts(parts, body.into())),
            Ok(Err(_)) => {
                let size = self.limits.body_size;
                Err(Error::new(
                    413,
                    "request.too-large",
                    format!("the body is broken or longer than {size} bytes"),
                ))
            }
            Err(_) => Err(Error::new(408, "request.timeout", "the body came too slowly")),
        }
    }

    async fn handle(&self, request: Request<Body>, slot: Slot) -> Response {
        let (router, alive) = (self.router.clone(), self.alive.clone());
        // In a task of its own: a caller who hangs up does not stop work that has begun.
        let task = tokio::spawn(async move {
            let _held = (alive, slot);
            router.oneshot(request).await
        });
        match timeout(self.limits.answer, task).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Err(error)) => Error::internal(error).into_response(),
            Err(_) => Error::new(504, "service.slow", "no answer yet: the work goes on, ask for its state")
                .into_response(),
        }
    }

    async fn tell(&self, address: SocketAddr, peer: Option<Identity>, code: &'static str, detail: String) {
        let observer = self.observer.clone();
        let incident = Incident { address, peer, code, detail };
        let _ = self.home.spawn_blocking(move || observer(incident)).await;
    }
}
