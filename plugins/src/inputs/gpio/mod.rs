//! Reads GPIO lines: levels, edges with the kernel's time, and counters.
//!
//! The kernel numbers the edges of each line. A gap in the numbers is edges it could not keep for us: counted as lost, and still
//! counted by counters.

use std::time::Duration;

use weir_plugin_api::{
    options::{OptionSpec, Section},
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry},
};

use self::run::{Gpio, Line};
use crate::gpio::{Bias, Chip, Device, Edges, InputLine, chip_path};

mod run;
mod several;
#[cfg(test)]
mod tests;

weir_plugin_api::options! {
    /// Options of `gpio`.
    pub struct Options {
        /// The chip's device file, such as `/dev/gpiochip0`.
        chip: String,
        /// How often levels and counters are published and the chip is looked after.
        publish_every: Duration = Duration::from_secs(10),
    }
}

weir_plugin_api::choice! {
    /// What of a line is published.
    pub enum Mode {
        /// Its level, each `publish_every`.
        Level = "level",
        /// Each edge.
        Edge = "edge",
        /// The number of edges since the start, each `publish_every`.
        Counter = "counter",
    }
}

weir_plugin_api::options! {
    /// One line.
    pub struct LineOptions {
        /// Its number on the chip.
        offset: u32,
        /// Tag `name`; none if absent.
        name: Option<String> = None,
        /// `level`, `edge` or `counter`.
        mode: Mode = Mode::Level,
        /// Which changes are edges: `rising`, `falling`, `both`. Absent means both for edges, and rising for a counter.
        edge: Option<Edges> = None,
        /// What holds a line that nothing drives: `as_is`, `pull_up`, `pull_down`, `disabled`.
        bias: Bias = Bias::AsIs,
        /// Shorter changes are bounces of a contact.
        debounce: Duration = Duration::ZERO,
        /// The line is active when its voltage is low.
        active_low: bool = false,
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry { name: "gpio", about: "levels, edges and counts of GPIO lines", specs, unsupported: &[], build };

/// Lines the kernel gives in one request.
const LINES_MAX: usize = 64;

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.push(OptionSpec {
        name: "line",
        kind: "tables",
        default: Some(String::new()),
        doc: "A line, a table for each: `offset`, `name`, `mode` (level, edge, counter), `edge` (rising, falling, both), `bias`, `debounce`, `active_low`.",
    });
    specs
}

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let before = section.diagnostics().errors();
    let options = Options::read(section);
    let lines: Vec<Line> = section.tables("line").into_iter().filter_map(read_line).collect();
    let options = options?;
    let path = chip_path(section, &options.chip)?;
    if options.publish_every < Duration::from_millis(1) {
        section.error_at("publish_every", "`publish_every` must be at least 1ms");
    }
    if section.diagnostics().errors() == before && (lines.is_empty() || lines.len() > LINES_MAX) {
        section.error(format!("[{}] needs 1 to {LINES_MAX} tables [[{0}.line]]", section.path));
    }
    for (i, line) in lines.iter().enumerate() {
        if lines[..i].iter().any(|other| other.input.offset == line.input.offset) {
            section.error_at("line", format!("line {} of the chip is named twice", line.input.offset));
        }
    }
    if section.diagnostics().errors() > before {
        return None;
    }
    let canonical = crate::claim::canonical(&path);
    let claims = lines.iter().map(|line| format!("gpio:{}:{}", canonical.display(), line.input.offset)).collect();
    let chip: Box<dyn Chip> = Box::new(Device::new(path));
    Some(BuiltInput { input: AnyInput::Streaming(Box::new(Gpio::new(chip, lines, options.publish_every))), claims })
}

fn read_line(section: Section<'_>) -> Option<Line> {
    let options = LineOptions::read(&section);
    if let Some(options) = &options
        && options.mode == Mode::Level
        && options.edge.is_some()
    {
        section.error_at("edge", "`edge` has no meaning with `mode = \"level\"`");
    }
    section.finish(&[]);
    let options = options?;
    let edges = match options.mode {
        Mode::Level => None,
        Mode::Edge => Some(options.edge.unwrap_or(Edges::Both)),
        Mode::Counter => Some(options.edge.unwrap_or(Edges::Rising)),
    };
    Some(Line::new(
        options.name.unwrap_or_default(),
        options.mode,
        InputLine { offset: options.offset, active_low: options.active_low, bias: options.bias, debounce: options.debounce, edges },
    ))
}
