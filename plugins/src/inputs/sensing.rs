//! What polled sensors of the gateway itself have in common: values become points, faults become points of their own, as those that come
//! over the frame protocol do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use weir_firmware_shim::fault::Fault;
use weir_plugin_api::{
    collector::Collector,
    plugin::{BoxFuture, InputContext, PluginError, PolledInput},
};

/// Which sensor.
pub(crate) type Tags = Vec<(&'static str, String)>;

/// One value of one sensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Whose it is.
    pub(crate) tags: Tags,
    /// Which of its fields.
    pub(crate) field: String,
    /// The value, or why there is none.
    pub(crate) value: Result<f64, Fault>,
}

/// Reads all sensors once; may wait for them.
pub(crate) trait Scan: Send {
    /// What is there.
    ///
    /// # Errors
    /// When there is no telling.
    fn scan(&mut self) -> Result<Vec<Found>, PluginError>;
}

/// A polled input over a scan.
pub(crate) struct Sensing<S> {
    measurement: &'static str,
    scan: Arc<Mutex<S>>,
    /// Fields that have a fault, by their tags and name.
    faults: BTreeMap<(Tags, String), Fault>,
}

impl<S: Scan + 'static> Sensing<S> {
    /// Points are called `measurement`, those of faults `<measurement>_fault`.
    pub(crate) fn new(measurement: &'static str, scan: S) -> Self {
        Self { measurement, scan: Arc::new(Mutex::new(scan)), faults: BTreeMap::new() }
    }

    fn write(&mut self, found: Vec<Found>, input: &str, out: &mut Collector) {
        let mut rest = &found[..];
        while let Some(first) = rest.first() {
            let len = rest.iter().take_while(|other| other.tags == first.tags).count();
            let (sensor, others) = rest.split_at(len);
            rest = others;
            let tags: Vec<(&str, &str)> = first.tags.iter().map(|(key, value)| (*key, value.as_str())).collect();
            if sensor.iter().any(|field| field.value.is_ok()) {
                let mut point = out.point(self.measurement, &tags, None);
                for field in sensor {
                    if let Ok(value) = field.value {
                        point.field(&field.field, value);
                    }
                }
            }
            for field in sensor {
                self.write_fault(field, &tags, input, out);
            }
        }
    }

    fn write_fault(&mut self, found: &Found, tags: &[(&str, &str)], input: &str, out: &mut Collector) {
        let key = (found.tags.clone(), found.field.clone());
        let fault = match found.value {
            Err(fault) => {
                if self.faults.insert(key, fault) != Some(fault) {
                    tracing::warn!(input, sensor = ?tags, field = %found.field, %fault, "a sensor has a fault");
                }
                fault
            }
            Ok(_) if self.faults.remove(&key).is_some() => {
                tracing::info!(input, sensor = ?tags, field = %found.field, "a sensor is well again");
                Fault::None
            }
            Ok(_) => return,
        };
        let tags: Vec<(&str, &str)> = tags.iter().copied().chain([("field", found.field.as_str())]).collect();
        out.point(&format!("{}_fault", self.measurement), &tags, None).field("fault", fault.name()).field("code", i64::from(fault.code()));
    }
}

impl<S: Scan + 'static> PolledInput for Sensing<S> {
    fn gather<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let scan = Arc::clone(&self.scan);
            // A conversion of a 1-Wire thermometer takes most of a second.
            let found = tokio::task::spawn_blocking(move || scan.lock().unwrap_or_else(PoisonError::into_inner).scan())
                .await
                .map_err(|error| PluginError::because("reading the sensors", &error))??;
            self.write(found, &context.name, &mut context.collector);
            Ok(())
        })
    }
}
