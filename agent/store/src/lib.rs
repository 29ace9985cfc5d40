//! Weir's files: a preallocated journal written round and round, checkpoints in two generations, an outbox of immutable segments.
//!
//! Synchronous, knows nothing of points: journal blocks, states and outbox blocks are bytes with a header that says what damage costs.
