//! The status server: `/health`, `/ready`, `/status` and `/metrics` on the control socket, and on a TCP address when one is set;
//! `/configuration` and `POST /checkpoint` on the control socket only.

mod metrics;
pub mod report;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::{TcpListener, UnixListener};
use weir_engine::spec::EngineSpec;
use weir_plugin_api::plugin::{InputHealth, Stop};

use crate::run::{CoreHandle, OutputHealth, bind::Bound, checkpoint::OnRequest, writes::SharedWrites};

/// What the server shows.
pub struct Shown {
    /// What the engine was told to do.
    pub engine: Arc<EngineSpec>,
    /// The core.
    pub core: CoreHandle,
    /// Checkpoints that are asked for.
    pub checkpoints: OnRequest,
    /// Sources of inputs.
    pub input_health: Vec<Arc<InputHealth>>,
    /// Output tasks.
    pub health: Vec<Arc<OutputHealth>>,
    /// What the store has done, and how much is written.
    pub writes: SharedWrites,
    /// Endurance of the disk, bytes; 0: not known.
    pub endurance_bytes: u64,
    /// The agent's id.
    pub bound: Bound,
    /// State directory.
    pub directory: PathBuf,
    /// Requested once everything has started.
    pub ready: Stop,
}

/// The routes.
pub fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

/// Serves on a unix socket until `end`; an old socket nobody listens on is replaced.
pub async fn serve_unix(path: PathBuf, shown: Arc<Shown>, end: Stop) {
    let listener = match bind_unix(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no control socket, `weir status` won't work");
            return;
        }
    };
    // Whoever comes next makes its own.
    let _name = SocketName(path);
    // Only here: a port may be open to more people than may know what is configured.
    let private = Router::new().route("/configuration", get(configuration)).route("/checkpoint", post(checkpoint));
    let private = private.with_state(Arc::clone(&shown));
    if let Err(error) = axum::serve(listener, router(shown).merge(private)).with_graceful_shutdown(end.requested()).await {
        tracing::warn!(%error, "control socket failed");
    }
}

/// A socket's name in the file system, removed with this, even when its server is aborted.
struct SocketName(PathBuf);

impl Drop for SocketName {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another agent answers there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Serves on a TCP address until `end`.
pub async fn serve_tcp(address: String, shown: Arc<Shown>, end: Stop) {
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "can't listen for status requests");
            return;
        }
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "status listening");
    }
    if let Err(error) = axum::serve(listener, router(shown)).with_graceful_shutdown(end.requested()).await {
        tracing::warn!(%error, "status listener failed");
    }
}

/// The core answers, so the process does its work.
async fn health(State(shown): State<Arc<Shown>>) -> Response {
    match shown.core.ledger().await {
        Some(ledger) if ledger.storage_failed.is_none() => (StatusCode::OK, "ok\n").into_response(),
        Some(ledger) => {
            let reason = ledger.storage_failed.unwrap_or_default();
            (StatusCode::SERVICE_UNAVAILABLE, format!("storage failed: {reason}\n")).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the core has ended\n").into_response(),
    }
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    if shown.ready.is_requested() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

async fn status(State(shown): State<Arc<Shown>>) -> Response {
    let Some(ledger) = shown.core.ledger().await else { return gone() };
    let report = report::Report::new(&ledger, &shown);
    match serde_json::to_string_pretty(&report) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// For `weir check --against-running`.
async fn configuration(State(shown): State<Arc<Shown>>) -> Response {
    match serde_json::to_string(&*shown.engine) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// For `weir checkpoint`.
async fn checkpoint(State(shown): State<Arc<Shown>>) -> Response {
    match shown.checkpoints.make("command").await {
        Ok(took) => (StatusCode::OK, format!("committed and checkpointed in {} ms\n", took.as_millis())).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let Some(ledger) = shown.core.ledger().await else { return gone() };
    let report = report::Report::new(&ledger, &shown);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&report)).into_response()
}

fn gone() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the core has ended\n").into_response()
}
