//! Chips that the firmware shim's drivers read on the gateway: opened when first asked, measuring at the same time, opened anew by their
//! driver's own means after a fault.

use std::time::Duration;

use weir_firmware_shim::{
    fault::Fault,
    frame::{Field, FieldKind, Value},
    sensor::Sensor,
};
use weir_plugin_api::plugin::PluginError;

use super::sensing::{Found, Scan};

/// A driver that can be handed to another thread.
pub(crate) type AnySensor = Box<dyn Sensor + Send>;

/// How the driver comes to its bus.
pub(crate) type Open = Box<dyn Fn() -> Result<AnySensor, PluginError> + Send>;

/// One chip.
pub(crate) struct Probe {
    name: String,
    fields: Vec<Field<'static>>,
    open: Open,
    driver: Option<AnySensor>,
}

impl Probe {
    /// The chip called `name` in tags, whose driver gives these fields.
    pub(crate) fn new(name: String, fields: Vec<Field<'static>>, open: Open) -> Self {
        Self { name, fields, open, driver: None }
    }

    /// The driver, opened if it is not.
    fn driver(&mut self) -> Result<&mut AnySensor, PluginError> {
        match &mut self.driver {
            Some(driver) => Ok(driver),
            none => Ok(none.insert((self.open)()?)),
        }
    }

    fn read(&mut self) -> Result<Vec<Option<Value>>, Fault> {
        let mut values = vec![None; self.fields.len()];
        self.driver.as_mut().ok_or(Fault::Missing)?.read(&mut values)?;
        Ok(values)
    }

    fn found(&self, outcome: Result<Vec<Option<Value>>, Fault>) -> Vec<Found> {
        let value = |i: usize| match &outcome {
            Err(fault) => Err(*fault),
            Ok(values) => number(values.get(i).copied().flatten(), self.fields[i].kind),
        };
        let tags = vec![("device", self.name.clone())];
        (0..self.fields.len()).map(|i| Found { tags: tags.clone(), field: self.fields[i].name.to_owned(), value: value(i) }).collect()
    }
}

/// Those that measure at the same time.
pub(crate) struct Chips(pub(crate) Vec<Probe>);

impl Scan for Chips {
    fn scan(&mut self) -> Result<Vec<Found>, PluginError> {
        let begun: Vec<Result<u32, Fault>> =
            self.0.iter_mut().map(|probe| probe.driver().map(|driver| driver.begin())).collect::<Result<_, _>>()?;
        let longest = begun.iter().filter_map(|takes| takes.ok()).max().unwrap_or(0);
        // As long as the slowest of them needs; this thread is there for waiting.
        std::thread::sleep(Duration::from_micros(u64::from(longest)));
        let read = |(probe, begun): (&mut Probe, Result<u32, Fault>)| {
            let outcome = begun.and_then(|_| probe.read());
            probe.found(outcome)
        };
        Ok(self.0.iter_mut().zip(begun).flat_map(read).collect())
    }
}

/// The number a driver's value stands for.
fn number(value: Option<Value>, kind: FieldKind) -> Result<f64, Fault> {
    match (value.map(Value::checked), kind) {
        (Some(Value::Scaled(value)), FieldKind::Scaled(exponent)) if exponent < 0 => {
            Ok(value as f64 / 10f64.powi(i32::from(exponent.unsigned_abs())))
        }
        (Some(Value::Scaled(value)), FieldKind::Scaled(exponent)) => Ok(value as f64 * 10f64.powi(i32::from(exponent))),
        (Some(Value::F32(value)), _) => Ok(f64::from(value)),
        (Some(Value::F64(value)), _) => Ok(value),
        (Some(Value::Bool(value)), _) => Ok(f64::from(u8::from(value))),
        (Some(Value::Fault(fault)), _) => Err(fault),
        (Some(Value::Scaled(_)) | None, _) => Err(Fault::NotReady),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::{
        collector::Collector,
        plugin::PolledInput,
        position::{Position, Resume},
        testing::{Receiver, context},
    };

    /// Has an input read once: its points, or its error.
    pub(crate) async fn gather(
        input: &mut dyn PolledInput,
        both: (Collector, Receiver),
    ) -> (Result<Vec<String>, String>, (Collector, Receiver)) {
        let (collector, mut receiver) = both;
        let mut context = context(collector, Resume::default());
        let outcome = input.gather(&mut context).await;
        context.collector.try_flush(Position::None).unwrap();
        let lines = receiver.take();
        (outcome.map(|()| lines).map_err(|error| error.to_string()), (context.collector, receiver))
    }
}
