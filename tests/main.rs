//! Tests of Weir as a whole: the built binary and its configurations, from outside, with real servers.

mod brokers;
mod case_folders;
mod config_cases;
mod configs;
mod crash;
mod cut;
mod dedup;
mod docs;
mod firmware;
mod operation;
mod service;
mod store_cmd;
mod support;
