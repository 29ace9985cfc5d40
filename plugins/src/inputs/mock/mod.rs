//! Makes points up: Telegraf's `mock`, and a simulator of devices with waveforms and faults. A seed decides everything.

use weir_plugin_api::{
    collector::Collector,
    options::{OptionSpec, Section},
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, InputContext, InputEntry, PluginError, PolledInput},
};

use self::wave::{Generator, Sample, State};

mod random;
mod wave;

weir_plugin_api::options! {
    /// Options of `mock`.
    pub struct Options {
        /// Measurement.
        metric_name: String,
        /// Where the random numbers start: the same seed and name give the same points.
        seed: u64 = 1,
        /// Number of devices, each with a tag `device` and its own numbers; 0 for points without that tag.
        devices: usize = 0,
        /// Points of each device at each interval, evenly spread over it.
        points_per_interval: usize = 1,
        /// Chance that a point is missing, 0 to 1.
        gap_probability: f64 = 0.0,
        /// Chance that the numbers of a point are multiplied by `outlier_factor`, 0 to 1.
        outlier_probability: f64 = 0.0,
        /// What outliers are multiplied by.
        outlier_factor: f64 = 10.0,
        /// Chance that a device begins to repeat its last values, 0 to 1.
        stuck_probability: f64 = 0.0,
        /// How many points it repeats them for.
        stuck_points: u32 = 10,
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "mock", about: "points made up, for trials and demonstrations", specs, unsupported: &[], build };

/// Devices and points an interval may have at most.
const DEVICES_MAX: usize = 100_000;
const POINTS_MAX: usize = 1_000_000;

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.extend(wave::specs());
    specs
}

fn build(section: &Section<'_>, context: &BuildContext) -> Option<BuiltInput> {
    let before = section.diagnostics().errors();
    let options = Options::read(section);
    let generators = wave::read(section);
    let options = options?;
    for (key, chance) in [
        ("gap_probability", options.gap_probability),
        ("outlier_probability", options.outlier_probability),
        ("stuck_probability", options.stuck_probability),
    ] {
        if !(0.0..=1.0).contains(&chance) {
            section.error_at(key, format!("`{key}` must be between 0 and 1"));
        }
    }
    if options.devices > DEVICES_MAX {
        section.error_at("devices", format!("`devices` must be at most {DEVICES_MAX}"));
    }
    if options.points_per_interval == 0 || options.points_per_interval > POINTS_MAX {
        section.error_at("points_per_interval", format!("`points_per_interval` must be between 1 and {POINTS_MAX}"));
    }
    if section.diagnostics().errors() > before {
        return None;
    }
    let mock = Mock::new(options, generators, &context.name, context.interval);
    Some(BuiltInput { input: AnyInput::Polled(Box::new(mock)), claims: Vec::new() })
}

struct Device {
    name: String,
    state: State,
    stuck: u32,
    last: Vec<Sample>,
}

struct Mock {
    options: Options,
    generators: Vec<Generator>,
    devices: Vec<Device>,
    interval_ns: i64,
    /// Points made so far, each for all devices.
    count: u64,
}

impl Mock {
    fn new(options: Options, generators: Vec<Generator>, name: &str, interval: std::time::Duration) -> Self {
        let devices = (0..options.devices.max(1))
            .map(|i| Device {
                name: if options.devices == 0 { String::new() } else { format!("{name}-{}", i + 1) },
                state: State::new(&generators, random::seed(options.seed, name, i as u64), i as f64 / options.devices.max(1) as f64),
                stuck: 0,
                last: Vec::new(),
            })
            .collect();
        Self { options, generators, devices, interval_ns: i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX), count: 0 }
    }

    async fn run(&mut self, collector: &mut Collector) -> Result<(), PluginError> {
        let (now, points) = (collector.clock().steady(), self.options.points_per_interval);
        let apart = self.interval_ns / points as i64;
        for k in 0..points {
            // The last of them is now, the others lie before it; 0 would be taken for "now".
            let behind = apart.saturating_mul((points - 1 - k) as i64);
            let at = match now.saturating_sub(behind) {
                0 => 1,
                at => at,
            };
            let seconds = self.count as f64 * apart as f64 / 1e9;
            for device in &mut self.devices {
                collector.set_read_at(at);
                device.point(&self.options, &self.generators, self.count, seconds, collector);
                if collector.is_full() {
                    collector.try_flush(weir_plugin_api::position::Position::None)?;
                    // Many points must not keep others of this thread waiting.
                    tokio::task::yield_now().await;
                }
            }
            self.count += 1;
        }
        Ok(())
    }
}

impl Device {
    fn point(&mut self, options: &Options, generators: &[Generator], count: u64, seconds: f64, out: &mut Collector) {
        // Every chance is drawn for every point, so that one fault does not shift the others.
        let [gap, outlier, stuck] = [(); 3].map(|()| self.state.random.unit());
        let fresh = self.state.samples(generators, count, seconds);
        if self.stuck > 0 {
            self.stuck -= 1;
        } else {
            self.last = fresh;
            self.stuck = if stuck < options.stuck_probability { options.stuck_points } else { 0 };
        }
        if gap < options.gap_probability {
            return;
        }
        let factor = if outlier < options.outlier_probability { options.outlier_factor } else { 1.0 };
        let tag = [("device", self.name.as_str())];
        let mut point = out.point(&options.metric_name, if self.name.is_empty() { &[] } else { &tag }, None);
        for (generator, sample) in generators.iter().zip(&self.last) {
            match sample {
                Sample::Number(value) => point.field(&generator.name, value * factor),
                Sample::Constant(value) => point.field(&generator.name, value.as_value()),
            };
        }
    }
}

impl PolledInput for Mock {
    fn gather<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(self.run(&mut context.collector))
    }
}

#[cfg(test)]
mod tests;
