//! What of a configuration must never be shown: which literals hold a secret, and how a line looks without them.
//!
//! Two nets, because a broken file has no tree to ask: the values of keys that sound like secrets or that a plugin declares to be, by
//! their place in the tree, and those that sound so by how a line reads. Keys are compared with room for typing errors: `pasword = "…"` is an unknown option with a secret in it.

use std::{collections::BTreeSet, ops::Range};

use weir_plugin_api::options::{Item, Node, Place, Table, distance};

const WORDS: [&str; 10] =
    ["password", "passwd", "passphrase", "token", "secret", "credential", "credentials", "apikey", "authorization", "bearer"];
const KINDS_OF_KEY: [&str; 8] = ["api", "access", "private", "account", "shared", "signing", "encryption", "auth"];

/// Whether the values of a key are secrets, judged by its name.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let parts: Vec<&str> = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    if matches!(parts.last(), Some(&"file" | &"path")) {
        return false;
    }
    parts.iter().enumerate().any(|(i, part)| {
        matches!(*part, "pass" | "pwd")
            || WORDS.iter().any(|word| part.contains(word))
            || (part.len() > 3 && WORDS.iter().any(|word| distance(part, word) <= 1))
            || (*part == "key" && i > 0 && KINDS_OF_KEY.contains(&parts[i - 1]))
    })
}

/// Which literals of a file hold secrets.
pub struct Secrets<'a> {
    /// Text of the file.
    pub text: &'a str,
    /// Options that plugins declare as secrets.
    pub declared: &'a BTreeSet<&'static str>,
    /// Where they stand.
    pub places: &'a mut Vec<Place>,
    /// What they are.
    pub values: &'a mut Vec<String>,
}

impl Secrets<'_> {
    /// Collects those below `table`.
    pub fn collect(&mut self, table: &Table) {
        for (key, _, node) in &table.entries {
            let hide = is_secret(key) || key.ends_with("headers") || self.declared.contains(key.as_str());
            self.below(node, hide);
        }
    }

    fn below(&mut self, node: &Node, hide: bool) {
        match &node.item {
            Item::Table(table) if hide => table.entries.iter().for_each(|(_, _, node)| self.below(node, true)),
            Item::Table(table) => self.collect(table),
            Item::Array(items) => items.iter().for_each(|item| self.below(item, hide)),
            Item::Text(value) => {
                // A default in a reference may be a secret of its own.
                let literal = self.text.get(node.place.span.clone()).unwrap_or_default();
                if hide || (literal.contains("${") && literal.contains(":-")) {
                    self.places.push(node.place.clone());
                }
                if hide {
                    self.values.push(value.clone());
                }
            }
            Item::Int(_) | Item::Float(_) if hide => self.places.push(node.place.clone()),
            Item::Int(_) | Item::Float(_) | Item::Bool(_) => {}
        }
    }
}

/// Ranges of a line that read like secrets: values after a key that sounds so, user and password in an address.
/// `owner` is the line that opened the value this line may belong to, when the file could not be parsed.
pub fn by_reading(line: &str, owner: Option<&str>) -> Vec<Range<usize>> {
    if owner.is_some_and(|owner| owner.split_once('=').is_some_and(|(key, _)| is_secret(key))) {
        return std::iter::once(0..line.len()).collect();
    }
    let mut ranges = Vec::new();
    for (at, _) in line.match_indices(['=', ':']) {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let start = before
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c))
            .map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
        // `@{credential:…}` names a secret and holds none.
        if is_secret(&before[start..]) && !before[..start].ends_with("@{") {
            let value = at + 1 + (line[at + 1..].len() - line[at + 1..].trim_start().len());
            ranges.push(value..value_end(line, value));
        }
    }
    for (at, _) in line.match_indices("://") {
        let from = at + 3;
        let to = line[from..].find(['/', '"', '\'', ' ', ',', ']']).map_or(line.len(), |i| from + i);
        if let Some(user) = line[from..to].rfind('@') {
            ranges.push(from..from + user);
        }
    }
    ranges.retain(|r| !r.is_empty());
    ranges.sort_by_key(|r| r.start);
    ranges
}

fn value_end(line: &str, start: usize) -> usize {
    let rest = &line[start..];
    match rest.chars().next() {
        Some(quote @ ('"' | '\'')) if !rest.starts_with("\"\"\"") && !rest.starts_with("'''") => {
            let closing = rest[1..].match_indices(quote).map(|(i, _)| i + 1).find(|i| quote == '\'' || !rest[..*i].ends_with('\\'));
            closing.map_or(line.len(), |i| start + i + 1)
        }
        Some('[' | '{' | '"' | '\'') => line.len(),
        _ => rest.find([' ', ',', '&', '"', '\'', '}', ']', '#']).map_or(line.len(), |i| start + i),
    }
}

/// Texts short of this are not searched for in messages: they would be found in every word.
const VALUE_MIN: usize = 4;

/// `text` without any of the secret values.
pub fn redact(text: &str, values: &[String]) -> String {
    let mut out = text.to_owned();
    for value in values.iter().filter(|v| v.len() >= VALUE_MIN) {
        if out.contains(value.as_str()) {
            out = whole_words(&out, value);
        }
    }
    out
}

/// Replaces `value` where it stands by itself: a variable that holds `mqtt` must not mutilate `mqtt_consumer`.
fn whole_words(text: &str, value: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(value) {
        let before = out.chars().next_back().filter(|_| at == 0).or(rest[..at].chars().next_back());
        let after = rest[at + value.len()..].chars().next();
        let inside = (before.is_some_and(word) && value.starts_with(word)) || (after.is_some_and(word) && value.ends_with(word));
        out.push_str(&rest[..at]);
        out.push_str(if inside { value } else { "•••" });
        rest = &rest[at + value.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_sound_like_secrets_are_found_even_misspelt() {
        for key in ["password", "pasword", "sasl_password", "token", "api_key", "Authorization", "tls_key_pwd", "secret_acces_key", "tokn"]
        {
            assert!(is_secret(key), "{key}");
        }
        for key in [
            "topic",
            "tag_keys",
            "password_file",
            "namepass",
            "interval",
            "tls_key",
            "json_name_key",
            "topics",
            "username",
            "socket_listener",
        ] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn a_broken_line_shows_no_secret() {
        let hidden = |line: &str| {
            let mut out = line.to_owned();
            for range in by_reading(line, None).into_iter().rev() {
                out.replace_range(range, "•••");
            }
            out
        };
        assert_eq!(hidden("password = \"hunter2"), "password = •••");
        assert_eq!(hidden("a = {token=\"x y\", qos = 1"), "a = {token=•••, qos = 1");
        assert_eq!(hidden("url = \"http://me:pw@host/x?token=abc&q=1\""), "url = \"http://•••@host/x?token=•••&q=1\"");
        assert_eq!(hidden("qos = 3"), "qos = 3");
        assert_eq!(hidden("\u{fffc}: x"), "\u{fffc}: x");
        assert_eq!(by_reading("hunter2", Some("password = \"\"\"")), std::iter::once(0..7).collect::<Vec<_>>());
    }

    #[test]
    fn a_value_is_taken_out_of_messages_as_a_whole_word() {
        let values = ["mqtt".to_owned(), "hunter2".to_owned(), "1".to_owned()];
        assert_eq!(redact("[inputs.mqtt_consumer] got \"hunter2\", 1 mqtt", &values), "[inputs.mqtt_consumer] got \"•••\", 1 •••");
    }
}
