//! Turns readings of the frame protocol into points. It is no codec for `data_format` in general: frames need a line back to the
//! device, so inputs that have one (serial) use it.

use weir_firmware_shim::{
    frame::{FieldKind, Hello, Reading, Value as Raw},
    link::Gateway,
};
use weir_plugin_api::{collector::Collector, value::Value};

/// No reading is believed to be older than this, nanoseconds: ten years.
const AGE_MAX: i64 = 10 * 365 * 86_400 * weir_plugin_api::time::SECOND;

/// Writes the new readings of the data frame that came last, read at `arrived` (steady nanoseconds): each gets the time it was taken at.
pub fn write_readings(gateway: &Gateway, device_tag: &str, arrived: i64, out: &mut Collector) {
    let Some(hello) = gateway.hello() else { return };
    for reading in gateway.readings() {
        out.set_read_at(taken_at(arrived, reading.age_us));
        write_reading(&hello, &reading, device_tag, out);
    }
    out.set_read_at(arrived);
}

fn write_reading(hello: &Hello<'_>, reading: &Reading, device_tag: &str, out: &mut Collector) {
    let tag = [(device_tag, hello.device)];
    let tags = if device_tag.is_empty() { &[][..] } else { &tag[..] };
    let mut point = out.point(hello.measurement, tags, None);
    for (field, value) in hello.fields.zip(&reading.values) {
        if let Some(value) = value {
            point.field(field.name, convert(*value, field.kind));
        }
    }
}

/// When it was taken, steady nanoseconds; never 0, which a collector takes for "now".
fn taken_at(arrived: i64, age_us: u64) -> i64 {
    let age = i64::try_from(age_us).map_or(AGE_MAX, |us| us.saturating_mul(1000).min(AGE_MAX));
    match arrived.saturating_sub(age) {
        0 => 1,
        at => at,
    }
}

fn convert(value: Raw, kind: FieldKind) -> Value<'static> {
    match (value, kind) {
        (Raw::Scaled(value), FieldKind::Scaled(0)) => Value::Int(value),
        (Raw::Scaled(value), FieldKind::Scaled(exponent)) => Value::Float(decimal(value, exponent)),
        (Raw::Scaled(value), _) => Value::Int(value),
        (Raw::F32(value), _) => Value::Float(f64::from(value)),
        (Raw::F64(value), _) => Value::Float(value),
        (Raw::Bool(value), _) => Value::Bool(value),
    }
}

/// The double nearest to `value` times ten to the power of `exponent`.
fn decimal(value: i64, exponent: i8) -> f64 {
    const POWERS: [f64; 16] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    // With both parts exact a division or multiplication rounds once, so correctly.
    match POWERS.get(usize::from(exponent.unsigned_abs())) {
        Some(power) if value.unsigned_abs() < 1 << 53 => {
            if exponent < 0 {
                value as f64 / power
            } else {
                value as f64 * power
            }
        }
        _ => format!("{value}e{exponent}").parse().unwrap_or(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_values_become_the_decimals_they_stand_for() {
        assert_eq!(convert(Raw::Scaled(2153), FieldKind::Scaled(-2)), Value::Float(21.53));
        assert_eq!(convert(Raw::Scaled(-7), FieldKind::Scaled(3)), Value::Float(-7000.0));
        assert_eq!(convert(Raw::Scaled(-7), FieldKind::Scaled(0)), Value::Int(-7));
        assert_eq!(decimal(i64::MAX, -18), 9.223_372_036_854_776);
        assert_eq!(decimal(1, -30), 1e-30);
        assert_eq!(decimal(1, 127), 1e127);
    }

    #[test]
    fn an_age_past_all_reason_is_cut() {
        assert_eq!(taken_at(5_000_000_000, 1_000_000), 4_000_000_000);
        assert_eq!(taken_at(1_000, 1), 1);
        assert_eq!(taken_at(0, u64::MAX), -AGE_MAX);
    }
}
