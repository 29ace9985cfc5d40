//! Times as payloads write them: counts since 1970 and Go's reference layouts, which Telegraf's options use.
//!
//! A layout is taken apart once, when the configuration is read; reading a time then walks its elements.

use jiff::{
    Zoned, civil,
    tz::{Offset, TimeZone},
};

use super::number;

/// How the times of a payload are written.
#[derive(Clone, Debug)]
pub struct TimeFormat {
    kind: Kind,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A count of so many nanoseconds since 1970 UTC.
    Unix(i64),
    /// A layout.
    Layout(Vec<Element>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    Literal(String),
    Year,
    ShortYear,
    Month,
    MonthName,
    LongMonthName,
    Day,
    YearDay,
    WeekdayName,
    LongWeekdayName,
    Hour,
    Hour12,
    Minute,
    Second,
    Fraction,
    HalfDay,
    /// `MST`: an abbreviation.
    ZoneName,
    /// `-07:00`, `-0700`, `-07`; with `true` a `Z` means UTC.
    Offset(bool),
}

/// Go's elements, longer ones before those they begin with.
const ELEMENTS: &[(&str, Element)] = &[
    ("January", Element::LongMonthName),
    ("Jan", Element::MonthName),
    ("Monday", Element::LongWeekdayName),
    ("Mon", Element::WeekdayName),
    ("MST", Element::ZoneName),
    ("2006", Element::Year),
    ("Z07:00:00", Element::Offset(true)),
    ("Z070000", Element::Offset(true)),
    ("Z07:00", Element::Offset(true)),
    ("Z0700", Element::Offset(true)),
    ("Z07", Element::Offset(true)),
    ("-07:00:00", Element::Offset(false)),
    ("-070000", Element::Offset(false)),
    ("-07:00", Element::Offset(false)),
    ("-0700", Element::Offset(false)),
    ("-07", Element::Offset(false)),
    ("__2", Element::YearDay),
    ("002", Element::YearDay),
    ("_2", Element::Day),
    ("01", Element::Month),
    ("02", Element::Day),
    ("03", Element::Hour12),
    ("04", Element::Minute),
    ("05", Element::Second),
    ("06", Element::ShortYear),
    ("15", Element::Hour),
    ("PM", Element::HalfDay),
    ("pm", Element::HalfDay),
    ("1", Element::Month),
    ("2", Element::Day),
    ("3", Element::Hour12),
    ("4", Element::Minute),
    ("5", Element::Second),
];

/// Names Telegraf knows for layouts.
const NAMED: &[(&str, &str)] = &[
    ("ansic", "Mon Jan _2 15:04:05 2006"),
    ("unixdate", "Mon Jan _2 15:04:05 MST 2006"),
    ("rubydate", "Mon Jan 02 15:04:05 -0700 2006"),
    ("rfc822", "02 Jan 06 15:04 MST"),
    ("rfc822z", "02 Jan 06 15:04 -0700"),
    ("rfc850", "Monday, 02-Jan-06 15:04:05 MST"),
    ("rfc1123", "Mon, 02 Jan 2006 15:04:05 MST"),
    ("rfc1123z", "Mon, 02 Jan 2006 15:04:05 -0700"),
    ("rfc3339", "2006-01-02T15:04:05Z07:00"),
    ("rfc3339nano", "2006-01-02T15:04:05.999999999Z07:00"),
    ("stamp", "Jan _2 15:04:05"),
    ("stampmilli", "Jan _2 15:04:05.000"),
    ("stampmicro", "Jan _2 15:04:05.000000"),
    ("stampnano", "Jan _2 15:04:05.000000000"),
];

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

impl TimeFormat {
    /// A format by Telegraf's name (`unix`, `unix_ms`, `unix_us`, `unix_ns`, `rfc3339` …) or Go layout; `zone` is an IANA name, a POSIX
    /// description (`CET-1CEST,M3.5.0,M10.5.0/3`), `Local`, or `UTC` or empty for UTC, and counts where the text says nothing of its offset.
    ///
    /// # Errors
    /// An unknown time zone, or a layout without a year, month and day.
    pub fn new(format: &str, zone: &str) -> Result<Self, String> {
        let zone = match zone {
            "" | "UTC" | "utc" => TimeZone::UTC,
            "Local" | "local" => TimeZone::system(),
            // A gateway may have no database of zones; a POSIX description needs none.
            name => TimeZone::get(name).or_else(|_| TimeZone::posix(name)).map_err(|_| format!("unknown time zone \"{name}\""))?,
        };
        let kind = match format.to_ascii_lowercase().as_str() {
            "unix" => Kind::Unix(1_000_000_000),
            "unix_ms" => Kind::Unix(1_000_000),
            "unix_us" => Kind::Unix(1_000),
            "unix_ns" => Kind::Unix(1),
            lower => {
                let layout = NAMED.iter().find(|(name, _)| *name == lower).map_or(format, |(_, layout)| layout);
                Kind::Layout(elements(layout)?)
            }
        };
        Ok(Self { kind, zone })
    }

    /// Nanoseconds since 1970 UTC.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn read(&self, text: &str) -> Result<i64, String> {
        match &self.kind {
            Kind::Unix(unit) => unix(text.trim(), *unit).ok_or_else(|| "the time is no number since 1970 of 64 bits".to_owned()),
            Kind::Layout(elements) => self.layout(elements, text),
        }
    }

    fn layout(&self, elements: &[Element], text: &str) -> Result<i64, String> {
        let mut parts = Parts::default();
        let mut rest = text;
        for element in elements {
            rest = parts.take(element, rest).ok_or_else(|| format!("the time does not fit its format at \"{}\"", shown(rest)))?;
        }
        if !rest.is_empty() {
            return Err(format!("the time goes on past its format with \"{}\"", shown(rest)));
        }
        let time = parts.civil()?;
        let zone = parts.offset.map_or_else(|| self.zone.clone(), Offset::to_time_zone);
        let out_of_range = || "the time is out of range".to_owned();
        let zoned = match &parts.abbreviation {
            Some(name) if parts.offset.is_none() => self.abbreviated(time, name).ok_or_else(out_of_range)?,
            _ => time.to_zoned(zone).map_err(|_| out_of_range())?,
        };
        i64::try_from(zoned.timestamp().as_nanosecond()).map_err(|_| out_of_range())
    }

    /// As Go reads an abbreviation: an offset of the configured zone that is called so there, else UTC, since elsewhere it may mean
    /// anything.
    fn abbreviated(&self, time: civil::DateTime, name: &str) -> Option<Zoned> {
        let called = |zoned: &Zoned| self.zone.to_offset_info(zoned.timestamp()).abbreviation() == name;
        let ambiguous = self.zone.to_ambiguous_zoned(time);
        let found = [ambiguous.clone().earlier(), ambiguous.later()].into_iter().flatten().find(called);
        found.or_else(|| time.to_zoned(TimeZone::UTC).ok())
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A decimal count of `unit` nanoseconds, exactly; digits below the nanosecond are cut off.
fn unix(text: &str, unit: i64) -> Option<i64> {
    let bytes = text.as_bytes();
    let scanned = number::scan(bytes).filter(|s| s.length == bytes.len())?;
    if !scanned.exact {
        return None;
    }
    let mut nanos = i128::from(scanned.mantissa) * i128::from(unit);
    match u32::try_from(scanned.exponent) {
        Ok(up) => nanos = nanos.checked_mul(10_i128.checked_pow(up)?)?,
        Err(_) => nanos /= 10_i128.checked_pow(scanned.exponent.unsigned_abs()).unwrap_or(i128::MAX),
    }
    i64::try_from(if scanned.negative { -nanos } else { nanos }).ok()
}

fn elements(layout: &str) -> Result<Vec<Element>, String> {
    let (mut out, mut rest) = (Vec::new(), layout);
    while !rest.is_empty() {
        let fraction =
            rest.strip_prefix(['.', ',']).map(|r| r.len() - r.trim_start_matches('0').len().min(r.trim_start_matches('9').len()));
        if matches!(out.last(), Some(Element::Second))
            && let Some(digits) = fraction
            && digits > 0
        {
            out.push(Element::Fraction);
            rest = &rest[1 + digits..];
        } else if let Some((text, element)) = ELEMENTS.iter().find(|(text, _)| rest.starts_with(text)) {
            out.push(element.clone());
            rest = &rest[text.len()..];
            // Go reads a fraction behind the seconds whether the layout has one or not.
            if *element == Element::Second && !rest.starts_with(['.', ',']) {
                out.push(Element::Fraction);
            }
        } else if let Some(c) = rest.chars().next() {
            match out.last_mut() {
                Some(Element::Literal(text)) => text.push(c),
                _ => out.push(Element::Literal(c.into())),
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    let has = |wanted: &[Element]| out.iter().any(|e| wanted.contains(e));
    let dated = has(&[Element::YearDay]) || has(&[Element::Month, Element::MonthName, Element::LongMonthName]) && has(&[Element::Day]);
    if dated && has(&[Element::Year, Element::ShortYear]) {
        Ok(out)
    } else {
        Err(format!("\"{layout}\" is no time format: write `unix`, `rfc3339` or a layout such as \"2006-01-02 15:04:05\""))
    }
}

/// What was read of a time so far.
#[derive(Default)]
struct Parts {
    year: i16,
    month: i8,
    day: i8,
    year_day: i16,
    hour: i8,
    minute: i8,
    second: i8,
    nanos: i32,
    afternoon: Option<bool>,
    offset: Option<Offset>,
    abbreviation: Option<String>,
}

/// A zone's abbreviation in front of a text, such as `UTC`, `MST` or `CEST`, and what follows.
fn abbreviation(text: &str) -> Option<(&str, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_uppercase).count();
    (matches!(length, 3..=5) || text.starts_with('Z') && length == 1).then(|| text.split_at(length))
}

impl Parts {
    /// Takes one element from the front, returns what follows.
    fn take<'t>(&mut self, element: &Element, text: &'t str) -> Option<&'t str> {
        let rest = match element {
            Element::Literal(literal) => return text.strip_prefix(literal.as_str()),
            Element::Year => return digits(text, 4, 4, &mut self.year),
            Element::ShortYear => {
                let rest = digits(text, 2, 2, &mut self.year)?;
                self.year += if self.year >= 69 { 1900 } else { 2000 };
                rest
            }
            Element::Month => digits(text, 1, 2, &mut self.month)?,
            Element::MonthName => named(text, &MONTHS, Some(3), &mut self.month)?,
            Element::LongMonthName => named(text, &MONTHS, None, &mut self.month)?,
            Element::Day => digits(text.trim_start_matches(' '), 1, 2, &mut self.day)?,
            Element::YearDay => digits(text.trim_start_matches(' '), 1, 3, &mut self.year_day)?,
            Element::WeekdayName => named(text, &WEEKDAYS, Some(3), &mut 0)?,
            Element::LongWeekdayName => named(text, &WEEKDAYS, None, &mut 0)?,
            Element::Hour | Element::Hour12 => digits(text, 1, 2, &mut self.hour)?,
            Element::Minute => digits(text, 1, 2, &mut self.minute)?,
            Element::Second => digits(text, 1, 2, &mut self.second)?,
            Element::Fraction => self.fraction(text),
            Element::HalfDay => {
                let (half, rest) = text.split_at_checked(2)?;
                self.afternoon =
                    Some(if half.eq_ignore_ascii_case("pm") { true } else { half.eq_ignore_ascii_case("am").then_some(false)? });
                rest
            }
            Element::ZoneName => {
                let (name, rest) = abbreviation(text)?;
                self.abbreviation = Some(name.to_owned());
                rest
            }
            Element::Offset(z_is_utc) => self.zone_offset(text, *z_is_utc)?,
        };
        Some(rest)
    }

    fn fraction<'t>(&mut self, text: &'t str) -> &'t str {
        let Some(rest) = text.strip_prefix(['.', ',']) else { return text };
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return text;
        }
        let (fraction, rest) = rest.split_at(length);
        self.nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + i32::from(b - b'0'));
        rest
    }

    fn zone_offset<'t>(&mut self, text: &'t str, z_is_utc: bool) -> Option<&'t str> {
        if z_is_utc && let Some(rest) = text.strip_prefix('Z') {
            self.offset = Some(Offset::UTC);
            return Some(rest);
        }
        let sign = match text.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let mut seconds = 0;
        let mut rest = &text[1..];
        for unit in [3600, 60, 1] {
            let mut part = 0_i32;
            let Some(after) = digits(rest, 2, 2, &mut part) else { break };
            seconds += part * unit;
            rest = after.strip_prefix(':').filter(|r| r.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(after);
        }
        self.offset = Some(Offset::from_seconds(sign * seconds).ok()?);
        (rest.len() + 3 <= text.len()).then_some(rest)
    }

    fn civil(&self) -> Result<civil::DateTime, String> {
        let hour = match self.afternoon {
            Some(_) if !(1..=12).contains(&self.hour) => return Err("the time has no such hour".into()),
            Some(true) => self.hour % 12 + 12,
            Some(false) => self.hour % 12,
            None => self.hour,
        };
        let wrong = |_| "the time has no such date or hour".to_owned();
        let date = if self.year_day > 0 && self.day == 0 {
            let first = civil::Date::new(self.year, 1, 1).map_err(wrong)?;
            first.with().day_of_year(self.year_day).build().map_err(wrong)?
        } else {
            civil::Date::new(self.year, self.month, self.day).map_err(wrong)?
        };
        let time = civil::Time::new(hour, self.minute, self.second, self.nanos).map_err(wrong)?;
        Ok(date.to_datetime(time))
    }
}

/// `min` to `max` digits at the front.
fn digits<'t, T: std::str::FromStr>(text: &'t str, min: usize, max: usize, into: &mut T) -> Option<&'t str> {
    let length = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if length < min {
        return None;
    }
    let (number, rest) = text.split_at(length);
    *into = number.parse().ok()?;
    Some(rest)
}

/// One of `names` at the front, in any case, in full or its first `short` letters; counted from 1.
fn named<'t>(text: &'t str, names: &[&str], short: Option<usize>, into: &mut i8) -> Option<&'t str> {
    names.iter().enumerate().find_map(|(i, name)| {
        let (front, rest) = text.split_at_checked(short.unwrap_or(name.len()))?;
        if !front.eq_ignore_ascii_case(&name[..front.len()]) {
            return None;
        }
        *into = i as i8 + 1;
        Some(rest)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn telegrafs_formats_read_as_go_reads_them() {
        let t = 1_136_214_245_000_000_000;
        for (format, zone, text, expected) in [
            ("unix", "", "1136214245", Some(t)),
            ("unix", "", "1136214245.5", Some(t + 500_000_000)),
            ("unix", "", "1.136214245e9", Some(t)),
            ("unix_ms", "", "1136214245000", Some(t)),
            ("unix_us", "", "1136214245000000", Some(t)),
            ("unix_ns", "", "1136214245000000000", Some(t)),
            ("unix_ns", "", "-1", Some(-1)),
            ("unix", "", "99999999999999", None),
            ("unix", "", "soon", None),
            ("2006-01-02T15:04:05Z07:00", "", "2006-01-02T15:04:05Z", Some(t)),
            ("2006-01-02T15:04:05Z07:00", "", "2006-01-02T16:04:05+01:00", Some(t)),
            ("2006-01-02T15:04:05Z07:00", "", "2006-01-02T15:04:05.25Z", Some(t + 250_000_000)),
            ("rfc3339", "", "2006-01-02T15:04:05Z", Some(t)),
            ("RFC3339Nano", "", "2006-01-02T15:04:05.000000001Z", Some(t + 1)),
            ("2006-01-02 15:04:05", "", "2006-01-02 15:04:05", Some(t)),
            ("2006-01-02 15:04:05", "CET-1CEST,M3.5.0,M10.5.0/3", "2006-01-02 16:04:05", Some(t)),
            ("2006-01-02 15:04:05.000", "", "2006-01-02 15:04:05.250", Some(t + 250_000_000)),
            ("02/01/06 03:04:05 PM", "", "02/01/06 03:04:05 PM", Some(t)),
            ("Mon Jan _2 15:04:05 2006", "", "Mon Jan  2 15:04:05 2006", Some(t)),
            ("RFC1123Z", "", "Mon, 02 Jan 2006 08:04:05 -0700", Some(t)),
            ("Monday, January 2, 2006 at 3:04:05pm", "", "Monday, January 2, 2006 at 3:04:05pm", Some(t)),
            ("2006.002 15:04:05", "", "2006.002 15:04:05", Some(t)),
            ("02 Jan 06 15:04 MST", "", "04 Jan 06 15:04 MST", Some(1_136_387_040_000_000_000)),
            ("02 Jan 06 15:04 MST", "MST7MDT,M3.2.0,M11.1.0", "04 Jan 06 15:04 MST", Some(1_136_412_240_000_000_000)),
            ("02 Jan 06 15:04 MST", "MST7MDT,M3.2.0,M11.1.0", "04 Jan 06 15:04 CET", Some(1_136_387_040_000_000_000)),
            ("RFC1123", "", "Mon, 02 Jan 2006 15:04:05 GMT", Some(t)),
            ("RFC1123", "", "Mon, 02 Jan 2006 15:04:05 1st", None),
            ("2006-01-02", "", "2006-02-30", None),
            ("2006-01-02", "", "2006-02-03x", None),
            ("rfc3339", "", "2006-01-02 15:04:05", None),
        ] {
            assert_eq!(TimeFormat::new(format, zone).unwrap().read(text).ok(), expected, "{format} on {text}");
        }
    }

    #[test]
    fn what_is_no_format_is_refused() {
        assert!(TimeFormat::new("yyyy-mm-dd", "").unwrap_err().contains("no time format"));
        assert!(TimeFormat::new("15:04:05", "").is_err());
        assert!(TimeFormat::new("unix", "Mars/Olympus").unwrap_err().contains("time zone"));
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(layout in "[0-9A-Za-z:+ .Z_-]{0,20}", text in "\\PC{0,30}") {
            for format in [layout.as_str(), "rfc3339", "rfc850", "unix", "Jan 2 2006 3:04:05.000PM -07:00:00"] {
                if let Ok(format) = TimeFormat::new(format, "") {
                    let _ = format.read(&text);
                }
            }
        }
    }
}
