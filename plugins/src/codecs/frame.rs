//! Turns readings of the frame protocol into points, and faults of sensors into points of their own. It is no codec for `data_format`
//! in general: frames need a line back to the device, so inputs that have one (serial) use it.

use weir_firmware_shim::{
    fault::Fault,
    frame::{FIELDS_MAX, FieldKind, Hello, Reading, Value as Raw},
    link::Gateway,
};
use weir_plugin_api::{collector::Collector, value::Value};

/// No reading is believed to be older than this, nanoseconds: ten years.
const AGE_MAX: i64 = 10 * 365 * 86_400 * weir_plugin_api::time::SECOND;

/// No frame is believed to have been on the line for longer, nanoseconds: an hour.
const LINE_MAX: i64 = 3600 * weir_plugin_api::time::SECOND;

/// The log hears of a field this often at most, nanoseconds: a loose contact fails and recovers many times a second.
const TELL_EVERY: i64 = 10 * weir_plugin_api::time::SECOND;

/// What is wrong with a device's fields, as far as the log knows.
pub type Faults = [Told; FIELDS_MAX];

/// What is wrong with a field, and when the log heard of it last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    fault: Option<Fault>,
    at: Option<i64>,
    untold: u64,
}

impl Told {
    /// The device began anew: what was wrong with it before is not known to be.
    pub fn forget(&mut self) {
        self.fault = None;
    }

    /// Whether the log is to hear of `fault` now, and how many changes it has not heard of.
    fn hears(&mut self, fault: Option<Fault>, now: i64) -> Option<u64> {
        if std::mem::replace(&mut self.fault, fault) == fault {
            return None;
        }
        if self.at.is_some_and(|at| now - at < TELL_EVERY) {
            self.untold += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Writes the new readings of the data frame that came last, read at `arrived` (steady nanoseconds): each gets the time it was taken at.
/// The log hears of faults that are not in `known` yet, and of those that ended.
pub fn write_readings(gateway: &Gateway, device_tag: &str, arrived: i64, known: &mut Faults, out: &mut Collector) {
    let Some(hello) = gateway.hello() else { return };
    let sent = sent_at(arrived, gateway.sent_us());
    for reading in gateway.readings() {
        out.set_read_at(taken_at(sent, reading.age_us));
        write_values(&hello, &reading, device_tag, out);
        write_faults(&hello, &reading, device_tag, arrived, known, out);
    }
    out.set_read_at(arrived);
}

fn write_values(hello: &Hello<'_>, reading: &Reading, device_tag: &str, out: &mut Collector) {
    let is_fault = |value: &Option<Raw>| matches!(value, Some(Raw::Fault(_)));
    // With nothing but faults there is no point to write; with nothing at all there is one, which is refused and counted.
    if reading.values.iter().any(is_fault) && reading.values.iter().all(|value| value.is_none() || is_fault(value)) {
        return;
    }
    let tag = [(device_tag, hello.device)];
    let tags = if device_tag.is_empty() { &[][..] } else { &tag[..] };
    let mut point = out.point(hello.measurement, tags, None);
    for (field, value) in hello.fields.zip(&reading.values) {
        if let Some(value) = value.and_then(|value| convert(value, field.kind)) {
            point.field(field.name, value);
        }
    }
}

fn write_faults(hello: &Hello<'_>, reading: &Reading, device_tag: &str, now: i64, known: &mut Faults, out: &mut Collector) {
    for ((field, value), known) in hello.fields.zip(&reading.values).zip(known) {
        let Some(Raw::Fault(fault)) = value else { continue };
        let wrong = (*fault != Fault::None).then_some(*fault);
        if let Some(more_since_last) = known.hears(wrong, now) {
            match wrong {
                Some(fault) => tracing::warn!(device = hello.device, field = field.name, %fault, more_since_last, "a sensor has a fault"),
                None => tracing::info!(device = hello.device, field = field.name, more_since_last, "a sensor is well again"),
            }
        }
        let tags = [("field", field.name), (device_tag, hello.device)];
        let tags = if device_tag.is_empty() { &tags[..1] } else { &tags[..] };
        out.point(&format!("{}_fault", hello.measurement), tags, None).field("fault", fault.name()).field("code", i64::from(fault.code()));
    }
}

/// When the frame was sent, steady nanoseconds: what the device says, if that can be.
fn sent_at(arrived: i64, sent_us: Option<u64>) -> i64 {
    let sent = sent_us.and_then(|us| i64::try_from(us).ok()?.checked_mul(1000));
    match sent {
        Some(sent) if sent > arrived - LINE_MAX => sent.min(arrived),
        _ => arrived,
    }
}

/// When it was taken, steady nanoseconds; never 0, which a collector takes for "now".
fn taken_at(sent: i64, age_us: u64) -> i64 {
    let age = i64::try_from(age_us).map_or(AGE_MAX, |us| us.saturating_mul(1000).min(AGE_MAX));
    match sent.saturating_sub(age) {
        0 => 1,
        at => at,
    }
}

fn convert(value: Raw, kind: FieldKind) -> Option<Value<'static>> {
    Some(match (value, kind) {
        (Raw::Scaled(value), FieldKind::Scaled(0)) => Value::Int(value),
        (Raw::Scaled(value), FieldKind::Scaled(exponent)) => Value::Float(decimal(value, exponent)),
        (Raw::Scaled(value), _) => Value::Int(value),
        (Raw::F32(value), _) => Value::Float(f64::from(value)),
        (Raw::F64(value), _) => Value::Float(value),
        (Raw::Bool(value), _) => Value::Bool(value),
        (Raw::Fault(_), _) => return None,
    })
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
        assert_eq!(convert(Raw::Scaled(2153), FieldKind::Scaled(-2)), Some(Value::Float(21.53)));
        assert_eq!(convert(Raw::Scaled(-7), FieldKind::Scaled(3)), Some(Value::Float(-7000.0)));
        assert_eq!(convert(Raw::Scaled(-7), FieldKind::Scaled(0)), Some(Value::Int(-7)));
        assert_eq!(decimal(i64::MAX, -18), 9.223_372_036_854_776);
        assert_eq!(decimal(1, -30), 1e-30);
        assert_eq!(decimal(1, 127), 1e127);
    }

    #[test]
    fn the_log_hears_of_a_loose_contact_now_and_then() {
        let mut told = Told::default();
        let second = weir_plugin_api::time::SECOND;
        let heard: Vec<i64> =
            (0..200).filter(|tenth| told.hears((tenth % 2 == 0).then_some(Fault::Missing), tenth * second / 10).is_some()).collect();
        assert_eq!(heard, [0, 100], "of two hundred changes in twenty seconds");
        assert_eq!(told.hears(None, 40 * second), None, "no change");
        assert_eq!(told.hears(Some(Fault::Bus), 40 * second), Some(99));
    }

    #[test]
    fn an_age_past_all_reason_is_cut() {
        assert_eq!(taken_at(5_000_000_000, 1_000_000), 4_000_000_000);
        assert_eq!(taken_at(1_000, 1), 1);
        assert_eq!(taken_at(0, u64::MAX), -AGE_MAX);
    }

    #[test]
    fn a_moment_of_sending_that_cannot_be_is_not_believed() {
        let arrived = 2 * LINE_MAX;
        assert_eq!(sent_at(arrived, None), arrived);
        assert_eq!(sent_at(arrived, Some(arrived as u64 / 1000 - 3)), arrived - 3000);
        assert_eq!(sent_at(arrived, Some(arrived as u64 / 1000 + 3)), arrived, "after its arrival");
        assert_eq!(sent_at(arrived, Some(5)), arrived, "an hour on the line");
        assert_eq!(sent_at(arrived, Some(u64::MAX)), arrived);
    }
}
