//! JSON from anywhere, with and without a query.

#![no_main]

mod common;

use common::{list, text};

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let options = vec![("data_format", text("json")), ("tag_keys", list(&["a", "b_*"])), ("json_string_fields", list(&["*s"]))];
    common::decode(&options, payload);
    common::decode(&[options, vec![("json_query", text("a.#.b"))]].concat(), payload);
});
