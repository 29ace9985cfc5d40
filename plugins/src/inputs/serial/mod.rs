//! Reads a serial port: text or binary pieces for any codec, or the frame protocol of the firmware shim with acknowledgements.
//!
//! A port that is missing or pulled out is looked for until it is back; nothing else stops meanwhile.

use std::time::Duration;

use tokio_serial::{DataBits, FlowControl, Parity, StopBits};
use weir_plugin_api::{
    options::{OptionSpec, Section, Size},
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry},
};

use self::{
    framing::{Rule, Splitter},
    port::Settings,
    run::{Reading, Serial},
};
use crate::codecs;

mod framing;
#[cfg(feature = "codec-frame")]
mod link;
#[cfg(feature = "codec-frame")]
mod link_log;
#[cfg(test)]
mod options_tests;
mod port;
mod run;
#[cfg(test)]
mod tests;

weir_plugin_api::choice! {
    /// How the stream is parted into payloads.
    pub enum Framing {
        /// At newlines; a carriage return before one belongs to it.
        Line = "line",
        /// At a sequence of bytes.
        Delimiter = "delimiter",
        /// At a fixed length.
        Fixed = "fixed",
        /// Where nothing comes for a while.
        Idle = "idle",
    }
}

weir_plugin_api::choice! {
    /// Parity of a byte on the line.
    pub enum ParityChoice {
        /// No parity bit.
        None = "none",
        /// An odd number of ones.
        Odd = "odd",
        /// An even number of ones.
        Even = "even",
    }
}

weir_plugin_api::choice! {
    /// Who may say stop.
    pub enum Flow {
        /// Nobody.
        None = "none",
        /// The wires RTS and CTS.
        Hardware = "hardware",
        /// The bytes XON and XOFF.
        Software = "software",
    }
}

weir_plugin_api::options! {
    /// Options of `serial`.
    pub struct Options {
        /// The port's device file, such as `/dev/ttyUSB0` or, steadier, a link below `/dev/serial/by-id`.
        port: String,
        /// Bits per second.
        baud_rate: u32 = 115_200,
        /// Bits of a byte: 5, 6, 7 or 8.
        data_bits: u8 = 8,
        /// Parity: `none`, `odd`, `even`.
        parity: ParityChoice = ParityChoice::None,
        /// Stop bits: 1 or 2.
        stop_bits: u8 = 1,
        /// Flow control: `none`, `hardware`, `software`.
        flow_control: Flow = Flow::None,
        /// Nobody else may open the port meanwhile.
        exclusive: bool = true,
        /// How the stream is parted into payloads: `line`, `delimiter`, `fixed`, `idle`. Not for `data_format = "frame"`, which parts itself.
        framing: Framing = Framing::Line,
        /// What ends a payload with `framing = "delimiter"`: text, or bytes as `0x0d0a`.
        delimiter: Option<String> = None,
        /// Bytes of a payload with `framing = "fixed"`.
        frame_length: Option<usize> = None,
        /// A pause of that length ends a payload with `framing = "idle"`, and throws away half a one with `framing = "fixed"`.
        idle_gap: Duration = Duration::from_millis(50),
        /// A longer payload is counted and thrown away.
        max_frame_bytes: Size = Size(64 * 1024),
        /// Throw away what comes before the first end of a payload after opening: it is the rest of one whose start was missed.
        discard_first: bool = false,
        /// Tag that takes the device's name from its hello, with `data_format = "frame"`; none if empty.
        device_tag: String = "device".into(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "serial", about: "payloads or frames from a serial port", specs, unsupported: &[], build };

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.extend(codecs::decoder_specs());
    specs
}

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let options = Options::read(section);
    let is_frame = section.has("data_format") && section.get::<String>("data_format").as_deref() == Some("frame");
    let (decoder, known) = if is_frame { (None, codec_frame(section)) } else { (Some(codecs::decoder(section)), true) };
    let options = options?;
    let (settings, rule) = (settings(section, &options), rule(section, &options));
    if is_frame && (section.has("framing") || section.has("delimiter") || section.has("frame_length") || section.has("discard_first")) {
        section.error_at("framing", "`data_format = \"frame\"` parts the stream itself: it goes without options of framing");
        return None;
    }
    let (settings, rule) = (settings?, rule?);
    let reading = match decoder {
        Some(decoder) => {
            let splitter = Splitter::new(rule, usize::try_from(options.max_frame_bytes.0).unwrap_or(usize::MAX));
            Reading::pieces(splitter, decoder?, options.idle_gap, options.discard_first)
        }
        None => known.then(|| frames(&options)).flatten()?,
    };
    Some(BuiltInput { claims: vec![claim(&options.port)], input: AnyInput::Streaming(Box::new(Serial::new(settings, reading))) })
}

/// The port itself, whatever link it was named by.
fn claim(port: &str) -> String {
    format!("serial:{}", crate::claim::canonical(port).display())
}

#[cfg(feature = "codec-frame")]
fn codec_frame(_section: &Section<'_>) -> bool {
    true
}

#[cfg(not(feature = "codec-frame"))]
fn codec_frame(section: &Section<'_>) -> bool {
    section.error_at("data_format", "this build has no format \"frame\"");
    false
}

#[cfg(feature = "codec-frame")]
fn frames(options: &Options) -> Option<Reading> {
    Some(Reading::Frames(Box::new(link::Link::new(options.device_tag.clone()))))
}

#[cfg(not(feature = "codec-frame"))]
fn frames(_options: &Options) -> Option<Reading> {
    None
}

fn settings(section: &Section<'_>, options: &Options) -> Option<Settings> {
    let before = section.diagnostics().errors();
    let data_bits = match options.data_bits {
        5 => DataBits::Five,
        6 => DataBits::Six,
        7 => DataBits::Seven,
        8 => DataBits::Eight,
        _ => {
            section.error_at("data_bits", "`data_bits` must be 5, 6, 7 or 8");
            DataBits::Eight
        }
    };
    let stop_bits = match options.stop_bits {
        1 => StopBits::One,
        2 => StopBits::Two,
        _ => {
            section.error_at("stop_bits", "`stop_bits` must be 1 or 2");
            StopBits::One
        }
    };
    if options.port.is_empty() {
        section.error_at("port", "`port` is empty");
    }
    if options.baud_rate == 0 {
        section.error_at("baud_rate", "`baud_rate` must not be 0");
    }
    let parity = match options.parity {
        ParityChoice::None => Parity::None,
        ParityChoice::Odd => Parity::Odd,
        ParityChoice::Even => Parity::Even,
    };
    let flow_control = match options.flow_control {
        Flow::None => FlowControl::None,
        Flow::Hardware => FlowControl::Hardware,
        Flow::Software => FlowControl::Software,
    };
    let settings = Settings {
        path: options.port.clone(),
        baud_rate: options.baud_rate,
        data_bits,
        parity,
        stop_bits,
        flow_control,
        exclusive: options.exclusive,
    };
    (section.diagnostics().errors() == before).then_some(settings)
}

fn rule(section: &Section<'_>, options: &Options) -> Option<Rule> {
    let before = section.diagnostics().errors();
    let max = options.max_frame_bytes.0;
    if max == 0 {
        section.error_at("max_frame_bytes", "`max_frame_bytes` must not be 0");
    }
    if options.idle_gap.is_zero() {
        section.error_at("idle_gap", "`idle_gap` must not be 0");
    }
    for (key, framing) in [("delimiter", Framing::Delimiter), ("frame_length", Framing::Fixed)] {
        if section.has(key) && options.framing != framing {
            section.error_at(key, format!("`{key}` is only for `framing = \"{}\"`", framing.as_str()));
        }
    }
    let rule = match options.framing {
        Framing::Line => Some(Rule::Line),
        Framing::Idle => Some(Rule::Idle),
        Framing::Delimiter => match options.delimiter.as_deref().map(delimiter) {
            Some(Ok(bytes)) => Some(Rule::Delimiter(bytes)),
            Some(Err(reason)) => {
                section.error_at("delimiter", format!("`delimiter`: {reason}"));
                None
            }
            None => {
                section.error_at("framing", "`framing = \"delimiter\"` needs `delimiter`");
                None
            }
        },
        Framing::Fixed => match options.frame_length {
            Some(length) if length > 0 && length as u64 <= max => Some(Rule::Fixed(length)),
            Some(_) => {
                section.error_at("frame_length", "`frame_length` must be between 1 and `max_frame_bytes`");
                None
            }
            None => {
                section.error_at("framing", "`framing = \"fixed\"` needs `frame_length`");
                None
            }
        },
    };
    if options.discard_first && matches!(options.framing, Framing::Fixed) {
        section.error_at("discard_first", "`discard_first` needs payloads that have an end: a fixed length has none");
    }
    (section.diagnostics().errors() == before).then_some(rule).flatten()
}

/// Text, or bytes in hexadecimal after `0x`.
fn delimiter(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = match text.strip_prefix("0x") {
        None => text.as_bytes().to_vec(),
        Some(digits) if digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let nibble = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
            digits.as_bytes().chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
        }
        Some(_) => return Err("after 0x come pairs of hexadecimal digits"),
    };
    if bytes.is_empty() { Err("it is empty") } else { Ok(bytes) }
}
