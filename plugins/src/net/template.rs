//! Topics, keys and payloads with parts of the point in them, as Telegraf writes them: `site/{{ .Tag "device" }}/{{ .Name }}`.
//!
//! A small part of Go's templates: names and tags, nothing that computes. Text without braces stands for itself.

/// One part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// `{{ .Name }}`: one of the names the template was read with.
    Name(&'static str),
    /// `{{ .Tag "key" }}`.
    Tag(String),
}

/// A text with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// Reads it; `names` are those that may stand in it besides `Tag`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str, names: &[&'static str]) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, after)) = after.split_once("}}") else { return Err("`{{` without `}}`".into()) };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(part(inside.trim(), names)?);
            rest = after;
        }
        if rest.contains("}}") {
            return Err("`}}` without `{{`".into());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The text, if there is nothing to fill in.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text with every place filled in by `fill`.
    pub fn render(&self, out: &mut String, mut fill: impl FnMut(&Part, &mut String)) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                other => fill(other, out),
            }
        }
    }
}

fn part(inside: &str, names: &[&'static str]) -> Result<Part, String> {
    let expected = || {
        let names: Vec<_> = names.iter().map(|n| format!(".{n}")).collect();
        format!("expected {} or .Tag \"key\" between braces", names.join(", "))
    };
    let Some(name) = inside.strip_prefix('.') else { return Err(expected()) };
    if let Some(known) = names.iter().find(|n| **n == name) {
        return Ok(Part::Name(known));
    }
    let key = name.strip_prefix("Tag").map(str::trim).and_then(|k| k.strip_prefix('"')).and_then(|k| k.strip_suffix('"'));
    match key {
        Some(key) if !key.is_empty() && !key.contains('"') => Ok(Part::Tag(key.to_owned())),
        _ => Err(expected()),
    }
}

/// Names a point fills in: Telegraf's, and its shorter `Name`.
pub const POINT_NAMES: &[&str] = &["Name", "PluginName", "Hostname"];

/// Fills in from a point's series.
pub fn fill_from_series(series: &weir_plugin_api::Series) -> impl FnMut(&Part, &mut String) + '_ {
    |part, out| match part {
        Part::Text(text) => out.push_str(text),
        Part::Name("Hostname") => out.push_str(series.tag("host").unwrap_or_default()),
        Part::Name(_) => out.push_str(series.measurement()),
        Part::Tag(key) => out.push_str(series.tag(key).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::Series;

    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let series = Series::from_parts("cpu", &[("host", "gw1"), ("device", "a b")]);
        let mut out = String::new();
        Template::parse(text, POINT_NAMES)?.render(&mut out, fill_from_series(&series));
        Ok(out)
    }

    #[test]
    fn names_and_tags_are_filled_in() {
        assert_eq!(render("telegraf/{{ .Hostname }}/{{ .PluginName }}").unwrap(), "telegraf/gw1/cpu");
        assert_eq!(render("{{.Name}}-{{ .Tag \"device\" }}-{{ .Tag \"none\" }}-").unwrap(), "cpu-a b--");
        assert_eq!(render("plain").unwrap(), "plain");
        assert_eq!(Template::parse("plain", &[]).unwrap().fixed(), Some("plain"));
    }

    #[test]
    fn what_go_could_compute_is_refused() {
        for text in ["{{ .Name", "x }}", "{{ Name }}", "{{ .Field \"x\" }}", "{{ .Tag device }}", "{{ .Tag \"\" }}", "{{ if .Name }}"] {
            assert!(render(text).is_err(), "{text}");
        }
    }
}
