//! A pattern and a text, with a line between them.

#![no_main]

use weir_plugin_api::filter::Glob;

libfuzzer_sys::fuzz_target!(|payload: &str| {
    let (pattern, text) = payload.split_once('\n').unwrap_or((payload, ""));
    Glob::new(pattern).matches(text);
});
