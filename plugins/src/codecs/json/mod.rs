//! JSON, read as Telegraf's `json` parser reads it and written as its serializer writes it.
//!
//! Objects are flattened: nested names are joined with `_`, elements of arrays take their number. Numbers become floats; strings and
//! booleans are left out unless `json_string_fields` or `tag_keys` names them. An array of objects gives a point each.

mod decode;
mod encode;
mod flatten;
mod query;

pub use decode::{DecoderOptions, JsonDecoder};
pub use encode::{EncoderOptions, JsonEncoder};

#[cfg(test)]
mod tests;
