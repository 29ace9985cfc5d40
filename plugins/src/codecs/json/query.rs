//! `json_query`: the part of GJSON's path syntax that finds something in a document.
//!
//! Read are names joined by dots, numbers of array elements, `#` (the number of elements at the end of a path, each element in the
//! middle), `*` and `?` in names, and a backslash before a literal character. Refused at start: conditions (`#(…)`), modifiers (`@…`),
//! pipes, multipaths (`{…}`, `[…]`).

use serde_json::Value;
use weir_plugin_api::filter::Glob;

/// A path that was taken apart.
#[derive(Clone, Debug)]
pub(super) struct Query(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Name(String),
    Pattern(Glob),
    Each,
}

impl Query {
    /// Takes a path apart.
    pub(super) fn new(path: &str) -> Result<Self, String> {
        let unsupported = |what: &str| Err(format!("{what} of GJSON are not supported, only names, numbers, `#`, `*` and `?`"));
        let (mut steps, mut raw, mut plain, mut wild) = (Vec::new(), String::new(), String::new(), false);
        let mut chars = path.chars();
        loop {
            match chars.next() {
                Some('\\') => {
                    let Some(c) = chars.next() else { return Err("a backslash at the end".into()) };
                    raw.extend(['\\', c]);
                    plain.push(c);
                }
                next @ (Some('.') | None) => {
                    if raw.is_empty() {
                        return Err("an empty step".into());
                    }
                    steps.push(match (raw.as_str(), wild) {
                        ("#", _) => Step::Each,
                        (_, true) => Step::Pattern(Glob::new(&raw)),
                        _ => Step::Name(std::mem::take(&mut plain)),
                    });
                    (raw, plain, wild) = (String::new(), String::new(), false);
                    if next.is_none() {
                        return Ok(Self(steps));
                    }
                }
                Some('|') => return unsupported("pipes"),
                Some('@' | '!') if raw.is_empty() => return unsupported("modifiers"),
                Some('{' | '[') if raw.is_empty() => return unsupported("multipaths"),
                Some('(') if raw == "#" => return unsupported("conditions"),
                Some(c) => {
                    wild |= matches!(c, '*' | '?');
                    raw.push(c);
                    plain.push(c);
                }
            }
        }
    }

    /// What the path leads to; `None` when it leads nowhere.
    pub(super) fn find(&self, document: Value) -> Option<Value> {
        walk(&self.0, document)
    }
}

fn walk(steps: &[Step], value: Value) -> Option<Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match (step, value) {
        (Step::Name(name), Value::Object(mut map)) => walk(rest, map.remove(name)?),
        (Step::Pattern(glob), Value::Object(map)) => walk(rest, map.into_iter().find(|(k, _)| glob.matches(k))?.1),
        (Step::Name(index), Value::Array(mut items)) => {
            let index: usize = index.parse().ok()?;
            (index < items.len()).then(|| items.swap_remove(index)).and_then(|item| walk(rest, item))
        }
        (Step::Each, Value::Array(items)) if rest.is_empty() => Some(items.len().into()),
        (Step::Each, Value::Array(items)) => Some(items.into_iter().filter_map(|item| walk(rest, item)).collect()),
        _ => None,
    }
}
