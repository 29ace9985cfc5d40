//! Telegraf's metric filters: which series pass, and which of their fields and tags stay.
//!
//! Decided once per series and once per field name, never per point. Meaning after Telegraf's "Metric Filtering" documentation:
//! selection (`namepass`, `namedrop`, `tagpass`, `tagdrop`) looks at the point as it came; afterwards names and tags of the
//! plugin are applied, and the modifiers (`fieldinclude`, `fieldexclude`, `taginclude`, `tagexclude`) work on the outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    options::{OptionSpec, Section},
    series::SeriesParts,
};

/// A glob pattern: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, `\` before a literal character.
///
/// Kept and written as its alternatives, braces expanded: reading them back expands nothing again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Glob {
    alternatives: Vec<Vec<char>>,
}

impl From<Vec<String>> for Glob {
    fn from(alternatives: Vec<String>) -> Self {
        Self { alternatives: alternatives.iter().map(|a| a.chars().collect()).collect() }
    }
}

impl From<Glob> for Vec<String> {
    fn from(glob: Glob) -> Self {
        glob.alternatives.iter().map(|a| a.iter().collect()).collect()
    }
}

impl Glob {
    /// A pattern; braces are expanded here, once.
    pub fn new(pattern: &str) -> Self {
        Self { alternatives: expand(&pattern.chars().collect::<Vec<_>>()) }
    }

    /// Whether `text` as a whole matches.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        self.alternatives.iter().any(|pattern| matches(pattern, &text))
    }
}

/// Alternatives one pattern may expand to; past it braces are literal.
const ALTERNATIVES_MAX: usize = 1024;

fn expand(pattern: &[char]) -> Vec<Vec<char>> {
    let mut out = Vec::new();
    if expand_into(pattern, &mut out) { out } else { vec![pattern.to_vec()] }
}

/// Appends what the first braces and all after them stand for; `false` when that is too much.
fn expand_into(pattern: &[char], out: &mut Vec<Vec<char>>) -> bool {
    let Some((open, close, parts)) = unescaped(pattern, '{').and_then(|open| braces(pattern, open)) else {
        out.push(pattern.to_vec());
        return out.len() <= ALTERNATIVES_MAX;
    };
    parts.into_iter().all(|part| {
        let joined: Vec<char> = pattern[..open].iter().chain(part).chain(&pattern[close + 1..]).copied().collect();
        expand_into(&joined, out)
    })
}

/// The alternatives between the braces that open at `open`, and where they close.
fn braces(pattern: &[char], open: usize) -> Option<(usize, usize, Vec<&[char]>)> {
    let (mut depth, mut start, mut parts, mut i) = (0, open + 1, Vec::new(), open);
    while i < pattern.len() {
        match pattern[i] {
            '\\' => i += 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&pattern[start..i]);
                    return Some((open, i, parts));
                }
            }
            ',' if depth == 1 => {
                parts.push(&pattern[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        i += 1;
    }
    None
}

fn unescaped(pattern: &[char], wanted: char) -> Option<usize> {
    let mut i = 0;
    while i < pattern.len() {
        match pattern[i] {
            '\\' => i += 1,
            c if c == wanted => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

/// Iterative matching with one remembered star: linear in practice, never exponential.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match one(&pattern[p..], text[t]) {
            Some(width) => {
                p += width;
                t += 1;
            }
            None => match star {
                Some((after, from)) => {
                    p = after;
                    t = from + 1;
                    star = Some((after, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Width of the pattern element that matches `c`, if it does.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', rest @ ..] => {
            let (negated, body_at) = if matches!(rest.first(), Some('!' | '^')) { (true, 1) } else { (false, 0) };
            let close = body_at + rest[body_at..].iter().position(|x| *x == ']')?;
            let body = &rest[body_at..close];
            let (mut i, mut found) = (0, false);
            while i < body.len() {
                if i + 2 < body.len() && body[i + 1] == '-' {
                    found |= (body[i]..=body[i + 2]).contains(&c);
                    i += 3;
                } else {
                    found |= body[i] == c;
                    i += 1;
                }
            }
            (found != negated).then_some(close + 2)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

/// Several patterns, of which any may match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globs(Vec<Glob>);

impl Globs {
    /// Patterns as written.
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|p| Glob::new(p)).collect())
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|g| g.matches(text))
    }
}

/// Telegraf's filters that do not exist here: an expression language, and separators that a `*` stops at.
const UNSUPPORTED: &[&str] = &["metricpass", "namepass_separator", "namedrop_separator"];

crate::options! {
    /// The filters any input, window, alert and output takes.
    pub struct FilterOptions {
        /// Only measurements that match one of these patterns pass.
        namepass: Vec<String> = Vec::new(),
        /// Measurements that match one of these patterns are dropped.
        namedrop: Vec<String> = Vec::new(),
        /// Only fields that match stay.
        fieldinclude: Vec<String> = Vec::new(),
        /// Fields that match are removed.
        fieldexclude: Vec<String> = Vec::new(),
        /// Only points with a tag (key) whose value matches one of the patterns pass.
        tagpass: BTreeMap<String, Vec<String>> = BTreeMap::new(),
        /// Points with a tag (key) whose value matches one of the patterns are dropped.
        tagdrop: BTreeMap<String, Vec<String>> = BTreeMap::new(),
        /// Only tags whose key matches stay.
        taginclude: Vec<String> = Vec::new(),
        /// Tags whose key matches are removed.
        tagexclude: Vec<String> = Vec::new(),
    }
}

/// The filters of one plugin, window, alert or output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    name_pass: Globs,
    name_drop: Globs,
    field_include: Globs,
    field_exclude: Globs,
    tag_pass: Vec<(String, Globs)>,
    tag_drop: Vec<(String, Globs)>,
    tag_include: Globs,
    tag_exclude: Globs,
}

impl Filter {
    /// Reads the filter options of a section; Telegraf's old names `fieldpass` and `fielddrop` are read too.
    pub fn read(section: &Section<'_>) -> Self {
        for key in UNSUPPORTED {
            if section.node(key).is_some() {
                section.error_at(key, format!("`{key}` of [{}] is a Telegraf option that Weir does not support", section.path));
            }
        }
        let Some(mut options) = FilterOptions::read(section) else { return Self::default() };
        options.fieldinclude.extend(section.get::<Vec<String>>("fieldpass").unwrap_or_default());
        options.fieldexclude.extend(section.get::<Vec<String>>("fielddrop").unwrap_or_default());
        Self::new(&options)
    }

    /// Compiles the options.
    pub fn new(options: &FilterOptions) -> Self {
        let tags = |map: &BTreeMap<String, Vec<String>>| map.iter().map(|(k, v)| (k.clone(), Globs::new(v))).collect();
        Self {
            name_pass: Globs::new(&options.namepass),
            name_drop: Globs::new(&options.namedrop),
            field_include: Globs::new(&options.fieldinclude),
            field_exclude: Globs::new(&options.fieldexclude),
            tag_pass: tags(&options.tagpass),
            tag_drop: tags(&options.tagdrop),
            tag_include: Globs::new(&options.taginclude),
            tag_exclude: Globs::new(&options.tagexclude),
        }
    }

    /// What exists, for samples.
    pub fn specs() -> Vec<OptionSpec> {
        FilterOptions::specs()
    }

    /// Whether it does nothing.
    pub fn is_noop(&self) -> bool {
        *self == Self::default()
    }

    /// Whether points of a series with this measurement and these tags pass.
    pub fn selects<'t>(&self, measurement: &str, tags: impl Iterator<Item = (&'t str, &'t str)> + Clone) -> bool {
        if !self.name_pass.is_empty() && !self.name_pass.matches(measurement) {
            return false;
        }
        if self.name_drop.matches(measurement) {
            return false;
        }
        let any =
            |patterns: &[(String, Globs)]| patterns.iter().any(|(key, globs)| tags.clone().any(|(k, v)| k == key && globs.matches(v)));
        if !self.tag_pass.is_empty() && !any(&self.tag_pass) {
            return false;
        }
        !any(&self.tag_drop)
    }

    /// Whether a field of this name stays.
    pub fn keeps_field(&self, name: &str) -> bool {
        (self.field_include.is_empty() || self.field_include.matches(name)) && !self.field_exclude.matches(name)
    }

    /// Whether a tag of this key stays.
    pub fn keeps_tag(&self, key: &str) -> bool {
        (self.tag_include.is_empty() || self.tag_include.matches(key)) && !self.tag_exclude.matches(key)
    }

    /// Whether any tag can be removed.
    pub fn changes_tags(&self) -> bool {
        !self.tag_include.is_empty() || !self.tag_exclude.is_empty()
    }

    /// Whether any field can be removed.
    pub fn changes_fields(&self) -> bool {
        !self.field_include.is_empty() || !self.field_exclude.is_empty()
    }

    /// Removes the tags that do not stay.
    pub fn modify_tags(&self, parts: &mut SeriesParts) {
        if self.changes_tags() {
            parts.tags.retain(|(k, _)| self.keeps_tag(k));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_telegraf_documents_them() {
        for (pattern, text, expected) in [
            ("cpu*", "cpu0", true),
            ("cpu*", "mem", false),
            ("*", "", true),
            ("c?u", "cpu", true),
            ("{eth,wlan}[0-9]", "wlan1", true),
            ("{eth,wlan}[0-9]", "wlanx", false),
            ("[!a]*", "abc", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*temp*max", "my_temp_is_max", true),
            ("[", "[", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    fn options() -> FilterOptions {
        FilterOptions {
            namepass: vec![],
            namedrop: vec![],
            fieldinclude: vec![],
            fieldexclude: vec![],
            tagpass: BTreeMap::new(),
            tagdrop: BTreeMap::new(),
            taginclude: vec![],
            tagexclude: vec![],
        }
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn telegrafs_documented_examples_pass_and_drop_as_documented() {
        let tags = |key: &str, values: &[&str]| BTreeMap::from([(key.to_owned(), words(values))]);
        let rest = |all: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> { all.iter().flat_map(|(k, v)| tags(k, v)).collect() };
        type Row<'t> = (FilterOptions, &'t str, &'t [(&'t str, &'t str)], bool);
        let rows: &[Row<'_>] = &[
            (FilterOptions { tagdrop: tags("cpu", &["cpu6", "cpu7"]), ..options() }, "cpu", &[("cpu", "cpu6")], false),
            (FilterOptions { tagdrop: tags("cpu", &["cpu6", "cpu7"]), ..options() }, "cpu", &[("cpu", "cpu5")], true),
            (FilterOptions { tagdrop: tags("cpu", &["cpu6", "cpu7"]), ..options() }, "cpu", &[], true),
            (
                FilterOptions { tagpass: rest(&[("fstype", &["ext4", "xfs"]), ("path", &["/opt", "/home*"])]), ..options() },
                "disk",
                &[("fstype", "ext4")],
                true,
            ),
            (
                FilterOptions { tagpass: rest(&[("fstype", &["ext4", "xfs"]), ("path", &["/opt", "/home*"])]), ..options() },
                "disk",
                &[("fstype", "nfs"), ("path", "/home/me/x")],
                true,
            ),
            (
                FilterOptions { tagpass: rest(&[("fstype", &["ext4", "xfs"]), ("path", &["/opt", "/home*"])]), ..options() },
                "disk",
                &[("fstype", "nfs"), ("path", "/")],
                false,
            ),
            (FilterOptions { tagpass: tags("fstype", &["ext4"]), ..options() }, "disk", &[], false),
            (FilterOptions { tagpass: tags("a", &["*"]), tagdrop: tags("b", &["1"]), ..options() }, "m", &[("a", "x"), ("b", "1")], false),
            (FilterOptions { tagpass: tags("a", &["*"]), tagdrop: tags("b", &["1"]), ..options() }, "m", &[("a", "x"), ("b", "2")], true),
            (FilterOptions { namepass: words(&["rest_client_*"]), ..options() }, "rest_client_latency", &[], true),
            (FilterOptions { namepass: words(&["aerospike*"]), namedrop: words(&["*_total"]), ..options() }, "aerospike_total", &[], false),
            (FilterOptions { namepass: words(&["a.*"]), ..options() }, "a.b.c", &[], true),
            (FilterOptions { namepass: words(&["CPU"]), ..options() }, "cpu", &[], false),
        ];
        for (options, name, tags, expected) in rows {
            assert_eq!(Filter::new(options).selects(name, tags.iter().copied()), *expected, "{options:?} on {name} {tags:?}");
        }
    }

    #[test]
    fn what_is_both_included_and_excluded_goes() {
        let filter = Filter::new(&FilterOptions {
            fieldinclude: words(&["usage_*"]),
            fieldexclude: words(&["*_guest"]),
            taginclude: words(&["ho?t", "cpu"]),
            tagexclude: words(&["c*"]),
            ..options()
        });
        for (field, kept) in [("usage_user", true), ("usage_guest", false), ("time_user", false)] {
            assert_eq!(filter.keeps_field(field), kept, "{field}");
        }
        for (tag, kept) in [("host", true), ("cpu", false), ("site", false)] {
            assert_eq!(filter.keeps_tag(tag), kept, "{tag}");
        }
    }

    #[test]
    fn an_expression_filter_is_refused_by_name() {
        use crate::options::{Diagnostics, Item, Node, Place, Table};
        let node = Node { place: Place::default(), item: Item::Text("true".into()), secret: false };
        let table = Table { entries: vec![("metricpass".into(), Place::default(), node)] };
        let diagnostics = Diagnostics::default();
        let section = Section::new("inputs.test", &table, Place::default(), &diagnostics);
        Filter::read(&section);
        section.finish(&[]);
        let said = diagnostics.take();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].message.contains("does not support"), "{said:?}");
    }

    #[test]
    fn too_many_alternatives_are_taken_literally_and_at_once() {
        assert!(!Glob::new(&"{a,b}".repeat(40)).matches("a"));
        assert!(Glob::new(&"{a,b}".repeat(10)).matches("abababbbaa"));
    }

    proptest::proptest! {
        #[test]
        fn hostile_patterns_never_panic(pattern in "[a{},*?\\[\\]!^\\\\-]{0,40}", text in "\\PC{0,20}") {
            Glob::new(&pattern).matches(&text);
        }

        #[test]
        fn a_word_matches_itself_and_a_star_everything(text in "[a-zA-Z0-9_./-]{0,20}") {
            proptest::prop_assert!(Glob::new(&text).matches(&text));
            proptest::prop_assert!(Glob::new("*").matches(&text));
        }
    }

    #[test]
    fn tagpass_asks_for_any_and_tagdrop_refuses_any() {
        let filter = Filter::new(&FilterOptions {
            namepass: vec!["cpu".into()],
            namedrop: vec![],
            fieldinclude: vec!["usage_*".into()],
            fieldexclude: vec!["usage_guest".into()],
            tagpass: [("cpu".to_owned(), vec!["cpu0".to_owned(), "cpu1".to_owned()])].into(),
            tagdrop: [("site".to_owned(), vec!["lab*".to_owned()])].into(),
            taginclude: vec![],
            tagexclude: vec!["host".into()],
        });
        assert!(filter.selects("cpu", [("cpu", "cpu0")].into_iter()));
        assert!(!filter.selects("cpu", [("cpu", "cpu2")].into_iter()));
        assert!(!filter.selects("cpu", [("cpu", "cpu0"), ("site", "lab3")].into_iter()));
        assert!(!filter.selects("mem", [("cpu", "cpu0")].into_iter()));
        assert!(filter.keeps_field("usage_idle") && !filter.keeps_field("usage_guest") && !filter.keeps_field("time"));
        assert!(!filter.keeps_tag("host"));
    }
}
