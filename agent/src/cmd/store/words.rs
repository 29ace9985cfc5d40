//! How times, positions and injuries are written for people, and how a time is read.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use weir_plugin_api::{Identity, Position};
use weir_store::inspect::{Harm, Injury};

/// A time in nanoseconds as RFC 3339.
pub fn time(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| format!("{nanos} ns"), |t| t.to_string())
}

/// Two times; nothing where nobody knows them.
pub fn times(times: (i64, i64)) -> String {
    if times == (0, 0) { String::new() } else { format!("{} to {}", time(times.0), time(times.1)) }
}

/// A time from the command line: RFC 3339, a date or a date and time in UTC, or nanoseconds since 1970.
pub fn read_time(text: &str) -> Result<i64, String> {
    if let Ok(nanos) = text.parse::<i64>() {
        return Ok(nanos);
    }
    let utc = || text.parse::<DateTime>().and_then(|d| d.to_zoned(TimeZone::UTC)).map(|z| z.timestamp());
    let timestamp = text.parse::<Timestamp>().or_else(|_| utc());
    let timestamp = timestamp.map_err(|_| "write it as 2026-01-31T12:00:00Z, as 2026-01-31, or in nanoseconds since 1970".to_owned())?;
    i64::try_from(timestamp.as_nanosecond()).map_err(|_| "it is too far away".to_owned())
}

/// An identity: the record, and the number among its results.
pub fn identity(identity: Identity) -> String {
    format!("{}.{}", identity.record, identity.ordinal)
}

/// The lane's name.
pub fn lane(lane: u8) -> &'static str {
    if lane == 0 { "alerts" } else { "results" }
}

/// Where a source stood.
pub fn position(position: &Position) -> String {
    match position {
        Position::None => "none".into(),
        Position::Messages { session, ids } => format!("session {}, {} messages", self::session(*session), ids.len()),
        Position::Files(files) => {
            let files: Vec<String> = files.iter().map(|f| format!("{} at {}", f.path, f.offset)).collect();
            files.join(", ")
        }
        Position::Sequence { nonce, sequence } => format!("boot {nonce:x}, sequence {sequence}"),
        Position::Offsets(offsets) => {
            let offsets: Vec<String> = offsets.iter().map(|(name, offset)| format!("{name} at {offset}")).collect();
            offsets.join(", ")
        }
        Position::Keys(keys) => format!("{} keys", keys.len()),
    }
}

/// A broker session, and the generation of what is remembered of it.
pub fn session(session: u64) -> String {
    format!("{}.{}", session >> 32, session & u64::from(u32::MAX))
}

/// `1 point`, `2 points`.
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// An injury in one line.
pub fn injury(injury: &Injury, inputs: &[String]) -> String {
    let mut text = injury.file.clone();
    if let Some(offset) = injury.offset {
        text.push_str(&format!(" at {offset}"));
    }
    text.push_str(&format!(": {}", injury.what));
    if injury.records > 0 {
        let last = injury.first_record.saturating_add(injury.records - 1);
        text.push_str(&format!(": records {} to {last}", injury.first_record));
    }
    if injury.points > 0 {
        text.push_str(&format!(", {}", count(injury.points, "point")));
    }
    if injury.times != (0, 0) {
        let between = if injury.between { "between" } else { "of" };
        text.push_str(&format!(" {between} {}", times(injury.times)));
    }
    if injury.inputs != 0 {
        text.push_str(&format!(", inputs {}", input_names(injury.inputs, inputs).join(", ")));
    }
    text.push_str(match injury.harm {
        Harm::Lost => "; lost",
        Harm::None => "; costs nothing",
    });
    text
}

/// Names of the inputs of a bitmap; by number where no name is known.
pub fn input_names(bits: u64, names: &[String]) -> Vec<String> {
    let name = |index: usize| names.get(index).cloned().unwrap_or_else(|| format!("number {index}"));
    (0..64).filter(|i| bits >> i & 1 == 1).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        assert_eq!(read_time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000_000_000));
        assert_eq!(read_time("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000_000_000));
        assert_eq!(read_time("2023-11-14T22:13:20"), Ok(1_700_000_000_000_000_000));
        assert_eq!(read_time("2023-11-14"), Ok(1_699_920_000_000_000_000));
        assert_eq!(read_time("-5"), Ok(-5));
        assert!(read_time("yesterday").is_err() && read_time("9999-01-01").is_err());
        assert_eq!(time(1_700_000_000_500_000_000), "2023-11-14T22:13:20.5Z");
        assert_eq!(time(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }
}
