//! Bare values from anywhere.

#![no_main]

mod common;

use common::text;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    for data_type in ["integer", "float", "boolean", "string", "auto_integer", "auto_float"] {
        common::decode(&[("data_format", text("value")), ("data_type", text(data_type))], payload);
    }
});
