//! Line protocol from anywhere.

#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| common::decode(&[("data_format", common::text("influx"))], payload));
