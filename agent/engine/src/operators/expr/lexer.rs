//! Text to tokens: the only place that looks at characters.

use super::{ExprError, Function};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    /// A plain name: field, function or `tag`, depending on what follows.
    Name(String),
    /// A name between backquotes: always a field.
    Quoted(String),
    /// A keyword or a sign.
    Sign(&'static str),
    End,
}

/// A token and where it stands.
pub(super) type Spanned = (Token, (usize, usize));

const KEYWORDS: [&str; 5] = ["and", "or", "not", "true", "false"];
/// The longer ones first.
const SIGNS: [&str; 15] = ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ",", "!"];

/// Whether a name needs no backquotes.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.chars().next().is_some_and(is_name_start)
        && name.chars().all(is_name_part)
        && !KEYWORDS.contains(&name)
        && name != "tag"
        && Function::find(name).is_none()
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// All tokens, the last one being [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned>, ExprError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let width = c.len_utf8();
        if c.is_whitespace() {
            at += width;
            continue;
        }
        let (token, end) = match c {
            '"' | '\'' => quoted_text(text, at, c)?,
            '`' => quoted_name(text, at)?,
            '0'..='9' | '.' => number(text, at)?,
            c if is_name_start(c) => name(text, at),
            _ => sign(text, at, width)?,
        };
        tokens.push((token, (at, end)));
        at = end;
    }
    tokens.push((Token::End, (text.len(), text.len())));
    Ok(tokens)
}

fn name(text: &str, at: usize) -> (Token, usize) {
    let end = text[at..].find(|c| !is_name_part(c)).map_or(text.len(), |n| at + n);
    let name = &text[at..end];
    match KEYWORDS.iter().find(|k| **k == name) {
        Some(keyword) => (Token::Sign(keyword), end),
        None => (Token::Name(name.to_owned()), end),
    }
}

fn sign(text: &str, at: usize, width: usize) -> Result<(Token, usize), ExprError> {
    let rest = &text[at..];
    let wrong = |length: usize, message: &str, help: &str| Err(ExprError::new((at, at + length), message).help(help));
    if rest.starts_with("&&") {
        return wrong(2, "\"&&\" is not an operator here", "write `and`");
    }
    if rest.starts_with("||") {
        return wrong(2, "\"||\" is not an operator here", "write `or`");
    }
    if rest.starts_with('=') && !rest.starts_with("==") {
        return wrong(1, "\"=\" is not an operator here", "compare with `==`");
    }
    if rest.starts_with('!') && !rest.starts_with("!=") {
        return wrong(1, "\"!\" is not an operator here", "write `not`");
    }
    match SIGNS.iter().find(|s| rest.starts_with(**s)) {
        Some(sign) => Ok((Token::Sign(sign), at + sign.len())),
        None => Err(ExprError::new((at, at + width), format!("unexpected character {:?}", &rest[..width]))
            .help("a field whose name has other characters than letters, digits, `_` and `.` is written between backquotes")),
    }
}

fn number(text: &str, at: usize) -> Result<(Token, usize), ExprError> {
    let bytes = text.as_bytes();
    let mut end = at;
    while end < bytes.len() {
        let exponent_sign = matches!(bytes[end], b'+' | b'-') && end > at && matches!(bytes[end - 1], b'e' | b'E');
        if !(bytes[end].is_ascii_alphanumeric() || bytes[end] == b'.' || bytes[end] == b'_' || exponent_sign) {
            break;
        }
        end += 1;
    }
    let written = &text[at..end];
    let plain = written.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match written.parse::<f64>() {
        Ok(value) if plain && value.is_finite() => Ok((Token::Number(value), end)),
        _ => Err(ExprError::new((at, end.max(at + 1)), format!("{written:?} is not a number"))
            .help("numbers look like 80, 0.5 or 1e3; a field name that starts with a digit goes between backquotes")),
    }
}

fn quoted_name(text: &str, at: usize) -> Result<(Token, usize), ExprError> {
    let mut name = String::new();
    let mut chars = text[at + 1..].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if c != '`' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '`').is_some() {
            name.push('`');
        } else if name.is_empty() {
            return Err(ExprError::new((at, at + 2 + offset), "a field name is missing between the backquotes"));
        } else {
            return Ok((Token::Quoted(name), at + 1 + offset + 1));
        }
    }
    Err(ExprError::new((at, at + 1), "this backquote is never closed"))
}

fn quoted_text(text: &str, at: usize, quote: char) -> Result<(Token, usize), ExprError> {
    let mut value = String::new();
    let mut chars = text[at + 1..].char_indices();
    while let Some((offset, c)) = chars.next() {
        if c == quote {
            return Ok((Token::Text(value), at + 1 + offset + 1));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let here = at + 1 + offset;
        match chars.next().map(|(_, c)| c) {
            Some('n') => value.push('\n'),
            Some('t') => value.push('\t'),
            Some('r') => value.push('\r'),
            Some(c @ ('"' | '\'' | '\\')) => value.push(c),
            Some(c) => {
                return Err(
                    ExprError::new((here, here + 1 + c.len_utf8()), format!("\\{c} is not an escape")).help("write a backslash as \\\\")
                );
            }
            None => break,
        }
    }
    Err(ExprError::new((at, at + 1), "this quote is never closed"))
}
