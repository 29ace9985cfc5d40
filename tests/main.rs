//! Tests of Weir as a whole: the built binary and its configurations, from outside.

mod config_cases;
mod configs;
