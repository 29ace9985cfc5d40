//! What the agenda asks of a sensor, whatever it hangs on.

use crate::{fault::Fault, frame::Value};

/// Something that measures one or more fields.
pub trait Sensor {
    /// Begins a measurement and says how long it takes, microseconds. It does not wait for it.
    ///
    /// # Errors
    /// The fault all its fields have.
    fn begin(&mut self) -> Result<u32, Fault>;

    /// Reads what was measured: one place per field, `None` in each at first. A fault of one field goes into its place.
    ///
    /// # Errors
    /// The fault all its fields have.
    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault>;

    /// Called every time round the main loop: for sensors that have to be looked at in between.
    fn poll(&mut self) {}
}
