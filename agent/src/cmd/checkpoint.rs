//! `weir checkpoint`: has the running agent commit and checkpoint now, and waits until it has.

use std::path::PathBuf;

use clap::Args;

use super::{DONE, FAILED, print, status::ask};
use crate::config::{self, System};

/// `weir checkpoint`.
#[derive(Args, Debug)]
pub struct Checkpoint {
    /// The agent's control socket, if it is not in the usual place.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Checkpoint {
    /// Runs it.
    pub fn run(self) -> u8 {
        let Some(socket) = config::control_socket(self.socket.as_deref(), &System::default()) else {
            eprintln!("weir: there is no usual place for the control socket here: name it with --socket");
            return FAILED;
        };
        match ask(&socket, "POST", "/checkpoint") {
            Ok(answer) => {
                print(&answer);
                DONE
            }
            Err(error) => {
                eprintln!("weir: no checkpoint by the agent at {}: {error}", socket.display());
                FAILED
            }
        }
    }
}
