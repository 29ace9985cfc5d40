//! `weir status`: asks the running agent over its control socket and prints the ledger.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{DONE, FAILED, print};
use crate::{
    config::{self, System},
    http::report::Report,
};

/// `weir status`.
#[derive(Args, Debug)]
pub struct Status {
    /// The agent's control socket, if it is not in the usual place.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs it.
    pub fn run(self) -> u8 {
        match config::control_socket(self.socket.as_deref(), &System::default()) {
            Some(socket) => status(&socket, self.json),
            None => {
                eprintln!("weir: there is no usual place for the control socket here: name it with --socket");
                FAILED
            }
        }
    }
}

/// Asks the agent at `socket` and prints a table, or the JSON as it came.
fn status(socket: &Path, json: bool) -> u8 {
    let body = match get(socket, "/status") {
        Ok(body) => body,
        Err(error) => {
            eprintln!("weir: no agent answers at {}: {error}", socket.display());
            return FAILED;
        }
    };
    if json {
        print(&body);
        return DONE;
    }
    match serde_json::from_str::<Report>(&body) {
        Ok(report) => {
            print(&report.table());
            DONE
        }
        Err(error) => {
            eprintln!("weir: the agent at {} answers with something else: {error}", socket.display());
            FAILED
        }
    }
}

/// A GET over the socket: the body of a 200.
pub(super) fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    ask(socket, "GET", path)
}

/// A request without a body: the body of a 200, anything else as an error.
pub(super) fn ask(socket: &Path, method: &str, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    // A slow card takes its time for a checkpoint.
    stream.set_read_timeout(Some(Duration::from_secs(if method == "GET" { 10 } else { 60 })))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: weir\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(body.trim().to_owned())),
    }
}
