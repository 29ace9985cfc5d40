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

use weir_plugin_api::{collector::Refusal, plugin::Stop};

use super::{
    Handed, Piece, Shared, Taken,
    keys::{KEY_MAX, Keys},
    request::Parameters,
};

/// Bytes after which a body without a key is handed on in pieces: what they hold is always allowed in one message. A smaller one is
/// taken as a whole or not at all.
const PIECE: usize = 512 * 1024;
/// Bytes of a body with a key: it is taken as a whole.
pub(super) const KEYED_MAX: usize = 4 * 1024 * 1024;
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

impl Failure {
    /// How it is counted; what the client is asked to send again is not.
    fn refusal(&self) -> Option<(Refusal, &str)> {
        match self {
            Self::Busy(_) => None,
            Self::TooLarge => Some((Refusal::Size, "a body larger than allowed")),
            Self::Bad(reason) => Some((Refusal::Frame, reason)),
            Self::Slow => Some((Refusal::Frame, "a body that did not come within `read_timeout`")),
        }
    }
}

/// Reads the body and waits until its lines are durable; returns what could not be read of it.
pub(super) async fn take(shared: &Shared, request: Request, parameters: &Parameters) -> Result<Vec<String>, Failure> {
    let taken = read(shared, request, parameters).await;
    if let Err(failure) = &taken
        && let Some((refusal, reason)) = failure.refusal()
    {
        let refused = Handed::Refused(refusal, reason.to_owned());
        let _ = tokio::time::timeout(shared.settings.write_timeout, shared.handed.send(refused)).await;
    }
    taken
}

async fn read(shared: &Shared, request: Request, parameters: &Parameters) -> Result<Vec<String>, Failure> {
    let key = key(request.headers())?;
    let body_max = if key.is_some() { shared.settings.body_max.min(KEYED_MAX) } else { shared.settings.body_max };
    let mut unpacked = unpacking(request.headers(), body_max)?;
    let mut body = request.into_body();
    let mut pieces = Pieces { shared, unit: parameters.unit, tags: Arc::new(parameters.tags.clone()), replies: Vec::new() };
    let (mut left, mut total, mut large) = (shared.settings.read_timeout, 0, None);
    while let Some(frame) = frame(&mut body, &mut left, &shared.stop).await? {
        for packed in frame.chunks(UNPACK) {
            let before = unpacked.bytes().len();
            unpacked.push(packed)?;
            total += unpacked.bytes().len() - before;
            if total > body_max {
                return Err(Failure::TooLarge);
            }
            if unpacked.bytes().len() <= PIECE {
                continue;
            }
            // What a few packed bytes grow to may be several pieces.
            while key.is_none()
                && let Some(piece) = piece_of(unpacked.bytes())
            {
                pieces.hand_over(piece, None).await?;
            }
            if unpacked.bytes().len() > PIECE && large.is_none() {
                // One such body at a time, or a few of them would take all memory.
                let place = tokio::time::timeout(shared.settings.write_timeout, shared.large.acquire()).await;
                large = Some(place.map_err(|_| Failure::Busy("too many large requests at a time"))?);
            }
        }
    }
    unpacked.finish()?;
    let last = std::mem::take(unpacked.bytes());
    if last.is_empty() && pieces.replies.is_empty() {
        return Ok(Vec::new());
    }
    let identity = key.map(|key| Keys::identity(&key, &last));
    pieces.hand_over(last, identity).await?;
    match tokio::time::timeout(shared.settings.write_timeout, durable(shared, pieces.replies)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Busy("the points could not be made durable in time")),
    }
}

/// Takes whole lines of up to [`PIECE`] bytes off the front of what is more than that; a longer line alone.
fn piece_of(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (front, behind) = bytes.split_at_checked(PIECE).filter(|(_, behind)| !behind.is_empty())?;
    let end = memchr::memrchr(b'\n', front).or_else(|| memchr::memchr(b'\n', behind).map(|at| PIECE + at))?;
    let rest = bytes.split_off(end + 1);
    Some(std::mem::replace(bytes, rest))
}

/// The request's `Idempotency-Key`.
fn key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok("") => Ok(None),
        Ok(key) if key.len() <= KEY_MAX => Ok(Some(key.to_owned())),
        _ => Err(Failure::Bad(format!("`Idempotency-Key` must be text of up to {KEY_MAX} bytes"))),
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

/// The next part of the body, within the time that is left for reading; after a stop only what is here.
async fn frame(body: &mut Body, left: &mut Duration, stop: &Stop) -> Result<Option<Bytes>, Failure> {
    loop {
        let begun = Instant::now();
        let next = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout(*left, next) => next,
            () = stop.requested() => return Err(Failure::Busy("the agent is stopping")),
        };
        let frame = match next {
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

/// What was handed over of one body.
struct Pieces<'a> {
    shared: &'a Shared,
    unit: i64,
    tags: Arc<Vec<(String, String)>>,
    replies: Vec<oneshot::Receiver<Taken>>,
}

impl Pieces<'_> {
    async fn hand_over(&mut self, bytes: Vec<u8>, key: Option<String>) -> Result<(), Failure> {
        let (reply, taken) = oneshot::channel();
        let piece = Handed::Piece(Piece { bytes, unit: self.unit, tags: Arc::clone(&self.tags), key, reply });
        match tokio::time::timeout(self.shared.settings.write_timeout, self.shared.handed.send(piece)).await {
            Ok(Ok(())) => {
                self.replies.push(taken);
                Ok(())
            }
            Ok(Err(_)) => Err(Failure::Busy("the agent is stopping")),
            Err(_) => Err(Failure::Busy("the agent can't take more now")),
        }
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
