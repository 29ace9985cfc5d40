//! The connections of the listener: how many there are, how long they may take for a request's head, and TLS.
//!
//! Apart from the requests, and in place of axum's own server, because that one waits for ever for a client that is slow or silent.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use weir_plugin_api::plugin::Stop;

use super::{ListenerSettings, patience::Patience};
use crate::descriptors::room;

/// Bytes of a request's head, and of what is read ahead of its body.
const HEAD_MAX: usize = 64 * 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After a stop, how long an answer that was given has for leaving, and a request that is nearly here for coming.
const FAREWELL: Duration = Duration::from_millis(50);
/// A log line about refused connections at most this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Serves until a stop is requested and the requests that were begun are answered.
pub(super) async fn serve(listener: TcpListener, router: Router, settings: Arc<ListenerSettings>, stop: Stop, input: &str) {
    let mut connections = JoinSet::new();
    let stopped = stop.clone();
    tokio::select! {
        () = stopped.requested() => {}
        _ = accept(listener, &router, &settings, &stop, input, &mut connections) => {}
    }
    drop(router);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: TcpListener,
    router: &Router,
    settings: &Arc<ListenerSettings>,
    stop: &Stop,
    input: &str,
    connections: &mut JoinSet<()>,
) -> Infallible {
    let most = match settings.connections_max {
        0 => Semaphore::MAX_PERMITS,
        most => most,
    };
    let places = Arc::new(Semaphore::new(most));
    let (mut said, mut refused, mut failed) = (None::<Instant>, 0_u64, None::<Instant>);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = match room() {
            Ok(()) => listener.accept().await,
            Err(none) => Err(none),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the peer is gone already: the others go on.
                if failed.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!(%input, %error, "cannot accept a connection");
                    failed = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            refused += 1;
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                tracing::warn!(%input, %peer, limit = settings.connections_max, refused, "refused connections, there are too many");
                (said, refused) = (Some(Instant::now()), 0);
            }
            continue;
        };
        let (router, settings, stop) = (router.clone(), Arc::clone(settings), stop.clone());
        connections.spawn(async move {
            if let Err(reason) = connection(stream, router, &settings, stop).await {
                tracing::debug!(%peer, reason, "connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Router, settings: &ListenerSettings, stop: Stop) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = &settings.tls else { return requests(stream, router, settings, stop).await };
    let shaken = tokio::select! {
        () = stop.requested() => return Ok(()),
        shaken = tokio::time::timeout(settings.read_timeout, acceptor.accept(stream)) => shaken,
    };
    let stream = shaken.map_err(|_| "no TLS handshake within `read_timeout`".to_owned())?.map_err(|e| e.to_string())?;
    requests(stream, router, settings, stop).await
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    settings: &ListenerSettings,
    stop: Stop,
) -> Result<(), String> {
    let (answering, mut idle) = watch::channel(false);
    let service = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        let answering = Answering::begin(&answering);
        let answer = service.call(request);
        async move {
            let answer = answer.await;
            drop(answering);
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.read_timeout)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Patience::new(stream, settings.write_timeout)), service);
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.requested() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                // A client that has begun a request and does not go on has nothing here yet.
                () = quiet(&mut idle) => return Err("the agent is stopping".to_owned()),
            }
        }
    };
    served.map_err(|e| e.to_string())
}

/// Until no request is being answered, and none has come meanwhile.
async fn quiet(answering: &mut watch::Receiver<bool>) {
    loop {
        // It can't be gone: the connection that serves holds it.
        let _ = answering.wait_for(|answering| !answering).await;
        tokio::time::sleep(FAREWELL).await;
        if !*answering.borrow() {
            return;
        }
    }
}

/// While it is there, a request of the connection is being answered.
struct Answering(watch::Sender<bool>);

impl Answering {
    fn begin(answering: &watch::Sender<bool>) -> Self {
        answering.send_replace(true);
        Self(answering.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
