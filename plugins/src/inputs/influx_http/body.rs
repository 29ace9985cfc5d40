//! A request's body: read within bounds, unpacked, handed on in pieces of whole lines, and waited for until it is durable.

use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderMap, header},
};
use flate2::write::MultiGzDecoder;
use tokio::sync::oneshot;

use super::{Piece, Shared, Taken, request::Parameters};

/// Bytes after which a body is handed on in pieces. A smaller one is taken as a whole or not at all.
const PIECE: usize = 1024 * 1024;
/// Packed bytes that are unpacked at once: what they can grow to stays small.
const UNPACK: usize = 4 * 1024;

/// Why a body was not taken.
pub(super) enum Failure {
    /// Nothing can be taken now.
    Busy(&'static str),
    /// Larger than it may be.
    TooLarge,
    /// Broken.
    Bad(String),
    /// It did not come in time.
    Slow,
}

enum Unpacked {
    Plain(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl Unpacked {
    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(decoder) => decoder.get_mut(),
        }
    }

    fn push(&mut self, packed: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Plain(bytes) => bytes.extend_from_slice(packed),
            Self::Gzip(decoder) => decoder.write_all(packed).map_err(|_| Failure::Bad("the body is not gzip".into()))?,
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish().map_err(|_| Failure::Bad("the body is cut short".into())),
        }
    }
}

/// Reads the body and waits until its lines are durable; returns what could not be read of it.
pub(super) async fn take(shared: &Shared, request: Request, parameters: &Parameters) -> Result<Vec<String>, Failure> {
    let body_max = shared.settings.body_max;
    let mut unpacked = unpacking(request.headers(), body_max)?;
    let mut body = request.into_body();
    let tags = Arc::new(parameters.tags.clone());
    let mut replies = Vec::new();
    let (mut left, mut total) = (shared.settings.read_timeout, 0);
    while let Some(frame) = frame(&mut body, &mut left).await? {
        for packed in frame.chunks(UNPACK) {
            let before = unpacked.bytes().len();
            unpacked.push(packed)?;
            total += unpacked.bytes().len() - before;
            if total > body_max {
                return Err(Failure::TooLarge);
            }
            if unpacked.bytes().len() > PIECE
                && let Some(end) = unpacked.bytes().iter().rposition(|b| *b == b'\n')
            {
                let rest = unpacked.bytes().split_off(end + 1);
                let piece = std::mem::replace(unpacked.bytes(), rest);
                replies.push(hand_over(shared, piece, parameters.unit, &tags).await?);
            }
        }
    }
    unpacked.finish()?;
    let last = std::mem::take(unpacked.bytes());
    if last.is_empty() && replies.is_empty() {
        return Ok(Vec::new());
    }
    replies.push(hand_over(shared, last, parameters.unit, &tags).await?);
    match tokio::time::timeout(shared.settings.write_timeout, durable(shared, replies)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Busy("the points could not be made durable in time")),
    }
}

/// What unpacks the body, with room for it as far as it says how large it is.
fn unpacking(headers: &HeaderMap, body_max: usize) -> Result<Unpacked, Failure> {
    let header = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let length = header(header::CONTENT_LENGTH).and_then(|v| v.parse::<usize>().ok()).unwrap_or(0);
    if length > body_max {
        return Err(Failure::TooLarge);
    }
    let room = Vec::with_capacity(length.min(PIECE) + 1);
    match header(header::CONTENT_ENCODING).unwrap_or("identity") {
        "gzip" => Ok(Unpacked::Gzip(Box::new(MultiGzDecoder::new(room)))),
        "identity" | "" => Ok(Unpacked::Plain(room)),
        _ => Err(Failure::Bad("the body's encoding is not supported, use gzip or none".into())),
    }
}

/// The next part of the body, within the time that is left for reading.
async fn frame(body: &mut Body, left: &mut Duration) -> Result<Option<Bytes>, Failure> {
    loop {
        let begun = Instant::now();
        let next = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = match tokio::time::timeout(*left, next).await {
            Err(_) => return Err(Failure::Slow),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Failure::Bad("the body broke off".into())),
            Ok(Some(Ok(frame))) => frame,
        };
        *left = left.saturating_sub(begun.elapsed());
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

async fn hand_over(
    shared: &Shared,
    bytes: Vec<u8>,
    unit: i64,
    tags: &Arc<Vec<(String, String)>>,
) -> Result<oneshot::Receiver<Taken>, Failure> {
    let (reply, taken) = oneshot::channel();
    let piece = Piece { bytes, unit, tags: Arc::clone(tags), reply };
    match tokio::time::timeout(shared.settings.write_timeout, shared.pieces.send(piece)).await {
        Ok(Ok(())) => Ok(taken),
        Ok(Err(_)) => Err(Failure::Busy("the agent is stopping")),
        Err(_) => Err(Failure::Busy("the agent can't take more now")),
    }
}

async fn durable(shared: &Shared, replies: Vec<oneshot::Receiver<Taken>>) -> Result<Vec<String>, Failure> {
    let (mut refused, mut number) = (Vec::new(), 0);
    let pieces = replies.len();
    for (at, reply) in replies.into_iter().enumerate() {
        let taken = reply.await.map_err(|_| Failure::Busy("the agent is stopping"))?;
        number = taken.number;
        // Lines are counted within a piece.
        refused.extend(taken.refused.into_iter().map(|why| if pieces > 1 { format!("part {}, {why}", at + 1) } else { why }));
    }
    shared.acknowledgements.reach(number).await.map_err(|_| Failure::Busy("the agent is stopping"))?;
    Ok(refused)
}
