//! Findings as a person reads them: file, line and column, the line itself with a caret, the message, a suggestion. No secret is shown.

use std::{fmt::Write, ops::Range};

use weir_plugin_api::options::{Diagnostic, Place, Severity};

use super::mask;

/// Characters of a line that are shown at most.
const WIDTH_MAX: usize = 120;
/// Of them, before the place in question.
const WIDTH_BEFORE: usize = 40;
const HIDDEN: &str = "•••";

/// A file that was read, or that could not be.
#[derive(Clone, Default)]
pub struct File {
    /// As it was named.
    pub name: String,
    /// What it holds; empty when it could not be read.
    pub text: String,
    /// It could not be parsed as a whole: secrets in it have to be guessed from how lines read.
    pub broken: bool,
}

impl File {
    /// Line and column of a byte, from 1, in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let start = self.line(at).start;
        let line = self.text[..start].matches('\n').count() + 1;
        (line, self.text[start..].char_indices().take_while(|(i, _)| start + i < at).count() + 1)
    }

    /// The bytes of the line that byte `at` is in, without its end.
    fn line(&self, at: usize) -> Range<usize> {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let start = self.text[..at].rfind('\n').map_or(0, |i| i + 1);
        let end = self.text[at..].find('\n').map_or(self.text.len(), |i| at + i);
        start..if self.text[start..end].ends_with('\r') { end - 1 } else { end }
    }

    /// In a broken file, the line that opened the value which the line at `start` may belong to.
    fn owner(&self, start: usize) -> Option<&str> {
        let is_opening = |line: &str| {
            let line = line.trim_start();
            line.starts_with('[')
                || line.split_once('=').is_some_and(|(key, _)| !key.contains(['"', '\'', ' ', ',']) || key.trim().len() < 60)
        };
        let own = &self.text[self.line(start)];
        if !self.broken || is_opening(own) {
            return None;
        }
        self.text[..start].lines().rev().find(|line| is_opening(line))
    }
}

/// Where a thing stands, for messages that name a second place: `weir.toml:12`.
pub fn name_place(files: &[File], place: &Place) -> String {
    files.get(place.file).map_or_else(String::new, |file| format!("{}:{}", file.name, file.position(place.span.start).0))
}

/// All findings about a configuration, with the files they are about.
#[derive(Clone, Default)]
pub struct Report {
    files: Vec<File>,
    hidden: Vec<Place>,
    diagnostics: Vec<Diagnostic>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Report {
    /// A report; `hidden` are the places of secret literals, `values` their texts and those of variables.
    pub fn new(files: Vec<File>, hidden: Vec<Place>, values: &[String], mut diagnostics: Vec<Diagnostic>) -> Self {
        for diagnostic in &mut diagnostics {
            diagnostic.message = mask::redact(&diagnostic.message, values);
            diagnostic.help = diagnostic.help.take().map(|help| mask::redact(&help, values));
        }
        diagnostics.sort_by_key(|d| (d.place.file, d.place.span.start, d.severity));
        diagnostics.dedup();
        Self { files, hidden, diagnostics }
    }

    /// Whether nothing was found.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == severity).count()
    }

    /// As text; `colour` with the terminal's control sequences.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            self.render_one(diagnostic, &Paint { colour }, &mut out);
        }
        out
    }

    /// One line per finding, for comparing: `weir.toml:3:1: unknown option …`.
    #[cfg(test)]
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.diagnostics.iter().map(|d| {
            let place = self.files.get(d.place.file).map_or_else(String::new, |file| {
                let (line, column) = file.position(d.place.span.start);
                format!("{}:{line}:{column}: ", file.name)
            });
            let help = d.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
            format!("{place}{}{help}", d.message)
        })
    }

    fn render_one(&self, diagnostic: &Diagnostic, paint: &Paint, out: &mut String) {
        let (word, hue) = match diagnostic.severity {
            Severity::Error => ("error", "31"),
            Severity::Warning => ("warning", "33"),
        };
        let _ = writeln!(out, "{}: {}", paint.in_hue(hue, word), paint.in_hue("1", &diagnostic.message));
        let Some(file) = self.files.get(diagnostic.place.file) else {
            help(out, "", diagnostic, paint);
            return;
        };
        let (line, column) = file.position(diagnostic.place.span.start);
        if file.text.is_empty() {
            let _ = writeln!(out, " {} {}", paint.in_hue("34", "-->"), file.name);
            help(out, " ", diagnostic, paint);
            return;
        }
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let bar = paint.in_hue("34", "|");
        let (shown, carets) = self.excerpt(file, diagnostic);
        let _ = writeln!(out, "{margin}{} {}:{line}:{column}", paint.in_hue("34", "-->"), file.name);
        let _ = writeln!(out, "{margin} {bar}");
        let _ = writeln!(out, "{} {bar} {}", paint.in_hue("34", &number), shown.trim_end());
        let blank = " ".repeat(carets.start);
        let _ = writeln!(out, "{margin} {bar} {blank}{}", paint.in_hue(hue, &"^".repeat(carets.len().max(1))));
        help(out, &margin, diagnostic, paint);
    }

    /// The line with secrets hidden and clipped, and which of its characters to point at.
    fn excerpt(&self, file: &File, diagnostic: &Diagnostic) -> (String, Range<usize>) {
        let line = file.line(diagnostic.place.span.start);
        let span = &diagnostic.place.span;
        let mut hidden: Vec<Range<usize>> =
            self.hidden.iter().filter(|p| p.file == diagnostic.place.file).map(|p| p.span.clone()).collect();
        if diagnostic.secret {
            hidden.push(span.clone());
        }
        let read = mask::by_reading(&file.text[line.clone()], file.owner(line.start));
        hidden.extend(read.into_iter().map(|r| r.start + line.start..r.end + line.start));
        hidden.sort_by_key(|r| (r.start, std::cmp::Reverse(r.end)));

        let mut shown: Vec<(char, Range<usize>)> = Vec::new();
        let mut at = line.start;
        while at < line.end {
            if let Some(range) = hidden.iter().find(|r| r.start <= at && at < r.end) {
                let end = hidden.iter().filter(|r| r.start < range.end).map(|r| r.end).max().unwrap_or(range.end).min(line.end);
                shown.extend(HIDDEN.chars().map(|c| (c, at..end)));
                at = end;
                continue;
            }
            let Some(c) = file.text[at..line.end].chars().next() else { break };
            shown.push((if c.is_control() { ' ' } else { c }, at..at + c.len_utf8()));
            at += c.len_utf8();
        }
        let start = shown.iter().position(|(_, r)| r.end > span.start).unwrap_or(shown.len());
        let end = shown.iter().rposition(|(_, r)| r.start < span.end).map_or(start, |i| (i + 1).max(start));
        clip(&shown, start..end)
    }
}

fn clip(shown: &[(char, Range<usize>)], carets: Range<usize>) -> (String, Range<usize>) {
    let from = if shown.len() <= WIDTH_MAX { 0 } else { carets.start.saturating_sub(WIDTH_BEFORE).min(shown.len() - WIDTH_MAX) };
    let to = (from + WIDTH_MAX).min(shown.len());
    let mut text = String::new();
    if from > 0 {
        text.push('…');
    }
    text.extend(shown[from..to].iter().map(|(c, _)| *c));
    if to < shown.len() {
        text.push('…');
    }
    let shift = |i: usize| i.min(to).saturating_sub(from) + usize::from(from > 0);
    (text, shift(carets.start)..shift(carets.end))
}

fn help(out: &mut String, margin: &str, diagnostic: &Diagnostic, paint: &Paint) {
    if let Some(help) = &diagnostic.help {
        let _ = writeln!(out, "{margin} {} {}: {help}", paint.in_hue("34", "="), paint.in_hue("1", "help"));
    }
    out.push('\n');
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn in_hue(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
