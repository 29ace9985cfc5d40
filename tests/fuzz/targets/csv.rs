//! CSV from anywhere.

#![no_main]

mod common;

use common::{list, text};
use weir_plugin_api::options::Item;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let options = [("data_format", text("csv")), ("csv_header_row_count", Item::Int(1)), ("csv_tag_columns", list(&["a"]))];
    common::decode(&options, payload);
});
