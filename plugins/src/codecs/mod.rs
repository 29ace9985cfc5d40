//! Codecs: how a plugin finds the decoder or encoder its `data_format` names.
//!
//! Each format is a cargo feature and a module; what two of them need (numbers, time layouts) stands beside them.

use weir_plugin_api::{
    Collector, PointView,
    options::{OptionSpec, Section},
    plugin::{Decoder, Encoder},
};

#[cfg(feature = "codec-csv")]
pub mod csv;
#[cfg(feature = "codec-frame")]
pub mod frame;
#[cfg(feature = "codec-influx")]
pub mod influx;
#[cfg(feature = "codec-json")]
pub mod json;
#[cfg(any(feature = "codec-influx", feature = "codec-json", feature = "codec-csv"))]
pub mod number;
#[cfg(any(feature = "codec-json", feature = "codec-csv"))]
pub mod timestamp;
#[cfg(any(feature = "codec-value", feature = "codec-csv"))]
pub mod value;

/// Formats this build reads.
pub const READS: &[&str] = &[
    #[cfg(feature = "codec-influx")]
    "influx",
    #[cfg(feature = "codec-json")]
    "json",
    #[cfg(feature = "codec-csv")]
    "csv",
    #[cfg(feature = "codec-value")]
    "value",
];

/// Formats this build writes.
pub const WRITES: &[&str] = &[
    #[cfg(feature = "codec-influx")]
    "influx",
    #[cfg(feature = "codec-json")]
    "json",
];

/// Options of Telegraf's parsers and serializers for these formats that do not exist here.
const UNSUPPORTED: &[&str] = &[
    "influx_parser_type",
    "influx_max_line_bytes",
    "json_v2",
    "json_transformation",
    "json_timestamp_format",
    "json_nested_fields_include",
    "json_nested_fields_exclude",
    "csv_metadata_rows",
    "csv_metadata_separators",
    "csv_metadata_trim_set",
    "csv_tag_overwrite",
    "csv_skip_errors",
];

/// Reads `data_format` (default `influx`) and the options of that format; reports what is wrong and returns `None` then.
pub fn decoder(section: &Section<'_>) -> Option<Box<dyn Decoder>> {
    decoder_or(section, "influx")
}

/// Makes decoders of one configuration: a stream that keeps something (a header) needs one of its own.
pub type Decoders = Box<dyn Fn() -> Box<dyn Decoder> + Send + Sync>;

/// The same as [`decoder`], as often as one is wanted.
pub fn decoders(section: &Section<'_>) -> Option<Decoders> {
    decoders_or(section, "influx")
}

/// The same for inputs whose format is another one when none is written.
pub fn decoder_or(section: &Section<'_>, default: &str) -> Option<Box<dyn Decoder>> {
    decoders_or(section, default).map(|make| make())
}

fn decoders_or(section: &Section<'_>, default: &str) -> Option<Decoders> {
    #[cfg(any(feature = "codec-influx", feature = "codec-json", feature = "codec-csv", feature = "codec-value"))]
    fn clones(prototype: impl Decoder + Clone + Sync + 'static) -> Decoders {
        Box::new(move || Box::new(prototype.clone()))
    }
    refuse_unsupported(section);
    let format = format_of(section, default)?;
    let decoders: Option<Decoders> = match format.as_str() {
        #[cfg(feature = "codec-influx")]
        "influx" => influx::InfluxDecoder::read(section).map(clones),
        #[cfg(feature = "codec-json")]
        "json" => json::JsonDecoder::read(section).map(clones),
        #[cfg(feature = "codec-csv")]
        "csv" => csv::CsvDecoder::read(section).map(clones),
        #[cfg(feature = "codec-value")]
        "value" => value::ValueDecoder::read(section).map(clones),
        _ => {
            unknown(section, &format, "read", READS);
            None
        }
    };
    // The error is told; with something in its place the plugin's other options are checked in the same run.
    Some(decoders.unwrap_or_else(|| Box::new(|| Box::new(Refused) as Box<dyn Decoder>)))
}

/// Stands for the codec of a configuration that has been refused; such a configuration never runs.
struct Refused;

impl Decoder for Refused {
    fn decode(&mut self, bytes: &[u8], _: &mut Collector) -> usize {
        bytes.len()
    }
}

impl Encoder for Refused {
    fn encode(&mut self, _: PointView<'_>, _: &mut Vec<u8>) {}
}

/// Options of every decoder, for documentation.
pub fn decoder_specs() -> Vec<OptionSpec> {
    [
        vec![format_spec("Format of what comes in.")],
        #[cfg(feature = "codec-influx")]
        influx::DecoderOptions::specs(),
        #[cfg(feature = "codec-json")]
        json::DecoderOptions::specs(),
        #[cfg(feature = "codec-csv")]
        csv::CsvOptions::specs(),
        #[cfg(feature = "codec-value")]
        value::ValueOptions::specs(),
    ]
    .concat()
}

/// Reads `data_format` (default `influx`) of an output and the options of that format.
pub fn encoder(section: &Section<'_>) -> Option<Box<dyn Encoder>> {
    refuse_unsupported(section);
    let format = format_of(section, "influx")?;
    let encoder: Option<Box<dyn Encoder>> = match format.as_str() {
        #[cfg(feature = "codec-influx")]
        "influx" => influx::InfluxEncoder::read(section).map(|e| Box::new(e) as _),
        #[cfg(feature = "codec-json")]
        "json" => json::JsonEncoder::read(section).map(|e| Box::new(e) as _),
        _ => {
            unknown(section, &format, "write", WRITES);
            None
        }
    };
    Some(encoder.unwrap_or_else(|| Box::new(Refused)))
}

/// Options of every encoder, for documentation.
pub fn encoder_specs() -> Vec<OptionSpec> {
    [
        vec![format_spec("Format of what goes out.")],
        #[cfg(feature = "codec-influx")]
        influx::EncoderOptions::specs(),
        #[cfg(feature = "codec-json")]
        json::EncoderOptions::specs(),
    ]
    .concat()
}

fn format_spec(doc: &'static str) -> OptionSpec {
    OptionSpec { name: "data_format", kind: "string", default: Some("\"influx\"".into()), doc }
}

/// `None` when the option is written and is no string, which has been reported.
fn format_of(section: &Section<'_>, default: &str) -> Option<String> {
    if section.has("data_format") { section.get("data_format") } else { Some(default.to_owned()) }
}

fn unknown(section: &Section<'_>, format: &str, verb: &str, known: &[&str]) {
    let message = format!("this build has no format \"{format}\" to {verb}");
    section.error_help("data_format", message, format!("one of {}", known.join(", ")));
}

/// The plugin's own list of unsupported options need not know those of the codecs.
fn refuse_unsupported(section: &Section<'_>) {
    for key in UNSUPPORTED {
        if section.node(key).is_some() {
            section.error_at(key, format!("`{key}` of [{}] is a Telegraf option that Weir does not support", section.path));
        }
    }
}
