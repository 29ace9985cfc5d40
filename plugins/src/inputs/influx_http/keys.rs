//! Which requests with an `Idempotency-Key` were taken already.
//!
//! A key alone is no identity: clients that do not know of each other may use the same one. Key and checksum of the body together
//! are: the same request sent again is taken once, another one under the same key is another one.

use std::collections::{HashSet, VecDeque};

use weir_plugin_api::position::{KEYS_MAX, Position, Resume};

/// Bytes a key may have.
pub(super) const KEY_MAX: usize = 255;

/// The newest keyed requests of an input.
#[derive(Debug, Default)]
pub(super) struct Keys {
    known: HashSet<String>,
    order: VecDeque<String>,
    /// Those in the batch that is being filled.
    open: Vec<String>,
}

impl Keys {
    /// Those that were recorded before.
    pub(super) fn new(resume: &Resume) -> Self {
        Self { known: resume.keys.iter().cloned().collect(), order: resume.keys.iter().cloned().collect(), open: Vec::new() }
    }

    /// What a request with this key and body is known by.
    pub(super) fn identity(key: &str, body: &[u8]) -> String {
        format!("{:08x}{:x}-{key}", crc32c::crc32c(body), body.len())
    }

    /// Whether it was taken before.
    pub(super) fn has(&self, identity: &str) -> bool {
        self.known.contains(identity)
    }

    /// It is in the batch that is being filled.
    pub(super) fn take(&mut self, identity: String) {
        self.open.push(identity.clone());
        self.order.push_back(identity.clone());
        self.known.insert(identity);
        while self.order.len() > KEYS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// The position of the batch that was filled.
    pub(super) fn position(&mut self) -> Position {
        if self.open.is_empty() { Position::None } else { Position::Keys(std::mem::take(&mut self.open)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_requests_are_known_and_their_number_is_bounded() {
        let mut resume = Resume::default();
        let mut keys = Keys::new(&resume);
        let identity = |n: usize| Keys::identity(&n.to_string(), b"body");
        for n in 0..KEYS_MAX + 10 {
            keys.take(identity(n));
            resume.apply(&keys.position());
        }
        assert_eq!(keys.position(), Position::None);
        for keys in [keys, Keys::new(&resume)] {
            assert!(!keys.has(&identity(9)) && keys.has(&identity(10)) && keys.has(&identity(KEYS_MAX + 9)));
            assert_eq!(keys.order.len(), KEYS_MAX);
        }
    }

    #[test]
    fn another_body_under_the_same_key_is_another_request() {
        let mut keys = Keys::default();
        keys.take(Keys::identity("k", b"a"));
        assert!(keys.has(&Keys::identity("k", b"a")));
        assert!(!keys.has(&Keys::identity("k", b"b")));
    }
}
