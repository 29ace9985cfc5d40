//! Decimal numbers from bytes, fast where that is exact.
//!
//! Sensors send few digits: up to 2⁵³ with a small power of ten one multiplication or division is correctly rounded, as both
//! operands are exact. Everything else goes to the standard library.

const POWERS: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

/// A number at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanned {
    /// Bytes it takes.
    pub length: usize,
    /// All digits as one number; meaningless when `exact` is false.
    pub mantissa: u64,
    /// Whether `mantissa` holds every digit.
    pub exact: bool,
    /// Power of ten it is multiplied by.
    pub exponent: i32,
    /// Whether a minus sign stands in front.
    pub negative: bool,
    /// Whether it has neither point nor exponent.
    pub integer: bool,
}

/// Scans `[+-]digits[.digits][e[+-]digits]` with at least one digit before the exponent; `None` when none stands there.
#[inline]
pub fn scan(bytes: &[u8]) -> Option<Scanned> {
    let (mut at, negative) = match bytes.first()? {
        b'-' => (1, true),
        b'+' => (1, false),
        _ => (0, false),
    };
    let start = at;
    let (mut mantissa, mut digits, mut exponent) = (0_u64, 0_usize, 0_i32);
    while let Some(digit) = bytes.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    digits += at - start;
    let mut integer = true;
    if bytes.get(at) == Some(&b'.') {
        integer = false;
        at += 1;
        let first = at;
        while let Some(digit) = bytes.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
        }
        digits += at - first;
        exponent = i32::try_from(at - first).map_or(i32::MIN / 2, |n| -n);
    }
    if digits == 0 {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        integer = false;
        let (length, power) = scan_exponent(&bytes[at..])?;
        at += length;
        exponent = exponent.saturating_add(power);
    }
    // 19 digits always fit, of which leading zeros are some.
    Some(Scanned { length: at, mantissa, exact: digits <= 19, exponent, negative, integer })
}

#[cold]
fn scan_exponent(bytes: &[u8]) -> Option<(usize, i32)> {
    let (first, negative) = match bytes.get(1)? {
        b'-' => (2, true),
        b'+' => (2, false),
        _ => (1, false),
    };
    let digits = bytes[first..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let power = bytes[first..first + digits].iter().fold(0_i32, |n, b| n.saturating_mul(10).saturating_add(i32::from(b - b'0')));
    Some((first + digits, if negative { -power } else { power }))
}

impl Scanned {
    /// The nearest double; `None` when it is past the range of finite ones. `bytes` is what was scanned.
    #[inline]
    pub fn float(&self, bytes: &[u8]) -> Option<f64> {
        if self.exact && self.mantissa < 1 << 53 {
            let mantissa = self.mantissa as f64;
            let magnitude = match self.exponent {
                0 => Some(mantissa),
                e @ -22..=-1 => Some(mantissa / POWERS[e.unsigned_abs() as usize]),
                e @ 1..=22 => Some(mantissa * POWERS[e as usize]),
                _ => None,
            };
            if let Some(magnitude) = magnitude {
                return Some(if self.negative { -magnitude } else { magnitude });
            }
        }
        std::str::from_utf8(bytes.get(..self.length)?).ok()?.parse().ok().filter(|v: &f64| v.is_finite())
    }

    /// The signed integer; `None` when it has a fraction or is out of range. `bytes` is what was scanned.
    #[inline]
    pub fn int(&self, bytes: &[u8]) -> Option<i64> {
        if !self.integer {
            return None;
        }
        if !self.exact {
            return std::str::from_utf8(bytes.get(..self.length)?).ok()?.parse().ok();
        }
        if self.negative { 0_i64.checked_sub_unsigned(self.mantissa) } else { i64::try_from(self.mantissa).ok() }
    }

    /// The unsigned integer; `None` when it has a sign or a fraction, or is out of range. `bytes` is what was scanned.
    #[inline]
    pub fn uint(&self, bytes: &[u8]) -> Option<u64> {
        if !self.integer || self.negative {
            return None;
        }
        if !self.exact {
            return std::str::from_utf8(bytes.get(..self.length)?).ok()?.parse().ok();
        }
        Some(self.mantissa)
    }
}

/// Appends a finite double with the fewest digits that read back as it, without exponent, as Telegraf writes it: `21.5`, `21`.
pub fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.fract() == 0.0 && value.abs() < 1e15 && (value != 0.0 || value.is_sign_positive()) {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format(value);
    if text.contains('e') || text.ends_with(".0") {
        out.extend_from_slice(value.to_string().as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_end_where_they_end_and_nonsense_is_none() {
        assert_eq!(scan(b"-12.5e1,").unwrap().float(b"-12.5e1,"), Some(-125.0));
        assert_eq!(scan(b"12i").unwrap().length, 2);
        for bad in ["", "-", ".", "+.", "e5", "1e", "1e+", "nan", "inf", "-inf"] {
            assert!(scan(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_eq!(scan(b"1e999").unwrap().float(b"1e999"), None);
        assert_eq!(scan(b"1.").unwrap().float(b"1."), Some(1.0));
        assert_eq!(scan(b".5").unwrap().float(b".5"), Some(0.5));
        for (text, int, uint) in [
            ("9223372036854775807", Some(i64::MAX), Some(i64::MAX as u64)),
            ("-9223372036854775808", Some(i64::MIN), None),
            ("9223372036854775808", None, Some(1 << 63)),
            ("18446744073709551615", None, Some(u64::MAX)),
            ("18446744073709551616", None, None),
            ("00000000000000000000007", Some(7), Some(7)),
            ("1.0", None, None),
        ] {
            let scanned = scan(text.as_bytes()).unwrap();
            assert_eq!((scanned.int(text.as_bytes()), scanned.uint(text.as_bytes())), (int, uint), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_decimal_reads_as_the_standard_library_reads_it(text in "[+-]?[0-9]{1,24}(\\.[0-9]{0,24})?(e[+-]?[0-9]{1,3})?") {
            let scanned = scan(text.as_bytes()).unwrap();
            prop_assert_eq!(scanned.length, text.len());
            let expected: f64 = text.parse().unwrap();
            match scanned.float(text.as_bytes()) {
                Some(v) => prop_assert_eq!(v.to_bits(), expected.to_bits()),
                None => prop_assert!(expected.is_infinite()),
            }
        }

        #[test]
        fn what_is_written_reads_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let mut out = Vec::new();
            write_float(value, &mut out);
            let scanned = scan(&out).unwrap();
            prop_assert_eq!(scanned.float(&out).unwrap().to_bits(), value.to_bits());
            prop_assert!(!out.contains(&b'e'));
        }
    }
}
