//! What a write request says besides its lines: who sends it, its database, the unit of its times.

use axum::http::{HeaderMap, header};

use super::{Access, Api, ListenerSettings};

/// A request's parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Nanoseconds per unit of the times.
    pub unit: i64,
    /// Tags its points get.
    pub tags: Vec<(String, String)>,
}

impl Parameters {
    /// Reads the query of the address.
    pub(super) fn read(settings: &ListenerSettings, query: &str) -> Result<Self, String> {
        let pairs: Vec<(String, String)> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decode(k), decode(v))).collect();
        let get = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty());
        let v1 = settings.api == Api::V1;
        let unit = match get("precision") {
            None | Some("ns") => 1,
            Some("n") if v1 => 1,
            Some("us") => 1_000,
            Some("u" | "µ" | "µs") if v1 => 1_000,
            Some("ms") => 1_000_000,
            Some("s") => 1_000_000_000,
            Some("m") if v1 => 60_000_000_000,
            Some("h") if v1 => 3_600_000_000_000,
            Some(_) => return Err("invalid precision: expected ns, us, ms or s".into()),
        };
        let mut tags = Vec::new();
        let mut tag = |name: &Option<String>, value: Option<&str>| {
            if let (Some(name), Some(value)) = (name, value) {
                tags.push((name.clone(), value.to_owned()));
            }
        };
        tag(&settings.database_tag, if v1 { get("db") } else { get("bucket") });
        tag(&settings.policy_tag, get("rp"));
        Ok(Self { unit, tags })
    }
}

/// Whether the headers carry what is asked for.
pub(super) fn allowed(access: &Access, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes()).unwrap_or_default();
    let mut parts = given.splitn(2, |b| *b == b' ');
    let (scheme, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match access {
        Access::Open => true,
        Access::Token(token) => {
            (scheme.eq_ignore_ascii_case(b"token") || scheme.eq_ignore_ascii_case(b"bearer"))
                && same(value.trim_ascii(), token.expose().as_bytes())
        }
        Access::Basic(user, password) => {
            let expected = base64(format!("{}:{}", user.expose(), password.expose()).as_bytes());
            scheme.eq_ignore_ascii_case(b"basic") && same(value.trim_ascii(), expected.as_bytes())
        }
    }
}

/// Compares in a time that does not depend on where a difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Base 64 with padding, RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= part.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// Decodes `%41` and `+` of a query.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded() {
        assert_eq!(decode("a%20b+c%2Fd%"), "a b c/d%");
    }

    #[test]
    fn base_64_is_padded() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("user:pass", "dXNlcjpwYXNz")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
