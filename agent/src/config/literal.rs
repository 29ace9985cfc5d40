//! From a place in a string's value back to the place in the file where it is written: escapes make the two differ.

use std::ops::Range;

/// The bytes of `literal` (a TOML string with its quotes) that give bytes `at` of its value; the whole literal when that can't be told.
pub fn within(literal: &str, at: Range<usize>) -> Range<usize> {
    let whole = 0..literal.len();
    let (quotes, escapes) = match literal {
        l if l.starts_with("\"\"\"") => (3, true),
        l if l.starts_with("'''") => (3, false),
        l if l.starts_with('"') => (1, true),
        l if l.starts_with('\'') => (1, false),
        _ => return whole,
    };
    let Some(end) = literal.len().checked_sub(quotes).filter(|end| *end >= quotes) else { return whole };
    let mut position = quotes;
    if quotes == 3 {
        // The line break right after the opening quotes is not part of the value.
        position += if literal[position..].starts_with("\r\n") { 2 } else { usize::from(literal[position..].starts_with('\n')) };
    }
    let (mut value, mut start) = (0, None);
    while position < end {
        if value >= at.start && start.is_none() {
            start = Some(position);
        }
        if value >= at.end && start.is_some_and(|start| start < position) {
            break;
        }
        let (written, meant) = element(&literal[position..end], escapes);
        position += written;
        value += meant;
    }
    let start = start.unwrap_or(position);
    start..position.max(start)
}

/// Bytes written and bytes meant by the first character or escape of `rest`.
fn element(rest: &str, escapes: bool) -> (usize, usize) {
    let Some(first) = rest.chars().next() else { return (1, 1) };
    if first != '\\' || !escapes {
        return (first.len_utf8(), first.len_utf8());
    }
    let digits = match rest[1..].chars().next() {
        Some('u') => 4,
        Some('U') => 8,
        Some('x') => 2,
        Some(c) if c.is_whitespace() => return (1 + rest[1..].len() - rest[1..].trim_start().len(), 0),
        Some(c) => return (1 + c.len_utf8(), 1),
        None => return (1, 1),
    };
    let code = rest.get(2..2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
    (2 + digits.min(rest.len() - 2), code.map_or(1, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_value_is_found_in_the_literal() {
        let shown = |literal: &str, at: Range<usize>| literal[within(literal, at)].to_owned();
        assert_eq!(shown("\"temperature > 80\"", 12..13), ">");
        assert_eq!(shown("'a > b'", 4..5), "b");
        assert_eq!(shown(r#""tag(\"x\") = 1""#, 4..7), r#"\"x\""#);
        assert_eq!(shown("\"\"\"\nab > c\"\"\"", 3..4), ">");
        assert_eq!(shown(r#""\u00e4 > b""#, 3..4), ">");
        assert_eq!(within("\"a >\"", 3..3), 4..4);
    }
}
