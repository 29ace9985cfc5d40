//! `weir demo`: the main job with simulated sensors, nothing else needed.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use weir_plugin_api::units::parse_duration;

use super::{DONE, FAILED};
use crate::{demo, sys::log};

/// `weir demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// End after this long, such as 10s.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    for_: Option<Duration>,
    /// Keep state and results here.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
}

impl Demo {
    /// Runs it.
    pub fn run(self) -> u8 {
        // The screen belongs to the table; only what a person must know goes beside it.
        log::start("error");
        match demo::run(&demo::Options { for_: self.for_, directory: self.directory }) {
            Ok(()) => DONE,
            Err(error) => {
                eprintln!("weir: {error}");
                FAILED
            }
        }
    }
}
