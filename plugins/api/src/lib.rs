//! The contract between Weir's core and its plugins: the data that flows, the options a plugin reads, the traits it implements.
//!
//! Nothing here touches a clock, a file, a socket or tokio, so that the engine, the simulator and every plugin can share it.
//!
//! | module | holds |
//! | --- | --- |
//! | [`value`], [`cell`], [`series`] | one value, one field of one point (24 bytes), measurement and tags |
//! | [`batch`], [`ring`], [`collector`] | what an input fills and how it reaches the core without a lock |
//! | [`chunk`] | what leaves the engine: results and passed points, as every output sees them |
//! | [`position`] | where a batch came from, and what an input is told after a crash |
//! | [`mod@options`], [`filter`], [`units`] | configuration as a plugin reads it, Telegraf's filters, durations and sizes |
//! | [`plugin`] | the traits and the registry's entries |
//! | [`time`] | the three axes of time |

pub mod batch;
pub mod cell;
pub mod chunk;
pub mod collector;
pub mod filter;
pub mod options;
pub mod plugin;
pub mod position;
pub mod ring;
pub mod series;
pub mod testing;
pub mod time;
pub mod units;
pub mod value;

pub use batch::{Batch, InputCounts};
pub use cell::Cell;
pub use chunk::{Chunk, FieldNumbers, Identity, Lane, PointView, Points};
pub use collector::{Collector, PointWriter};
pub use position::{Position, Resume};
pub use series::{Series, SeriesParts};
pub use value::{Kind, Value};
