//! Telegraf's metric filters: which series pass, and which of their fields and tags stay.
//!
//! Decided once per series and once per field name, never per point. Meaning after Telegraf's "Metric Filtering" documentation:
//! selection (`namepass`, `namedrop`, `tagpass`, `tagdrop`) looks at the point as it came; afterwards names and tags of the
//! plugin are applied, and the modifiers (`fieldinclude`, `fieldexclude`, `taginclude`, `tagexclude`) work on the outcome.

use std::collections::BTreeMap;

use crate::{
    options::{OptionSpec, Section},
    series::SeriesParts,
};

/// A glob pattern: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, `\` before a literal character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    alternatives: Vec<Vec<char>>,
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
    let Some(open) = unescaped(pattern, '{') else { return vec![pattern.to_vec()] };
    let (mut depth, mut start, mut parts, mut close) = (0, open + 1, Vec::new(), None);
    let mut i = open;
    while i < pattern.len() {
        match pattern[i] {
            '\\' => i += 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&pattern[start..i]);
                    close = Some(i);
                    break;
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
    let Some(close) = close else { return vec![pattern.to_vec()] };
    let mut out = Vec::new();
    for part in parts {
        let joined: Vec<char> = pattern[..open].iter().chain(part).chain(&pattern[close + 1..]).copied().collect();
        out.extend(expand(&joined));
        if out.len() > ALTERNATIVES_MAX {
            return vec![pattern.to_vec()];
        }
    }
    out
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
