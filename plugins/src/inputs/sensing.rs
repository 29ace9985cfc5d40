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

/// Values remembered at most: sensors that a bad contact makes up, each with a number of its own, must not fill the memory.
const KNOWN_MAX: usize = 4096;

/// Lines for the log from one scan at most: what says the same of every sensor is said of the first.
const LINES_MAX: u32 = 8;

/// What is remembered of a value.
#[derive(Clone, Copy, Debug)]
struct Known {
    fault: Option<Fault>,
    /// Number of the scan that found it last.
    found_in: u64,
}

/// A polled input over a scan.
pub(crate) struct Sensing<S> {
    measurement: &'static str,
    scan: Arc<Mutex<S>>,
    scans: u64,
    /// Lines this scan gave the log, those that were left out included.
    lines: u32,
    /// Values that were found, by their tags and field.
    known: BTreeMap<(Tags, String), Known>,
}

impl<S: Scan + 'static> Sensing<S> {
    /// Points are called `measurement`, those of faults `<measurement>_fault`.
    pub(crate) fn new(measurement: &'static str, scan: S) -> Self {
        Self { measurement, scan: Arc::new(Mutex::new(scan)), scans: 0, lines: 0, known: BTreeMap::new() }
    }

    fn write(&mut self, found: Vec<Found>, input: &str, out: &mut Collector) {
        self.scans += 1;
        self.lines = 0;
        let mut rest = &found[..];
        while let Some(first) = rest.first() {
            let len = rest.iter().take_while(|other| other.tags == first.tags).count();
            let (sensor, others) = rest.split_at(len);
            rest = others;
            let tags = borrowed(&first.tags);
            if sensor.iter().any(|field| field.value.is_ok()) {
                let mut point = out.point(self.measurement, &tags, None);
                for field in sensor {
                    if let Ok(value) = field.value {
                        point.field(&field.field, value);
                    }
                }
            }
            for field in sensor {
                self.tell(field, &tags, input, out);
            }
        }
        self.tell_of_gone(input, out);
        if self.lines > LINES_MAX {
            tracing::warn!(%input, more = self.lines - LINES_MAX, "more sensors failed, recovered or are gone");
        }
        if self.known.len() > KNOWN_MAX {
            let scans = self.scans;
            self.known.retain(|_, known| known.found_in == scans);
        }
    }

    /// Tells of a fault each time, and of its end.
    fn tell(&mut self, found: &Found, tags: &[(&str, &str)], input: &str, out: &mut Collector) {
        let new = Known { fault: found.value.err(), found_in: self.scans };
        let before = self.known.insert((found.tags.clone(), found.field.clone()), new).and_then(|known| known.fault);
        match new.fault {
            Some(fault) if before != Some(fault) && self.logs() => {
                tracing::warn!(%input, sensor = ?tags, field = %found.field, %fault, "a sensor has a fault");
            }
            None if before.is_none() => return,
            None if self.logs() => tracing::info!(%input, sensor = ?tags, field = %found.field, "a sensor is well again"),
            _ => {}
        }
        write_fault(self.measurement, tags, &found.field, new.fault.unwrap_or(Fault::None), out);
    }

    /// Whether the log takes another line of this scan.
    fn logs(&mut self) -> bool {
        self.lines += 1;
        self.lines <= LINES_MAX
    }

    /// Tells once of what was found before and is not found any more.
    fn tell_of_gone(&mut self, input: &str, out: &mut Collector) {
        for ((tags, field), known) in &mut self.known {
            if known.found_in == self.scans || known.fault == Some(Fault::Missing) {
                continue;
            }
            known.fault = Some(Fault::Missing);
            let tags = borrowed(tags);
            self.lines += 1;
            if self.lines <= LINES_MAX {
                tracing::warn!(%input, sensor = ?tags, field, "a sensor is gone");
            }
            write_fault(self.measurement, &tags, field, Fault::Missing, out);
        }
    }
}

fn borrowed(tags: &Tags) -> Vec<(&str, &str)> {
    tags.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

fn write_fault(measurement: &str, tags: &[(&str, &str)], field: &str, fault: Fault, out: &mut Collector) {
    let tags: Vec<(&str, &str)> = tags.iter().copied().chain([("field", field)]).collect();
    out.point(&format!("{measurement}_fault"), &tags, None).field("fault", fault.name()).field("code", i64::from(fault.code()));
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
