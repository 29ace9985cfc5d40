//! Which lines a server means: by number, by the text it quotes, or by what it says about those it dropped.

use weir_plugin_api::{Points, Value};

use super::{
    lines::{LineOptions, Lines},
    verdict::{Named, Place, type_conflict},
};

/// The lines of `part` that are named, with what is wrong with each; one that is not found is left out.
pub(super) fn lines(named: &[Named], part: &[u32], lines: &Lines) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = Vec::new();
    for Named { place, reason } in named {
        let line = match place {
            Place::Number(_) if lines.broken_numbers => None,
            Place::Number(number) => number.checked_sub(1).and_then(|at| part.get(at)).copied(),
            Place::Text(text) => find(text.trim().as_bytes(), part, lines, &found),
        };
        if let Some(line) = line
            && !found.iter().any(|(f, _)| *f == line)
        {
            found.push((line, reason.clone()));
        }
    }
    found
}

/// The first line that is `text`, else that begins with it, and was not found before.
fn find(text: &[u8], part: &[u32], lines: &Lines, found: &[(u32, String)]) -> Option<u32> {
    let free = |line: &&u32| !found.iter().any(|(f, _)| f == *line);
    let whole = |line: &&u32| lines.line(**line as usize).trim_ascii() == text;
    let begins = |line: &&u32| lines.line(**line as usize).starts_with(text) && !text.is_empty();
    part.iter().filter(free).find(whole).or_else(|| part.iter().filter(free).find(begins)).copied()
}

/// The `dropped` lines of `part` that `reason` is about, if it says enough to tell.
pub(super) fn dropped(
    part: &[u32],
    lines: &Lines,
    points: &Points,
    dropped: usize,
    reason: &str,
    options: LineOptions,
) -> Option<Vec<u32>> {
    let views: Vec<_> = points.iter().collect();
    let view = |line: u32| views[lines.point(line as usize)];
    if reason.contains("beyond retention policy") {
        let mut oldest = part.to_vec();
        oldest.sort_by_key(|line| view(*line).time());
        oldest.truncate(dropped);
        oldest.sort_unstable();
        return Some(oldest);
    }
    let (measurement, field, kind) = type_conflict(reason)?;
    let meant = |line: &u32| {
        let point = view(*line);
        point.series().measurement() == measurement && point.field(field).is_some_and(|value| type_name(value, options) == kind)
    };
    let blamed: Vec<u32> = part.iter().copied().filter(meant).collect();
    (blamed.len() == dropped).then_some(blamed)
}

/// What InfluxDB calls the type a value is written as.
fn type_name(value: Value<'_>, options: LineOptions) -> &'static str {
    match value {
        Value::Float(_) => "float",
        Value::Uint(_) if options.unsigned => "unsigned",
        Value::Int(_) | Value::Uint(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Text(_) => "string",
    }
}
