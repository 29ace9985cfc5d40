//! Whether a reading is worth sending.

use crate::frame::Value;

/// How far a field may wander from what was sent last without being sent again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadband {
    /// Every reading is sent.
    None,
    /// A change by more than that is sent, in the unit of the value as it is sent: hundredths with an exponent of −2. Of a boolean, any.
    Change(f32),
}

impl Deadband {
    /// Whether `new` is worth sending after `sent`. A fault that comes, goes or becomes another one always is.
    pub fn is_left(&self, sent: Option<Value>, new: Option<Value>) -> bool {
        let Self::Change(change) = self else { return new.is_some() };
        match (sent, new) {
            (_, None) => false,
            (Some(Value::Scaled(a)), Some(Value::Scaled(b))) => a.abs_diff(b) as f32 > *change,
            (Some(Value::F32(a)), Some(Value::F32(b))) => (a - b).abs() > *change,
            (Some(Value::F64(a)), Some(Value::F64(b))) => (a - b).abs() > f64::from(*change),
            (a, b) => a != b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Deadband::{Change, None as Always};
    use crate::{fault::Fault, frame::Value};

    #[test]
    fn only_what_leaves_the_band_is_worth_it() {
        let scaled = |n| Some(Value::Scaled(n));
        assert!(!Change(5.0).is_left(scaled(100), scaled(105)));
        assert!(Change(5.0).is_left(scaled(100), scaled(106)));
        assert!(Change(5.0).is_left(scaled(i64::MIN), scaled(i64::MAX)));
        assert!(!Change(0.0).is_left(scaled(1), scaled(1)) && Change(0.0).is_left(scaled(1), scaled(2)));
        assert!(Change(0.5).is_left(Some(Value::F32(1.0)), Some(Value::F32(1.6))));
        assert!(Change(9.0).is_left(Some(Value::Bool(false)), Some(Value::Bool(true))));
        assert!(Always.is_left(scaled(1), scaled(1)) && Change(9.0).is_left(None, scaled(1)));
    }

    #[test]
    fn faults_are_worth_it_when_they_change() {
        let (missing, bus) = (Some(Value::Fault(Fault::Missing)), Some(Value::Fault(Fault::Bus)));
        assert!(!Change(5.0).is_left(missing, missing));
        assert!(Change(5.0).is_left(missing, bus) && Change(5.0).is_left(missing, Some(Value::Scaled(1))));
        assert!(Change(5.0).is_left(Some(Value::Scaled(1)), missing));
    }
}
