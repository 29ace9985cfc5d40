//! InfluxDB's write API as an input: what the listeners of both versions share.
//!
//! Requests run side by side and hand pieces of whole lines to one task that owns the collector. A request is answered with 204
//! only when the journal holds its points; requests that come together share a commit.

mod body;
mod keys;
mod patience;
mod request;
mod server;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_rustls::TlsAcceptor;
use weir_plugin_api::{
    collector::Refusal,
    options::{Secret, Section},
    plugin::{BoxFuture, InputContext, InputMemory, PluginError, Stop, StreamingInput},
    ring::Acknowledgements,
};

use self::{keys::Keys, request::Parameters};
use crate::codecs::influx::InfluxDecoder;

/// Requests whose bodies are in memory at a time; further ones wait.
const BODIES_MAX: usize = 32;
/// Pieces on their way to the collector.
const PIECES: usize = 16;
/// Requests answered with one flush.
const TOGETHER_MAX: usize = 64;
/// Seconds a client is asked to wait.
const RETRY_AFTER: &str = "2";

/// Which API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/write`, `/query`, `/ping`.
    V1,
    /// `/api/v2/write`, `/api/v2/ready`, `/health`.
    V2,
}

/// Who may write.
#[derive(Clone, Debug, Default)]
pub(crate) enum Access {
    /// Anybody.
    #[default]
    Open,
    /// `Authorization: Basic …` of this user and password.
    Basic(Secret, Secret),
    /// `Authorization: Token …` (or Bearer).
    Token(Secret),
}

/// How a listener is set up.
#[derive(Clone)]
pub(crate) struct ListenerSettings {
    pub api: Api,
    /// `host:port` or `:port`.
    pub address: String,
    pub access: Access,
    /// Bytes of a body, unpacked.
    pub body_max: usize,
    /// What accepts TLS, if it is wanted.
    pub tls: Option<TlsAcceptor>,
    /// Connections at a time, 0 for no limit.
    pub connections_max: usize,
    /// Longest time for reading a head, and then a body.
    pub read_timeout: Duration,
    /// Longest time until a write is answered, and for a client to take the answer.
    pub write_timeout: Duration,
    /// Tag that gets the name of the database or bucket.
    pub database_tag: Option<String>,
    /// Tag that gets the name of the retention policy.
    pub policy_tag: Option<String>,
}

impl ListenerSettings {
    /// Reports what can't be, and gives what only one input can have.
    pub(crate) fn check(&self, section: &Section<'_>) -> Option<Vec<String>> {
        let port = self.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            section.error_at("service_address", "`service_address`: expected a host and a port, or a port alone such as \":8086\"");
        }
        for (key, time) in [("read_timeout", self.read_timeout), ("write_timeout", self.write_timeout)] {
            if time.is_zero() {
                section.error_at(key, format!("`{key}`: must be longer than 0"));
                return None;
            }
        }
        let host = if self.address.starts_with(':') { format!("0.0.0.0{}", self.address) } else { self.address.clone() };
        port.map(|port| if port == 0 { Vec::new() } else { vec![format!("tcp:{host}")] })
    }
}

/// The input.
pub(crate) struct Listener {
    settings: Arc<ListenerSettings>,
    /// Kept from run to run.
    keys: Option<Keys>,
}

impl Listener {
    pub(crate) fn new(settings: ListenerSettings) -> Self {
        Self { settings: Arc::new(settings), keys: None }
    }

    async fn bind(&self) -> Result<TcpListener, PluginError> {
        let address = &self.settings.address;
        let host = if address.starts_with(':') { format!("[::]{address}") } else { address.clone() };
        let mut bound = TcpListener::bind(&host).await;
        if bound.is_err() && address.starts_with(':') {
            bound = TcpListener::bind(format!("0.0.0.0{address}")).await;
        }
        bound.map_err(|e| PluginError::because(format!("cannot listen on {address}"), &e))
    }

    async fn serve(&mut self, listener: TcpListener, context: &mut InputContext) -> Result<(), PluginError> {
        let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
        tracing::info!(input = %context.name, %address, tls = self.settings.tls.is_some(), "listening");
        let (handed, received) = mpsc::channel(PIECES);
        let shared = Arc::new(Shared {
            settings: Arc::clone(&self.settings),
            handed,
            acknowledgements: context.collector.acknowledgements(),
            stop: context.stop.clone(),
            bodies: Semaphore::new(BODIES_MAX),
            large: Semaphore::new(1),
        });
        let router = router(self.settings.api).with_state(shared);
        let (stop, settings, name) = (context.stop.clone(), Arc::clone(&self.settings), context.name.clone());
        let serving = async move {
            server::serve(listener, router, settings, stop, &name).await;
            Ok(())
        };
        let keys = self.keys.get_or_insert_with(|| Keys::new(&context.resume));
        tokio::try_join!(serving, own(received, keys, context)).map(|((), ())| ())
    }
}

impl StreamingInput for Listener {
    fn can_wait(&self) -> bool {
        true
    }

    fn memory(&self) -> InputMemory {
        let (body, keyed) = (self.settings.body_max as u64, body::KEYED_MAX as u64);
        // One of any size at a time, the others up to what a keyed one may have.
        InputMemory { buffers: body + (BODIES_MAX as u64) * keyed.min(body), message: body }
    }

    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let listener = self.bind().await?;
            self.serve(listener, context).await
        })
    }
}

/// What requests hand to the owner of the collector.
enum Handed {
    Piece(Piece),
    /// A body that was not taken is counted.
    Refused(Refusal, String),
}

/// Whole lines of one request on their way to the collector.
struct Piece {
    bytes: Vec<u8>,
    /// Nanoseconds per unit of the times.
    unit: i64,
    /// Tags of the request.
    tags: Arc<Vec<(String, String)>>,
    /// What the request is known by, if it has a key: this is the whole of it then.
    key: Option<String>,
    /// Told when the lines are in a batch; closed when the client has given up.
    reply: oneshot::Sender<Taken>,
}

/// Lines that were taken.
struct Taken {
    /// The batch to be acknowledged.
    number: u64,
    /// What could not be read.
    refused: Vec<String>,
}

/// Requests whose lines are in the batch that is being filled, and what could not be read of them.
type Waiting = Vec<(oneshot::Sender<Taken>, Vec<String>)>;

/// Decodes pieces in the order they come, until no request is left.
async fn own(mut received: mpsc::Receiver<Handed>, keys: &mut Keys, context: &mut InputContext) -> Result<(), PluginError> {
    let stop = context.stop.clone();
    let (mut waiting, mut stopped) = (Waiting::new(), false);
    loop {
        tokio::select! {
            // Pieces first: what was handed over before a stop is still taken.
            biased;
            handed = received.recv() => match handed {
                None => break,
                // After the last batch nothing more is taken: the client is told to come again.
                Some(Handed::Piece(piece)) if !stopped && !piece.reply.is_closed() => {
                    take(piece, keys, &mut waiting, context).await?;
                }
                Some(Handed::Refused(refusal, reason)) if !stopped => context.collector.refuse(refusal, reason, b""),
                Some(_) => {}
            },
            () = stop.requested(), if !stopped => {
                stopped = true;
                context.collector.flush(keys.position()).await?;
                context.flushed.request();
            }
        }
        if (!stopped || !waiting.is_empty()) && (received.is_empty() || waiting.len() >= TOGETHER_MAX) {
            let number = context.collector.flush(keys.position()).await?;
            for (reply, refused) in waiting.drain(..) {
                let _ = reply.send(Taken { number, refused });
            }
        }
    }
    context.collector.flush(keys.position()).await?;
    Ok(())
}

/// Decodes a piece into one batch, with its key: a crash leaves both or neither.
async fn take(piece: Piece, keys: &mut Keys, waiting: &mut Waiting, context: &mut InputContext) -> Result<(), PluginError> {
    let collector = &mut context.collector;
    if piece.key.as_ref().is_some_and(|key| keys.has(key)) {
        // The answer waits for the batch it is in, or for a later one.
        collector.counts().read += 1;
        collector.counts().duplicate += 1;
        waiting.push((piece.reply, Vec::new()));
        return Ok(());
    }
    let mut decoder = InfluxDecoder::with_precision(piece.unit);
    if !piece.tags.is_empty() {
        let tags: Vec<(&str, &str)> = piece.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let tagged = collector.context(&tags, None, None);
        collector.set_context(tagged);
    }
    collector.take_refused();
    let fits = collector.message(&mut decoder, &piece.bytes);
    collector.set_context(weir_plugin_api::collector::Context::default());
    let refused = collector.take_refused().into_iter().map(|r| r.reason).collect();
    if let Some(key) = piece.key.filter(|_| fits) {
        keys.take(key);
    }
    waiting.push((piece.reply, refused));
    if collector.is_full() {
        collector.flush(keys.position()).await?;
    }
    Ok(())
}

/// What every request can reach.
struct Shared {
    settings: Arc<ListenerSettings>,
    handed: mpsc::Sender<Handed>,
    acknowledgements: Acknowledgements,
    /// Bodies that are not here yet when it is requested are not waited for.
    stop: Stop,
    bodies: Semaphore,
    /// The one place for a body that has to be in memory as a whole.
    large: Semaphore,
}

fn router(api: Api) -> Router<Arc<Shared>> {
    match api {
        Api::V1 => Router::new()
            .route("/write", routing::post(write))
            .route("/query", routing::get(query).post(query))
            .route("/ping", routing::get(ping).head(ping)),
        Api::V2 => Router::new()
            .route("/api/v2/write", routing::post(write))
            .route("/api/v2/ready", routing::get(ready))
            .route("/ready", routing::get(ready))
            .route("/health", routing::get(health))
            .route("/ping", routing::get(ping).head(ping)),
    }
}

async fn ping() -> Response {
    answer(StatusCode::NO_CONTENT, String::new())
}

/// Clients make their database before they write: it is there.
async fn query(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !request::allowed(&shared.settings.access, &headers) {
        return refusal(shared.settings.api, StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized access");
    }
    answer(StatusCode::OK, r#"{"results":[{"statement_id":0}]}"#.into())
}

async fn ready() -> Response {
    answer(StatusCode::OK, r#"{"status":"ready"}"#.into())
}

async fn health() -> Response {
    answer(StatusCode::OK, r#"{"name":"weir","message":"ready for writes","status":"pass"}"#.into())
}

async fn write(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let settings = &shared.settings;
    let api = settings.api;
    if !request::allowed(&settings.access, request.headers()) {
        return refusal(api, StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized access");
    }
    let parameters = match Parameters::read(settings, request.uri().query().unwrap_or_default()) {
        Ok(parameters) => parameters,
        Err(message) => return refusal(api, StatusCode::BAD_REQUEST, "invalid", &message),
    };
    let Ok(Ok(_place)) = tokio::time::timeout(settings.write_timeout, shared.bodies.acquire()).await else {
        return busy(api, "too many requests at a time");
    };
    match body::take(&shared, request, &parameters).await {
        Ok(refused) if refused.is_empty() => answer(StatusCode::NO_CONTENT, String::new()),
        Ok(refused) => {
            let message = format!("partial write: {}", refused.join("\n"));
            refusal(api, StatusCode::BAD_REQUEST, "invalid", &message)
        }
        Err(body::Failure::Busy(reason)) => busy(api, reason),
        Err(body::Failure::TooLarge) => refusal(
            api,
            StatusCode::PAYLOAD_TOO_LARGE,
            "request too large",
            "the body is larger than `max_body_size`, or than 4 MiB with a key",
        ),
        Err(body::Failure::Bad(reason)) => refusal(api, StatusCode::BAD_REQUEST, "invalid", &reason),
        Err(body::Failure::Slow) => refusal(api, StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come within `read_timeout`"),
    }
}

fn busy(api: Api, reason: &str) -> Response {
    let mut response = refusal(api, StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    response
}

/// An error as each version words it.
fn refusal(api: Api, status: StatusCode, code: &str, message: &str) -> Response {
    let message = serde_json::Value::from(message);
    answer(
        status,
        match api {
            Api::V1 => format!(r#"{{"error":{message}}}"#),
            Api::V2 => format!(r#"{{"code":"{code}","message":{message}}}"#),
        },
    )
}

fn answer(status: StatusCode, body: String) -> Response {
    let has_body = !body.is_empty();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if has_body {
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    }
    headers.insert("x-influxdb-version", header::HeaderValue::from_static(concat!("weir-", env!("CARGO_PKG_VERSION"))));
    response
}
