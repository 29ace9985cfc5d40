//! What stands before the fields: measurement and tags, parsed once per new series, and the escapes of names.

use weir_plugin_api::series::SeriesParts;

/// InfluxDB's limit on measurement and tags together.
const KEY_MAX: usize = 65_535;

/// Parses `measurement[,key=value]…` in its raw form.
pub(super) fn parse(raw: &[u8], parts: &mut SeriesParts) -> Result<(), String> {
    if raw.len() > KEY_MAX {
        return Err(format!("measurement and tags take {} bytes, the limit is {KEY_MAX}", raw.len()));
    }
    let text = std::str::from_utf8(raw).map_err(|_| "measurement and tags are not UTF-8".to_owned())?;
    let (measurement, mut rest) = split(text, b',');
    if measurement.is_empty() {
        return Err("the measurement is missing".into());
    }
    parts.measurement = unescape(measurement, b", ");
    while let Some(more) = rest {
        let (tag, after) = split(more, b',');
        let (key, value) = split(tag, b'=');
        if key.is_empty() {
            return Err("a tag has no key".into());
        }
        let value = value.ok_or_else(|| format!("tag \"{key}\" has no value"))?;
        if value.is_empty() {
            return Err(format!("the value of tag \"{key}\" is empty"));
        }
        if split(value, b'=').1.is_some() {
            return Err(format!("the value of tag \"{key}\" holds an equals sign without backslash"));
        }
        let key = unescape(key, b",= ");
        if parts.tags.iter().any(|(k, _)| *k == key) {
            return Err(format!("tag \"{key}\" stands twice"));
        }
        parts.tags.push((key, unescape(value, b",= ")));
        rest = after;
    }
    Ok(())
}

/// Splits at the first `separator` without a backslash before it.
fn split(text: &str, separator: u8) -> (&str, Option<&str>) {
    let bytes = text.as_bytes();
    let at = memchr::memchr_iter(separator, bytes).find(|at| *at == 0 || bytes[at - 1] != b'\\');
    match at {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Takes the backslashes before `special` characters out.
pub(super) fn unescape(text: &str, special: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escapes = c == '\\' && chars.peek().is_some_and(|next| next.is_ascii() && special.contains(&(*next as u8)));
        if !escapes {
            out.push(c);
        }
    }
    out
}
