//! `weir`: the command line, and nothing else.

mod cmd;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod http;
mod run;
mod sys;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Wrong arguments end the process here with 2; `--help` and `--version` with 0.
    cmd::Cli::parse().run()
}
