//! `weir`: the command line, and nothing else.

mod cmd;
// What of a checked configuration only a running agent reads is not read by every build.
#[allow(dead_code)]
mod config;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Wrong arguments end the process here with 2; `--help` and `--version` with 0.
    cmd::Cli::parse().run()
}
