//! `weir`: the command line, and nothing else.

mod config;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
