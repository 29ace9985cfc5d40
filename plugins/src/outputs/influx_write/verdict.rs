//! What an InfluxDB, of whichever version, says about a write, read from its status and body: a function, so every dialect is a test.
//!
//! | server | says | means |
//! | --- | --- | --- |
//! | 1.x | 400 `partial write: … dropped=N` | the others are in |
//! | 1.x | 400 `unable to parse '…': …` for every line | none is in |
//! | 1.x | 404 `database not found` | create it, or wait for somebody |
//! | 2 | 400 naming lines | none is in: leave those out, send the rest |
//! | 2 | 422 `partial write: … dropped=N` | the others are in |
//! | 3 | 400 with `data: [{line_number, error_message}]` | the others are in, unless it says that parsing failed as a whole |
//! | all | 204 | all is in; any other 2xx is somebody else's (a portal, a proxy) |
//! | all | 413 | too large |
//! | nobody | 400 with a page | a proxy's opinion: wait |
//! | nobody | 400 that can't be read | the lines are taken apart, if this server has ever taken one |

use serde_json::Value as Json;
use weir_plugin_api::plugin::Outcome;

use crate::net::http_client::Answer;

/// Which line a server complains about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its number in the body, from 1.
    Number(usize),
    /// The text it begins with, as quoted in a message.
    Text(String),
}

/// A complaint about one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Which.
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
}

/// What a write came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// All is in, or nothing is and a status says what to do.
    Plain(Outcome),
    /// Everything but the named lines is in; `dropped` is how many the server says are not.
    Partial { named: Vec<Named>, dropped: Option<usize>, reason: String },
    /// Nothing is in; the named lines are why, and with none named nobody knows which.
    Refused { named: Vec<Named>, reason: String },
    /// Nothing is in, and what it says about it can't be read.
    Unreadable { reason: String },
    /// The database is missing (1.x).
    NoDatabase { reason: String },
}

/// Reads an answer.
pub(crate) fn read(answer: &Answer) -> Verdict {
    if answer.status == 404 && answer.body.contains("database not found") {
        return Verdict::NoDatabase { reason: answer.shown() };
    }
    if answer.status >= 500 && answer.body.contains("retention policy not found") {
        return Verdict::Plain(Outcome::Hold { reason: answer.shown() });
    }
    if matches!(answer.status, 200..=299) && answer.status != 204 {
        let reason = format!("{}, where an InfluxDB answers 204", answer.shown());
        return Verdict::Plain(Outcome::Retry { after: None, reason });
    }
    if !matches!(answer.status, 400 | 422) {
        let unknown = || Outcome::Retry { after: answer.retry_after, reason: answer.shown() };
        return Verdict::Plain(answer.common_outcome().unwrap_or_else(unknown));
    }
    if answer.is_page() {
        // No InfluxDB said this: a proxy's opinion must not burn data.
        return Verdict::Plain(Outcome::Hold { reason: format!("{}, not the answer of an InfluxDB", answer.shown()) });
    }
    let Ok(json @ Json::Object(_)) = serde_json::from_str::<Json>(&answer.body) else {
        return Verdict::Unreadable { reason: answer.shown() };
    };
    let message = ["message", "error"].iter().filter_map(|key| json.get(key)?.as_str()).collect::<Vec<_>>().join(": ");
    let reason = if message.is_empty() { answer.shown() } else { message.clone() };
    let mut named = named_in_data(&json);
    if named.is_empty() {
        named = quoted_lines(&message);
    }
    if named.is_empty() {
        named = numbered_lines(&message);
    }
    if named.is_empty()
        && let Some(line) = json.get("line").and_then(Json::as_u64)
    {
        named.push(Named { place: Place::Number(line as usize), reason: reason.clone() });
    }
    // A server that dropped points names no line and says how many.
    let dropped = number_after(&message, "dropped=");
    if answer.status == 422 || message.contains("partial write") {
        Verdict::Partial { named, dropped, reason }
    } else {
        Verdict::Refused { named, reason }
    }
}

/// Version 3: `data` is one complaint or a list of them.
fn named_in_data(json: &Json) -> Vec<Named> {
    let complaints: Vec<&Json> = match json.get("data") {
        Some(Json::Array(all)) => all.iter().collect(),
        Some(one @ Json::Object(_)) => vec![one],
        _ => Vec::new(),
    };
    let read = |complaint: &&Json| {
        let number = complaint.get("line_number")?.as_u64()? as usize;
        let reason = complaint.get("error_message").and_then(Json::as_str).unwrap_or("refused").to_owned();
        Some(Named { place: Place::Number(number), reason })
    };
    complaints.iter().filter_map(read).collect()
}

/// `unable to parse 'the line': why`, once or on several lines of the message.
fn quoted_lines(message: &str) -> Vec<Named> {
    const START: &str = "unable to parse '";
    let parts: Vec<&str> = message.split(START).skip(1).collect();
    let read = |part: &&str| {
        let (line, reason) = part.rsplit_once("': ")?;
        let reason = reason.split(" dropped=").next().unwrap_or(reason).trim();
        Some(Named { place: Place::Text(line.to_owned()), reason: reason.to_owned() })
    };
    parts.iter().filter_map(read).collect()
}

/// `line 3: why` or `error in line 3: why`.
fn numbered_lines(message: &str) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::new();
    for (at, found) in message.match_indices("line ") {
        let before = message[..at].chars().next_back();
        let rest = &message[at + found.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(number) = rest[..digits].parse::<usize>() else { continue };
        if before.is_some_and(char::is_alphanumeric) || named.iter().any(|n| n.place == Place::Number(number)) {
            continue;
        }
        let reason = rest[digits..].trim_start_matches([':', ' ', ',']).lines().next().unwrap_or_default();
        named.push(Named { place: Place::Number(number), reason: reason.to_owned() });
    }
    named
}

fn number_after(text: &str, key: &str) -> Option<usize> {
    let rest = &text[text.rfind(key)? + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// The measurement, field and type of `input field "f" on measurement "m" is type t`.
pub(crate) fn type_conflict(reason: &str) -> Option<(&str, &str, &str)> {
    let (field, rest) = reason.split_once("input field \"")?.1.split_once("\" on measurement \"")?;
    let (measurement, rest) = rest.split_once("\" is type ")?;
    Some((measurement, field, rest.split(',').next()?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> Verdict {
        read(&Answer { status, body: body.into(), content_type: "application/json".into(), ..Answer::default() })
    }

    fn numbers(named: &[Named]) -> Vec<Place> {
        named.iter().map(|n| n.place.clone()).collect()
    }

    #[test]
    fn version_1_names_the_text_of_a_line_and_has_the_others() {
        let verdict = said(400, r#"{"error":"partial write: unable to parse 'cpu,host=a value=': missing field value dropped=0"}"#);
        let Verdict::Partial { named, dropped, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(named, [Named { place: Place::Text("cpu,host=a value=".into()), reason: "missing field value".into() }]);
        assert_eq!(dropped, Some(0));
    }

    #[test]
    fn version_1_counts_what_a_type_conflict_dropped() {
        let body = r#"{"error":"partial write: field type conflict: input field \"v\" on measurement \"m\" is type float, already exists as type integer dropped=3"}"#;
        let verdict = said(400, body);
        let Verdict::Partial { named, dropped, reason } = verdict else { panic!("{verdict:?}") };
        assert_eq!((named.len(), dropped), (0, Some(3)));
        assert_eq!(type_conflict(&reason), Some(("m", "v", "float")));
    }

    #[test]
    fn version_2_refuses_all_for_the_line_it_names() {
        let verdict = said(400, r#"{"code":"invalid","message":"unable to parse 'a b': bad\nunable to parse 'c d': worse"}"#);
        let Verdict::Refused { named, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(numbers(&named), [Place::Text("a b".into()), Place::Text("c d".into())]);
        let body = r#"{"code":"invalid","message":"failed to parse line protocol:errors encountered on line(s):\nerror in line 2: table: t; cast error","line":2,"errorId":"x"}"#;
        let Verdict::Refused { named, .. } = said(400, body) else { panic!("refused") };
        assert_eq!(numbers(&named), [Place::Number(2)]);
        let Verdict::Refused { named, .. } = said(400, r#"{"code":"invalid","message":"something else"}"#) else { panic!("refused") };
        assert!(named.is_empty());
    }

    #[test]
    fn version_2_has_the_others_after_422() {
        let body = r#"{"code":"unprocessable entity","message":"failure writing points to database: partial write: points beyond retention policy dropped=2"}"#;
        let Verdict::Partial { dropped, .. } = said(422, body) else { panic!("partial") };
        assert_eq!(dropped, Some(2));
    }

    #[test]
    fn version_3_lists_lines_and_says_whether_the_others_are_in() {
        let body = r#"{"error":"partial write of line protocol occurred","data":[{"original_line":"x","line_number":4,"error_message":"no fields"}]}"#;
        let Verdict::Partial { named, .. } = said(400, body) else { panic!("partial") };
        assert_eq!(named, [Named { place: Place::Number(4), reason: "no fields".into() }]);
        let body =
            r#"{"error":"parsing failed for write_lp endpoint","data":{"original_line":"x","line_number":1,"error_message":"no fields"}}"#;
        let Verdict::Refused { named, .. } = said(400, body) else { panic!("refused") };
        assert_eq!(numbers(&named), [Place::Number(1)]);
    }

    #[test]
    fn a_400_that_no_influxdb_said_holds() {
        assert!(matches!(said(400, "<html>Bad Request</html>"), Verdict::Plain(Outcome::Hold { .. })));
    }

    #[test]
    fn authorisation_and_missing_buckets_hold_and_a_busy_server_is_left_alone() {
        for status in [401, 403, 404] {
            assert!(matches!(said(status, "{}"), Verdict::Plain(Outcome::Hold { .. })), "{status}");
        }
        for status in [429, 500, 503, 418] {
            assert!(matches!(said(status, "{}"), Verdict::Plain(Outcome::Retry { .. })), "{status}");
        }
        assert!(matches!(said(404, r#"{"error":"database not found: \"weir\""}"#), Verdict::NoDatabase { .. }));
        assert_eq!(said(413, ""), Verdict::Plain(Outcome::TooLarge));
    }
}
