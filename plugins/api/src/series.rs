//! A series: a measurement and its sorted tags. Made once per series, never per point.

use std::fmt;

/// The parts of a series while it is put together: raw, unsorted, not yet filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesParts {
    /// The measurement.
    pub measurement: String,
    /// Tags in any order; a later one of the same key wins.
    pub tags: Vec<(String, String)>,
}

impl SeriesParts {
    /// Sets a tag, replacing one of the same key.
    pub fn tag(&mut self, key: &str, value: &str) {
        match self.tags.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => value.clone_into(v),
            None => self.tags.push((key.to_owned(), value.to_owned())),
        }
    }

    /// Sets a tag unless it is there already (global tags, `host`).
    pub fn default_tag(&mut self, key: &str, value: &str) {
        if !self.tags.iter().any(|(k, _)| k == key) {
            self.tags.push((key.to_owned(), value.to_owned()));
        }
    }
}

/// A finished series: immutable, tags sorted by key, empty tag values dropped (as InfluxDB and Telegraf do), and such of backslashes only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Measurement, then key, value, key, value … without separators.
    text: Box<str>,
    /// End of each part in `text`.
    ends: Box<[u32]>,
    /// Line-protocol form `measurement,key=value…`, escaped: what precedes the fields on a line.
    line: Box<str>,
}

impl Series {
    /// Sorts and freezes `parts`.
    pub fn new(parts: &SeriesParts) -> Self {
        let mut tags: Vec<(&str, &str)> = Vec::with_capacity(parts.tags.len());
        for (key, value) in &parts.tags {
            tags.retain(|(k, _)| k != key);
            if !is_nothing(key) && !is_nothing(value) {
                tags.push((key, value));
            }
        }
        tags.sort_unstable();
        let mut text = String::with_capacity(parts.measurement.len() + tags.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>());
        let mut ends = Vec::with_capacity(1 + 2 * tags.len());
        let mut line = String::with_capacity(text.capacity() + 2 * tags.len() + 4);
        text.push_str(&parts.measurement);
        ends.push(text.len() as u32);
        escape_measurement(&parts.measurement, &mut line);
        for (key, value) in tags {
            text.push_str(key);
            ends.push(text.len() as u32);
            text.push_str(value);
            ends.push(text.len() as u32);
            line.push(',');
            escape_key(key, &mut line);
            line.push('=');
            escape_key(value, &mut line);
        }
        Self { text: text.into(), ends: ends.into(), line: line.into() }
    }

    /// A series of these parts.
    pub fn from_parts(measurement: &str, tags: &[(&str, &str)]) -> Self {
        Self::new(&SeriesParts {
            measurement: measurement.to_owned(),
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        })
    }

    fn part(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.text[start..self.ends[index] as usize]
    }

    /// The measurement.
    pub fn measurement(&self) -> &str {
        self.part(0)
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        (0..(self.ends.len() - 1) / 2).map(|i| (self.part(1 + 2 * i), self.part(2 + 2 * i)))
    }

    /// The value of one tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The escaped line-protocol form up to the space before the fields. It is unambiguous, so it serves as the series' key too.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// A copy to change.
    pub fn to_parts(&self) -> SeriesParts {
        SeriesParts { measurement: self.measurement().to_owned(), tags: self.tags().map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }

    /// Bytes of memory it holds, for the bounds.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.ends.len() * 4 + self.line.len()
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Whether nothing of it would be written: backslashes at the end go, see [`escape_key`].
fn is_nothing(text: &str) -> bool {
    text.bytes().all(|b| b == b'\\')
}

/// Escapes a measurement for line protocol: comma and space; control characters become `\n`, `\r`, `\t` in letters.
pub fn escape_measurement(text: &str, out: &mut String) {
    escape(text, &[',', ' '], out);
}

/// Escapes a tag key, tag value or field key for line protocol: comma, equals sign and space.
pub fn escape_key(text: &str, out: &mut String) {
    escape(text, &[',', '=', ' '], out);
}

/// A backslash that would swallow the separator behind it (the last character) or read as an escape is doubled by nobody in
/// this format: InfluxDB keeps a backslash before an ordinary character as it is, so only a trailing one must go, as in Telegraf.
fn escape(text: &str, special: &[char], out: &mut String) {
    for c in text.trim_end_matches('\\').chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if special.contains(&c) => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted_deduplicated_and_escaped() {
        let series = Series::from_parts("my room", &[("z", "1"), ("a b", "x=y"), ("z", "2"), ("gone", "")]);
        assert_eq!(series.line(), "my\\ room,a\\ b=x\\=y,z=2");
        assert_eq!(series.tag("z"), Some("2"));
        assert_eq!(series.tags().collect::<Vec<_>>(), [("a b", "x=y"), ("z", "2")]);
        assert_eq!(series.measurement(), "my room");
    }

    #[test]
    fn a_tag_of_nothing_but_backslashes_is_left_out_rather_than_make_a_line_nobody_reads() {
        let series = Series::from_parts("m", &[("a", "\\"), ("\\\\", "x"), ("b", "x\\")]);
        assert_eq!(series.line(), "m,b=x");
        assert_eq!(series.tags().collect::<Vec<_>>(), [("b", "x\\")]);
    }
}
