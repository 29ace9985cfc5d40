//! The fields of a made-up point: Telegraf's generators, counted in gathers, and ours, in time.

use std::{collections::BTreeSet, f64::consts::PI, time::Duration};

use weir_plugin_api::{
    options::{FromNode, Item, Node, OptionSpec, Section},
    value::Value,
};

use super::random::Random;

/// Declares the tables: their options, and how they are read into a [`Shape`].
macro_rules! waves {
    ($($(#[doc = $doc:literal])+ $table:ident $variant:ident { $($(#[doc = $fdoc:literal])+ $field:ident : $type:ty $(= $default:expr)?),* $(,)? })*) => {
        $(weir_plugin_api::options! {
            /// Options of a table of this kind.
            pub struct $variant { $($(#[doc = $fdoc])+ $field: $type $(= $default)?),* }
        })*

        /// What a field does.
        pub(super) enum Shape { $($variant($variant)),* }

        /// The tables there are.
        pub(super) fn specs() -> Vec<OptionSpec> {
            vec![$(OptionSpec {
                name: stringify!($table),
                kind: "tables",
                default: Some(String::new()),
                doc: concat!($($doc),+).trim_start(),
            }),*]
        }

        fn read_all(section: &Section<'_>) -> Vec<Generator> {
            let mut generators = Vec::new();
            $(for table in section.tables(stringify!($table)) {
                if let Some(options) = $variant::read(&table) {
                    generators.push(Generator { name: options.name.clone(), shape: Shape::$variant(options) });
                }
                table.finish(&[]);
            })*
            generators
        }
    };
}

waves! {
    /// The same value always: `name`, `value` of any type.
    constant Constant {
        /// Field.
        name: String,
        /// Value.
        value: Fixed,
    }
    /// Evenly between two numbers: `name`, `min`, `max`.
    random Even {
        /// Field.
        name: String,
        /// Least.
        min: f64 = 0.0,
        /// Most.
        max: f64 = 1.0,
    }
    /// Telegraf's sine, by gathers: amplitude × sin(n × period × π + phase) + base_line.
    sine_wave SineWave {
        /// Field.
        name: String,
        /// Height above the base line.
        amplitude: f64 = 1.0,
        /// Half turns per gather.
        period: f64 = 0.5,
        /// Where it starts, radians.
        phase: f64 = 0.0,
        /// Its middle.
        base_line: f64 = 0.0,
    }
    /// A number that grows at each gather: `name`, `start`, `step`.
    step Step {
        /// Field.
        name: String,
        /// First value.
        start: f64 = 0.0,
        /// What is added.
        step: f64 = 1.0,
    }
    /// A price that wanders, never below 1: `name`, `price`, `volatility`.
    stock Stock {
        /// Field.
        name: String,
        /// First value.
        price: f64 = 50.0,
        /// Largest change at a gather, as a part of the price.
        volatility: f64 = 0.2,
    }
    /// A sine in time: `name`, `base_line`, `amplitude`, `period` (a duration), `noise`. The devices' phases are spread over a period.
    sine Sine {
        /// Field.
        name: String,
        /// Its middle.
        base_line: f64 = 0.0,
        /// Height above the middle.
        amplitude: f64 = 1.0,
        /// One turn.
        period: Duration = Duration::from_secs(60),
        /// Standard deviation of normal noise on top.
        noise: f64 = 0.0,
    }
    /// High and low in turn: `name`, `low`, `high`, `period`, `duty` (the part of the period it is high), `noise`.
    square Square {
        /// Field.
        name: String,
        /// Low value.
        low: f64 = 0.0,
        /// High value.
        high: f64 = 1.0,
        /// High and low once.
        period: Duration = Duration::from_secs(60),
        /// The part of the period it is high, 0 to 1.
        duty: f64 = 0.5,
        /// Standard deviation of normal noise on top.
        noise: f64 = 0.0,
    }
    /// A rise and a fall at once: `name`, `min`, `max`, `period`, `noise`.
    sawtooth Sawtooth {
        /// Field.
        name: String,
        /// Where it starts.
        min: f64 = 0.0,
        /// Where it falls.
        max: f64 = 1.0,
        /// One rise.
        period: Duration = Duration::from_secs(60),
        /// Standard deviation of normal noise on top.
        noise: f64 = 0.0,
    }
    /// A random walk between two walls: `name`, `start`, `step` (largest change per point), `min`, `max`.
    walk Walk {
        /// Field.
        name: String,
        /// First value.
        start: f64 = 0.0,
        /// Largest change.
        step: f64 = 1.0,
        /// Lower wall.
        min: f64 = -100.0,
        /// Upper wall.
        max: f64 = 100.0,
    }
    /// Normal noise: `name`, `mean`, `deviation`.
    noise Noise {
        /// Field.
        name: String,
        /// Mean.
        mean: f64 = 0.0,
        /// Standard deviation.
        deviation: f64 = 1.0,
    }
}

/// A value of any type.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed(Item);

impl Fixed {
    /// As a field takes it.
    pub(super) fn as_value(&self) -> Value<'_> {
        match &self.0 {
            Item::Text(text) => Value::Text(text),
            Item::Int(value) => Value::Int(*value),
            Item::Float(value) => Value::Float(*value),
            Item::Bool(value) => Value::Bool(*value),
            Item::Array(_) | Item::Table(_) => Value::Text(""),
        }
    }
}

impl FromNode for Fixed {
    const KIND: &'static str = "string, number or boolean";

    fn from_node(node: &Node, _: &Section<'_>, _: &str) -> Result<Self, String> {
        match &node.item {
            Item::Array(_) | Item::Table(_) => Err(format!("expected a string, number or boolean, this is {}", node.item.type_name())),
            item => Ok(Self(item.clone())),
        }
    }

    fn to_toml(&self) -> String {
        match &self.0 {
            Item::Text(text) => text.to_toml(),
            Item::Int(value) => value.to_toml(),
            Item::Float(value) => value.to_toml(),
            Item::Bool(value) => value.to_toml(),
            Item::Array(_) | Item::Table(_) => String::new(),
        }
    }
}

/// One field.
pub(super) struct Generator {
    pub(super) name: String,
    shape: Shape,
}

/// One value of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sample {
    Number(f64),
    Constant(Fixed),
}

/// Reads every table; reports when there is none, and names that come twice.
pub(super) fn read(section: &Section<'_>) -> Vec<Generator> {
    let before = section.diagnostics().errors();
    let generators = read_all(section);
    if generators.is_empty() && section.diagnostics().errors() == before {
        section.error(format!("[{}] makes no field: it needs a table such as [[{0}.sine]]", section.path));
    }
    let mut names = BTreeSet::new();
    for generator in &generators {
        if !names.insert(generator.name.as_str()) {
            section.error(format!("[{}] makes the field `{}` twice", section.path, generator.name));
        }
        let period = match &generator.shape {
            Shape::Sine(o) => o.period,
            Shape::Square(o) => o.period,
            Shape::Sawtooth(o) => o.period,
            _ => continue,
        };
        if period.is_zero() {
            section.error(format!("`period` of the field `{}` must not be 0", generator.name));
        }
    }
    generators
}

/// What a device remembers between its points.
pub(super) struct State {
    pub(super) random: Random,
    /// Part of a period this device is ahead.
    ahead: f64,
    /// Last value of each generator that has one.
    last: Vec<f64>,
}

impl State {
    pub(super) fn new(generators: &[Generator], seed: u64, ahead: f64) -> Self {
        let start = |generator: &Generator| match &generator.shape {
            Shape::Stock(o) => o.price,
            Shape::Walk(o) => o.start,
            _ => 0.0,
        };
        Self { random: Random::new(seed), ahead, last: generators.iter().map(start).collect() }
    }

    /// One value per generator, for the point number `count`, `seconds` after the first.
    pub(super) fn samples(&mut self, generators: &[Generator], count: u64, seconds: f64) -> Vec<Sample> {
        generators.iter().enumerate().map(|(i, generator)| self.sample(i, &generator.shape, count, seconds)).collect()
    }

    fn sample(&mut self, index: usize, shape: &Shape, count: u64, seconds: f64) -> Sample {
        let turn = |period: Duration| (seconds / period.as_secs_f64() + self.ahead).fract();
        let n = count as f64;
        let (value, noise) = match shape {
            Shape::Constant(o) => return Sample::Constant(o.value.clone()),
            Shape::Even(o) => (o.min + self.random.unit() * (o.max - o.min), 0.0),
            Shape::SineWave(o) => ((n * o.period * PI + o.phase).sin() * o.amplitude + o.base_line, 0.0),
            Shape::Step(o) => (o.start + n * o.step, 0.0),
            Shape::Stock(o) => {
                let last = &mut self.last[index];
                if count > 0 {
                    *last = (*last + *last * o.volatility * (2.0 * self.random.unit() - 1.0)).max(1.0);
                }
                (*last, 0.0)
            }
            Shape::Sine(o) => (o.base_line + o.amplitude * (turn(o.period) * 2.0 * PI).sin(), o.noise),
            Shape::Square(o) => (if turn(o.period) < o.duty { o.high } else { o.low }, o.noise),
            Shape::Sawtooth(o) => (o.min + (o.max - o.min) * turn(o.period), o.noise),
            Shape::Walk(o) => {
                let last = &mut self.last[index];
                if count > 0 {
                    *last = (*last + o.step * (2.0 * self.random.unit() - 1.0)).min(o.max).max(o.min);
                }
                (*last, 0.0)
            }
            Shape::Noise(o) => (o.mean, o.deviation),
        };
        Sample::Number(if noise == 0.0 { value } else { value + noise * self.random.normal() })
    }
}
