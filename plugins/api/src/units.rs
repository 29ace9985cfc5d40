//! Durations and sizes as people write them: `10s`, `1m30s`, `500ms`, `64MiB`.

use std::time::Duration;

/// Reads a duration: a number or a sum of numbers with units `ns us µs ms s m h d w`; a bare number is seconds, as in Telegraf.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| format!("a duration can't be {text}"));
    }
    let (mut rest, mut total) = (text, 0u128);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos: f64 = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            "" => return Err("a duration needs a unit, for example \"10s\" or \"500ms\"".into()),
            other => return Err(format!("\"{other}\" is no unit of time; use ns, us, ms, s, m, h, d or w")),
        };
        let number: f64 = number.parse().map_err(|_| "a duration is a number with a unit, for example \"10s\"".to_string())?;
        total = total.saturating_add((number * nanos).round() as u128);
        rest = tail;
    }
    if text.is_empty() {
        return Err("a duration can't be empty".into());
    }
    let nanos = u64::try_from(total).ok().filter(|n| *n <= i64::MAX as u64).ok_or("this duration is too long")?;
    Ok(Duration::from_nanos(nanos))
}

/// The shortest way to write a duration so that [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in [
        ("d", 86_400_000_000_000u128),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 { "0s".into() } else { format!("{nanos}ns") }
}

/// Reads a size in bytes: a number with `B kB KB KiB MB MiB GB GiB TB TiB` or none.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: f64 = match unit.trim() {
        "" | "B" | "b" => 1.0,
        "k" | "kB" | "KB" => 1e3,
        "Ki" | "KiB" => 1024.0,
        "M" | "MB" => 1e6,
        "Mi" | "MiB" => 1024.0 * 1024.0,
        "G" | "GB" => 1e9,
        "Gi" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        "T" | "TB" => 1e12,
        "Ti" | "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("\"{other}\" is no unit of size; use B, kB, KiB, MB, MiB, GB, GiB, TB or TiB")),
    };
    let number: f64 = number.parse().map_err(|_| "a size is a number with a unit, for example \"64MiB\"".to_string())?;
    Ok((number * scale).round() as u64)
}

/// The shortest way to write a size so that [`parse_size`] reads it back.
pub fn format_size(bytes: u64) -> String {
    for (unit, size) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_telegraf_reads_them() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert!(parse_duration("10 parsecs").is_err());
        assert!(parse_duration("").is_err());
        assert!(parse_duration("-3s").is_err());
        let endless = "9".repeat(60);
        assert!(parse_duration(&format!("{endless}w{endless}w")).is_err());
    }

    #[test]
    fn sizes_read_with_decimal_and_binary_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1 kB"), Ok(1000));
        assert_eq!(parse_size("10"), Ok(10));
        assert!(parse_size("many").is_err());
        assert_eq!(format_size(64 << 20), "64MiB");
        assert_eq!(format_duration(Duration::from_millis(200)), "200ms");
    }
}
