//! Configuration as a plugin reads it: a tree of values with places, typed reads that collect every error, and the table of what exists.
//!
//! A plugin declares its options once with [`crate::options!`]; the same declaration reads them, documents them in
//! `weir sample-config`, and is what the reference configuration is compared with.

use std::{cell::RefCell, collections::BTreeMap, fmt, ops::Range, rc::Rc, time::Duration};

use crate::units;

/// Where something stands in a configuration: which file (an index the caller knows) and which bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Index of the file.
    pub file: usize,
    /// Byte range in it.
    pub span: Range<usize>,
}

/// One value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value stands.
    pub place: Place,
    /// What it is.
    pub item: Item,
    /// A variable or secret was substituted into it: its text must never be shown.
    pub secret: bool,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A string.
    Text(String),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// An array, or an array of tables.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Item {
    /// What a person calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// A table: key → (place of the key, value), in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Entries in the order of the file.
    pub entries: Vec<(String, Place, Node)>,
}

impl Table {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(k, _, _)| k == key).map(|(_, _, n)| n)
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It runs, but gives up a promise or surprises.
    Warning,
}

/// One finding about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What, lower case, no full stop. Holds no value that may be secret.
    pub message: String,
    /// What to do about it: a suggestion.
    pub help: Option<String>,
    /// The text at the place must be masked when the line is shown.
    pub secret: bool,
}

/// Where findings are collected; all of a configuration are reported at once.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Rc<RefCell<Vec<Diagnostic>>>,
}

impl Diagnostics {
    /// Adds one.
    pub fn push(&self, diagnostic: Diagnostic) {
        self.list.borrow_mut().push(diagnostic);
    }

    /// Takes all, in the order of their places.
    pub fn take(&self) -> Vec<Diagnostic> {
        let mut list = std::mem::take(&mut *self.list.borrow_mut());
        list.sort_by(|a, b| a.place.file.cmp(&b.place.file).then(a.place.span.start.cmp(&b.place.span.start)));
        list
    }

    /// Number of errors so far.
    pub fn errors(&self) -> usize {
        self.list.borrow().iter().filter(|d| d.severity == Severity::Error).count()
    }
}

/// One option of a plugin, for documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its key.
    pub name: &'static str,
    /// What its values are: `string`, `integer`, `duration`, …
    pub kind: &'static str,
    /// Default as TOML; `None` for a required option, `Some("")` for one that is simply absent.
    pub default: Option<String>,
    /// One sentence or more.
    pub doc: &'static str,
}

/// One table of a configuration while it is read: typed reads, errors with places, and at the end whatever nobody asked for.
pub struct Section<'a> {
    /// How the table is called in messages: `inputs.mqtt_consumer`.
    pub path: String,
    table: &'a Table,
    place: Place,
    diagnostics: Diagnostics,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// A section over `table`, which stands at `place`.
    pub fn new(path: impl Into<String>, table: &'a Table, place: Place, diagnostics: &Diagnostics) -> Self {
        Self { path: path.into(), table, place, diagnostics: diagnostics.clone(), known: RefCell::default() }
    }

    /// Where the section's header stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where findings go.
    pub fn diagnostics(&self) -> &Diagnostics {
        &self.diagnostics
    }

    /// The raw value, marking the key as known.
    pub fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Whether the key is written.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// The value of a key, `None` when absent or wrong; wrong is reported.
    pub fn get<T: FromNode>(&self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        match T::from_node(node, self, key) {
            Ok(value) => Some(value),
            // What a reader says may quote what it read, so of a substituted value only the wanted kind is told.
            Err(_) if node.secret => {
                let message = format!("`{key}`: what was substituted can't be read as {}", T::KIND.trim_end());
                self.push(Severity::Error, node.place.clone(), message, None, true);
                None
            }
            Err(messages) => {
                // A list tells of each of its elements in a line.
                for message in messages.lines() {
                    let (node, message) = blamed(node, message);
                    self.push(Severity::Error, node.place.clone(), format!("`{key}`: {message}"), None, false);
                }
                None
            }
        }
    }

    /// The value of a key that must be there; its absence is reported at the section's header.
    pub fn require<T: FromNode>(&self, key: &'static str) -> Option<T> {
        if !self.has(key) {
            self.known.borrow_mut().push(key);
            self.error(format!("`{key}` is missing in [{}]", self.path));
            return None;
        }
        self.get(key)
    }

    /// A finding about the section as a whole.
    pub fn error(&self, message: impl Into<String>) {
        self.push(Severity::Error, self.place.clone(), message.into(), None, false);
    }

    /// A finding about the value of a key, or about the section when the key is absent.
    pub fn error_at(&self, key: &str, message: impl Into<String>) {
        self.finding(Severity::Error, key, message.into(), None);
    }

    /// The same with a suggestion.
    pub fn error_help(&self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.finding(Severity::Error, key, message.into(), Some(help.into()));
    }

    /// A warning about the value of a key.
    pub fn warn_at(&self, key: &str, message: impl Into<String>) {
        self.finding(Severity::Warning, key, message.into(), None);
    }

    fn finding(&self, severity: Severity, key: &str, message: String, help: Option<String>) {
        let node = self.table.get(key);
        let place = node.map_or_else(|| self.place.clone(), |n| n.place.clone());
        self.push(severity, place, message, help, node.is_some_and(|n| n.secret));
    }

    fn push(&self, severity: Severity, place: Place, message: String, help: Option<String>, secret: bool) {
        self.diagnostics.push(Diagnostic { severity, place, message, help, secret });
    }

    /// Sub-tables under `key`: one table or an array of tables.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let path = format!("{}.{key}", self.path);
        match &node.item {
            Item::Table(table) => vec![Section::new(path, table, node.place.clone(), &self.diagnostics)],
            Item::Array(items) => items
                .iter()
                .filter_map(|item| match &item.item {
                    Item::Table(table) => Some(Section::new(path.clone(), table, item.place.clone(), &self.diagnostics)),
                    other => {
                        self.push(
                            Severity::Error,
                            item.place.clone(),
                            format!("`{key}` takes tables, this is {}", other.type_name()),
                            None,
                            item.secret,
                        );
                        None
                    }
                })
                .collect(),
            other => {
                self.push(
                    Severity::Error,
                    node.place.clone(),
                    format!("`{key}` takes a table, this is {}", other.type_name()),
                    None,
                    node.secret,
                );
                Vec::new()
            }
        }
    }

    /// Reports every key that nobody read: `unsupported` ones (Telegraf has them, Weir does not) as that, others with the nearest known name.
    pub fn finish(self, unsupported: &[&str]) {
        let known = self.known.borrow();
        for (key, place, _) in &self.table.entries {
            if known.iter().any(|k| k == key) {
                continue;
            }
            let (message, help) = if unsupported.contains(&key.as_str()) {
                (
                    format!("`{key}` of [{}] is a Telegraf option that Weir does not support", self.path),
                    Some("remove it, or see `weir plugins` for what is supported".to_owned()),
                )
            } else {
                (
                    format!("unknown option `{key}` in [{}]", self.path),
                    nearest(key, known.iter().copied()).map(|n| format!("did you mean `{n}`?")),
                )
            };
            self.push(Severity::Error, place.clone(), message, help, false);
        }
    }
}

/// The element of an array that a message "element 2: …" is about, and the rest of the message: the caret says which one.
fn blamed<'n, 'm>(mut node: &'n Node, mut message: &'m str) -> (&'n Node, &'m str) {
    while let Item::Array(items) = &node.item {
        let Some((number, rest)) = message.strip_prefix("element ").and_then(|tail| tail.split_once(": ")) else { break };
        let Some(item) = number.parse().ok().and_then(|number: usize| items.get(number.checked_sub(1)?)) else { break };
        (node, message) = (item, rest);
    }
    (node, message)
}

/// The candidate nearest to `word`, if one is near enough to be a typo of it (Damerau-Levenshtein, at most a third of its length).
pub fn nearest<'n>(word: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates.map(|c| (distance(word, c), c)).filter(|(d, _)| *d <= limit).min().map(|(_, c)| c)
}

/// How many typing errors (a character wrong, missing, too many, two swapped) make one word of the other.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// A type an option can have.
pub trait FromNode: Sized {
    /// What its values are called in documentation.
    const KIND: &'static str;

    /// Reads it; the message of an error follows "`key`: " and names no value.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String>;

    /// The value as TOML, for samples.
    fn to_toml(&self) -> String;
}

/// A number or boolean may be given as a string that is only a variable; then the substituted text is read.
fn scalar<T: std::str::FromStr>(node: &Node) -> Option<T> {
    match &node.item {
        Item::Text(text) if node.secret => text.trim().parse().ok(),
        _ => None,
    }
}

fn expected<T>(what: &str, node: &Node) -> Result<T, String> {
    Err(format!("expected {what}, this is {}", node.item.type_name()))
}

impl FromNode for bool {
    const KIND: &'static str = "boolean";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match node.item {
            Item::Bool(v) => Ok(v),
            _ => scalar(node).map_or_else(|| expected("true or false", node), Ok),
        }
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl FromNode for $t {
            const KIND: &'static str = "integer";
            fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
                let value = match node.item {
                    Item::Int(v) => v,
                    _ => match scalar(node) { Some(v) => v, None => return expected("an integer", node) },
                };
                Self::try_from(value).map_err(|_| format!("must be between {} and {}", Self::MIN, Self::MAX))
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i64, usize);

impl FromNode for f64 {
    const KIND: &'static str = "number";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match node.item {
            Item::Float(v) => Ok(v),
            Item::Int(v) => Ok(v as f64),
            _ => scalar(node).map_or_else(|| expected("a number", node), Ok),
        }
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl FromNode for String {
    const KIND: &'static str = "string";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match &node.item {
            Item::Text(v) => Ok(v.clone()),
            _ => expected("a string", node),
        }
    }
    fn to_toml(&self) -> String {
        quote(self)
    }
}

/// `text` as a TOML basic string.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl FromNode for Duration {
    const KIND: &'static str = "duration";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match &node.item {
            Item::Text(text) => units::parse_duration(text),
            Item::Int(seconds) => u64::try_from(*seconds).map(Self::from_secs).map_err(|_| "a duration can't be negative".into()),
            Item::Float(seconds) => Self::try_from_secs_f64(*seconds).map_err(|_| "a duration can't be negative".into()),
            _ => expected("a duration such as \"10s\"", node),
        }
    }
    fn to_toml(&self) -> String {
        quote(&units::format_duration(*self))
    }
}

/// A number of bytes: `64MiB`, `10kB`, or a plain integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromNode for Size {
    const KIND: &'static str = "size";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match &node.item {
            Item::Text(text) => units::parse_size(text).map(Self),
            Item::Int(bytes) => u64::try_from(*bytes).map(Self).map_err(|_| "a size can't be negative".into()),
            _ => expected("a size such as \"64MiB\"", node),
        }
    }
    fn to_toml(&self) -> String {
        quote(&units::format_size(self.0))
    }
}

/// A password or token: never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromNode for Secret {
    const KIND: &'static str = "secret";
    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match &node.item {
            Item::Text(v) => Ok(Self(v.clone())),
            _ => expected("a string", node),
        }
    }
    fn to_toml(&self) -> String {
        "\"\"".into()
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    const KIND: &'static str = "array";
    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let Item::Array(items) = &node.item else { return expected("an array", node) };
        let (mut values, mut errors) = (Vec::with_capacity(items.len()), Vec::new());
        for (i, item) in items.iter().enumerate() {
            match T::from_node(item, section, key) {
                Ok(value) => values.push(value),
                Err(error) => errors.push(format!("element {}: {error}", i + 1)),
            }
        }
        if errors.is_empty() { Ok(values) } else { Err(errors.join("\n")) }
    }
    fn to_toml(&self) -> String {
        format!("[{}]", self.iter().map(FromNode::to_toml).collect::<Vec<_>>().join(", "))
    }
}

impl<T: FromNode> FromNode for Option<T> {
    const KIND: &'static str = T::KIND;
    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        T::from_node(node, section, key).map(Some)
    }
    fn to_toml(&self) -> String {
        self.as_ref().map_or_else(String::new, FromNode::to_toml)
    }
}

impl<T: FromNode> FromNode for BTreeMap<String, T> {
    const KIND: &'static str = "table";
    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let Item::Table(table) = &node.item else { return expected("a table", node) };
        table
            .entries
            .iter()
            .map(|(k, _, v)| T::from_node(v, section, key).map(|v| (k.clone(), v)).map_err(|e| format!("`{k}`: {e}")))
            .collect()
    }
    fn to_toml(&self) -> String {
        let inner: Vec<_> = self.iter().map(|(k, v)| format!("{} = {}", quote(k), v.to_toml())).collect();
        if inner.is_empty() { "{}".into() } else { format!("{{ {} }}", inner.join(", ")) }
    }
}

/// Declares an enumeration that is written as one of a few words.
///
/// ```
/// weir_plugin_api::choice! {
///     /// How bytes are parted.
///     pub enum Framing { /// At newlines.
///         Line = "line", /// At a fixed length.
///         Fixed = "fixed" }
/// }
/// assert_eq!(Framing::Line.as_str(), "line");
/// ```
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The word it is written as.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl $crate::options::FromNode for $name {
            const KIND: &'static str = concat!("one of ", $("`", $text, "` "),+);
            fn from_node(node: &$crate::options::Node, section: &$crate::options::Section<'_>, key: &str) -> ::std::result::Result<Self, String> {
                let text = <String as $crate::options::FromNode>::from_node(node, section, key)?;
                match text.as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => {
                        let words: &[&str] = &[$($text),+];
                        let near = $crate::options::nearest(&text, words.iter().copied());
                        Err(match near {
                            Some(near) => format!("expected one of {}; did you mean \"{near}\"?", words.join(", ")),
                            None => format!("expected one of {}", words.join(", ")),
                        })
                    }
                }
            }
            fn to_toml(&self) -> String {
                $crate::options::quote(self.as_str())
            }
        }
    };
}

/// The key of a field: a word of Rust is written `r#for` there and `for` in a configuration.
pub fn key(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Declares a plugin's options: a struct, how it is read and what documents it.
///
/// Each field has a doc comment, a type that is [`FromNode`], and either `= default` or nothing (required;
/// an `Option` without default is simply absent).
///
/// ```
/// weir_plugin_api::options! {
///     /// Options of an example.
///     pub struct Example {
///         /// Where to connect.
///         url: String,
///         /// How long to wait for an answer.
///         timeout: std::time::Duration = std::time::Duration::from_secs(5),
///         /// A file with the password.
///         password_file: Option<String> = None,
///     }
/// }
/// assert_eq!(Example::specs()[1].default.as_deref(), Some("\"5s\""));
/// ```
#[macro_export]
macro_rules! options {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[doc = $doc:literal])+ $field:ident : $type:ty $(= $default:expr)?),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name { $($(#[doc = $doc])+ pub $field: $type),* }

        impl $name {
            /// Reads them all and reports every error; `None` when a required one is missing.
            /// A wrong value is reported and its default used meanwhile, so that later checks go on.
            pub fn read(section: &$crate::options::Section<'_>) -> Option<Self> {
                $(let $field: Option<$type> = $crate::options!(@read section, $crate::options::key(stringify!($field)), $type $(, $default)?);)*
                Some(Self { $($field: $field?),* })
            }

            /// What exists, for samples and tables.
            pub fn specs() -> Vec<$crate::options::OptionSpec> {
                vec![$($crate::options::OptionSpec {
                    name: $crate::options::key(stringify!($field)),
                    kind: <$type as $crate::options::FromNode>::KIND,
                    default: $crate::options!(@default $type $(, $default)?),
                    doc: concat!($($doc),+).trim_start(),
                }),*]
            }
        }
    };
    (@read $section:ident, $key:expr, $type:ty) => { $section.require::<$type>($key) };
    (@read $section:ident, $key:expr, $type:ty, $default:expr) => {
        Some($section.get::<$type>($key).unwrap_or_else(|| $default))
    };
    (@default $type:ty) => { None };
    (@default $type:ty, $default:expr) => {{
        let default: $type = $default;
        Some($crate::options::FromNode::to_toml(&default))
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::options! {
        /// For the tests.
        #[allow(dead_code)]
        struct Example {
            /// Required.
            url: String,
            /// Has a default.
            qos: u8 = 1,
            /// Absent.
            wait: Option<Duration> = None,
        }
    }

    fn table(entries: &[(&str, Item)]) -> Table {
        Table {
            entries: entries
                .iter()
                .map(|(k, item)| ((*k).to_owned(), Place::default(), Node { place: Place::default(), item: item.clone(), secret: false }))
                .collect(),
        }
    }

    #[test]
    fn all_errors_of_a_section_are_reported_at_once() {
        let table = table(&[("qos", Item::Int(300)), ("wiat", Item::Text("1s".into())), ("client_trace", Item::Bool(true))]);
        let diagnostics = Diagnostics::default();
        let section = Section::new("inputs.example", &table, Place::default(), &diagnostics);
        assert!(Example::read(&section).is_none());
        assert_eq!(Example::specs().iter().map(|s| s.name).collect::<Vec<_>>(), ["url", "qos", "wait"]);
        section.finish(&["client_trace"]);
        let messages: Vec<_> = diagnostics.take().into_iter().map(|d| (d.message, d.help)).collect();
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert!(messages.iter().any(|(m, _)| m.contains("`qos`: must be between 0 and 255")));
        assert!(messages.iter().any(|(m, h)| m.contains("unknown option `wiat`") && h.as_deref() == Some("did you mean `wait`?")));
        assert!(messages.iter().any(|(m, _)| m.contains("does not support")));
    }

    #[test]
    fn a_wrong_element_is_pointed_at() {
        let element = |at: usize, item| Node { place: Place { file: 0, span: at..at + 1 }, item, secret: false };
        let list = Item::Array(vec![element(10, Item::Int(1)), element(20, Item::Bool(true))]);
        let table = table(&[("list", list)]);
        let diagnostics = Diagnostics::default();
        assert!(Section::new("s", &table, Place::default(), &diagnostics).get::<Vec<u8>>("list").is_none());
        let found = diagnostics.take();
        assert_eq!((found[0].place.span.start, found[0].message.as_str()), (20, "`list`: expected an integer, this is a boolean"));
    }

    #[test]
    fn a_number_may_come_from_a_variable() {
        let mut table = table(&[("url", Item::Text("x".into())), ("qos", Item::Text("2".into()))]);
        let diagnostics = Diagnostics::default();
        assert!(Section::new("s", &table, Place::default(), &diagnostics).get::<u8>("qos").is_none());
        table.entries[1].2.secret = true;
        assert_eq!(Section::new("s", &table, Place::default(), &diagnostics).get::<u8>("qos"), Some(2));
    }
}
