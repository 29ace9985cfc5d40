//! Weir's deterministic stream engine and the sans-IO core around it.
//!
//! | module | holds |
//! | --- | --- |
//! | [`spec`] | what the configuration asks for, checked and in plain types |
//! | [`codec`] | records and chunks as bytes |
//! | [`record`] | what the journal holds: the only thing the engine ever sees |
//! | [`series`] | the table of series and fields, shared by everything behind the journal |
//! | [`results`] | what leaves: points in two lanes |
//! | [`operators`] | windows and alerts: a pure state machine over records |
//! | [`worst`] | the most memory it can come to take |
//! | [`core`] | events in, effects out: commits, the gate, waiting results, checkpoints, the ledger |
//!
//! Architecture invariant: nothing here reads a clock, a file or a socket, draws a random number, uses the platform's maths or depends
//! on the order of a hash map. The same records give the same results, bit for bit, everywhere.

pub mod codec;
pub mod core;
pub mod operators;
pub mod record;
pub mod results;
pub mod series;
pub mod spec;
pub mod worst;
