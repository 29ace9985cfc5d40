//! Variables and secrets in string values, replaced after parsing so that a value can never change the structure of a file.
//!
//! | written | becomes |
//! | --- | --- |
//! | `${VAR}` | the environment variable; unset is an error |
//! | `${VAR:-text}` | the same, or `text` when unset or empty |
//! | `${VAR:?text}` | the same; when unset or empty an error that says `text` |
//! | `@{file:/path}` | what the file holds, without the last line break |
//! | `@{credential:name}` | the same of a credential systemd passed (`$CREDENTIALS_DIRECTORY`) |
//! | `$${`, `@@{` | a literal `${`, `@{` |
//!
//! A value made this way is marked secret: no diagnostic shows it, and numbers and booleans may be given so. A `$` without a brace
//! (`$share/…`) means itself; where it looks like a variable, a warning says so.

use std::path::Path;

use weir_plugin_api::options::{Diagnostic, Diagnostics, Item, Node, Place, Severity, Table};

use super::Environment;

/// A secret larger than this is a wrong path.
const SECRET_BYTES_MAX: usize = 1 << 20;

/// Replaces everything below `table`; `text` is the file it came from, `values` gets every value put in.
pub fn substitute(table: &mut Table, text: &str, environment: &dyn Environment, diagnostics: &Diagnostics, values: &mut Vec<String>) {
    let mut walk = Walk { text, environment, diagnostics, values };
    walk.table(table);
}

struct Walk<'a> {
    text: &'a str,
    environment: &'a dyn Environment,
    diagnostics: &'a Diagnostics,
    values: &'a mut Vec<String>,
}

/// What is wrong with a reference: the message, a suggestion.
type Wrong = (String, Option<String>);

impl Walk<'_> {
    /// Whether anything below is secret.
    fn table(&mut self, table: &mut Table) -> bool {
        let mut secret = false;
        for (_, _, node) in &mut table.entries {
            secret |= self.node(node);
        }
        secret
    }

    fn node(&mut self, node: &mut Node) -> bool {
        self.warn_of_bare(node);
        let secret = match &mut node.item {
            Item::Text(text) if text.contains("${") || text.contains("@{") => match self.expand(text, &node.place) {
                Some((expanded, replaced)) => {
                    *text = expanded;
                    replaced
                }
                None => {
                    text.clear();
                    true
                }
            },
            Item::Array(items) => items.iter_mut().fold(false, |secret, item| self.node(item) | secret),
            Item::Table(table) => self.table(table),
            _ => false,
        };
        node.secret = secret;
        secret
    }

    /// Telegraf also replaces `$VAR`; here a value that is only that is most likely meant so.
    fn warn_of_bare(&self, node: &Node) {
        let Item::Text(text) = &node.item else { return };
        let Some(name) = text.strip_prefix('$').filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase())) else { return };
        if name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
            let message = "a `$` without braces is taken as it is written, not as a variable".to_owned();
            let help = Some(format!("write \"${{{name}}}\""));
            self.diagnostics.push(Diagnostic { severity: Severity::Warning, place: node.place.clone(), message, help, secret: false });
        }
    }

    /// The text with everything replaced, and whether anything was; `None` when errors were reported.
    fn expand(&mut self, text: &str, place: &Place) -> Option<(String, bool)> {
        let (mut out, mut rest, mut replaced, mut failed) = (String::new(), text, false, false);
        while let Some(at) = rest.find(['$', '@']) {
            let sign = &rest[at..=at];
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            if tail.starts_with(sign) && tail[1..].starts_with('{') {
                out.push_str(sign);
                out.push('{');
                rest = &tail[2..];
            } else if let Some(inner) = tail.strip_prefix('{') {
                let Some(end) = inner.find('}') else {
                    self.report(place, sign, inner, (format!("`{sign}{{` is not closed"), Some(literally(sign))));
                    return None;
                };
                let reference = &inner[..end];
                let value = if sign == "$" { self.variable(reference) } else { self.secret(reference) };
                match value {
                    Ok(value) => {
                        out.push_str(&value);
                        self.values.push(value);
                        replaced = true;
                    }
                    Err(wrong) => {
                        self.report(place, sign, reference, wrong);
                        failed = true;
                    }
                }
                rest = &inner[end + 1..];
            } else {
                out.push_str(sign);
                rest = tail;
            }
        }
        out.push_str(rest);
        (!failed).then_some((out, replaced))
    }

    fn variable(&self, reference: &str) -> Result<String, Wrong> {
        let end = reference.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(reference.len());
        let (name, rest) = reference.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(("`${` is not followed by the name of a variable".into(), Some(literally("$"))));
        }
        let value = self.environment.variable(name);
        if let Some(default) = rest.strip_prefix(":-") {
            return Ok(value.filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned()));
        }
        if let Some(message) = rest.strip_prefix(":?") {
            let message = if message.is_empty() { "must be set" } else { message };
            return value.filter(|v| !v.is_empty()).ok_or_else(|| (format!("environment variable `{name}`: {message}"), None));
        }
        if !rest.is_empty() {
            return Err((format!("after `${{{name}` only `}}`, `:-default}}` or `:?message}}` may follow"), Some(literally("$"))));
        }
        value.ok_or_else(|| {
            (format!("environment variable `{name}` is not set"), Some(format!("set it, or give a default: \"${{{name}:-default}}\"")))
        })
    }

    fn secret(&self, reference: &str) -> Result<String, Wrong> {
        let (kind, name) = reference.split_once(':').unwrap_or((reference, ""));
        let path = match kind {
            "file" if !name.is_empty() => name.to_owned(),
            "credential" if !name.is_empty() && !name.contains('/') && name != ".." => {
                let Some(directory) = self.environment.variable("CREDENTIALS_DIRECTORY") else {
                    let help = "systemd passes them by LoadCredential=; by hand set CREDENTIALS_DIRECTORY to where they are";
                    return Err(("no credentials were passed: $CREDENTIALS_DIRECTORY is not set".into(), Some(help.into())));
                };
                format!("{directory}/{name}")
            }
            "file" | "credential" => {
                return Err((
                    format!("`@{{{kind}:` is not followed by a name"),
                    Some("\"@{file:/path}\" or \"@{credential:name}\"".into()),
                ));
            }
            _ => {
                let help = "use \"@{file:/path}\" or \"@{credential:name}\"; write \"@@{\" for a literal \"@{\"";
                return Err(("Weir has no secret stores".into(), Some(help.into())));
            }
        };
        let bytes = self.environment.read(Path::new(&path)).map_err(|error| (format!("can't read secret {path}: {error}"), None))?;
        if bytes.len() > SECRET_BYTES_MAX {
            return Err((format!("secret {path} is larger than 1 MiB"), None));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| (format!("secret {path} is not UTF-8"), None))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }

    /// Points at the reference inside the literal where it is written there as it reads.
    fn report(&self, place: &Place, sign: &str, reference: &str, (message, help): Wrong) {
        let mut span = place.span.clone();
        let written = format!("{sign}{{{reference}");
        if let Some(at) = self.text.get(span.clone()).and_then(|literal| literal.find(&written)) {
            span = span.start + at..span.start + at + written.len() + 1;
        }
        // The reference itself is no secret; a default in it may be one.
        let secret = reference.contains(":-");
        self.diagnostics.push(Diagnostic { severity: Severity::Error, place: Place { file: place.file, span }, message, help, secret });
    }
}

fn literally(sign: &str) -> String {
    format!("write \"{sign}{sign}{{\" for a literal \"{sign}{{\"")
}
