//! Codecs: how a plugin finds the decoder or encoder its `data_format` names.

use weir_plugin_api::{
    options::{OptionSpec, Section},
    plugin::{Decoder, Encoder},
};

/// Reads `data_format` (default `influx`) and the options of that format; reports what is wrong and returns `None` then.
pub fn decoder(section: &Section<'_>) -> Option<Box<dyn Decoder>> {
    let format: String = section.get("data_format").unwrap_or_else(|| "influx".into());
    section.error_at("data_format", format!("this build has no format \"{format}\" to read"));
    None
}

/// Options of every decoder, for documentation.
pub fn decoder_specs() -> Vec<OptionSpec> {
    Vec::new()
}

/// Reads `data_format` (default `influx`) of an output and the options of that format.
pub fn encoder(section: &Section<'_>) -> Option<Box<dyn Encoder>> {
    let format: String = section.get("data_format").unwrap_or_else(|| "influx".into());
    section.error_at("data_format", format!("this build has no format \"{format}\" to write"));
    None
}

/// Options of every encoder, for documentation.
pub fn encoder_specs() -> Vec<OptionSpec> {
    Vec::new()
}
