//! `weir store`: looks into a state directory, perhaps one copied from a card, without an agent, and changes nothing in it.
//!
//! A file per subcommand; what they share is how a directory is read (`view`) and how things are put into words (`words`).

mod cat;
mod csv;
mod export;
mod ls;
mod readings;
mod verify;
pub(super) mod view;
mod words;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use self::view::View;
use super::{DONE, FAILED, WRONG};
use crate::config::{self, System};

/// `weir store`.
#[derive(Args, Debug)]
pub struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the files: what they hold, from when, and whether it is still needed.
    Ls(ls::Ls),
    /// Print the newest checkpoint's summary, the outbox's blocks and the journal's records, one per line.
    Cat(cat::Cat),
    /// Check every checksum and name each damaged place; 0 nothing, 1 something is damaged, 2 no store there.
    Verify(verify::Verify),
    /// Write the points of the journal and of the outbox as line protocol, JSON or CSV.
    Export(export::Export),
}

impl Store {
    /// Runs it.
    pub fn run(self) -> u8 {
        match self.command {
            Command::Ls(command) => command.run(),
            Command::Cat(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Export(command) => command.run(),
        }
    }
}

/// Which store.
#[derive(Args, Clone, Debug, Default)]
struct Directory {
    /// The state directory, or a copy of one; without it the place where an agent without `[storage] directory` keeps its state.
    ///
    /// It is only read: no lock is taken and nothing is written.
    #[arg(value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl Directory {
    /// Looks into it; what stands in the way is said, with the exit code.
    fn open(&self) -> Result<View, u8> {
        let directory = self.directory.clone().unwrap_or_else(|| config::state_directory(None, &System::default()));
        match View::open(&directory) {
            Ok(view) => {
                if view.inspection.running {
                    eprintln!("weir: an agent is running on {}: this is how it looked just now", directory.display());
                }
                Ok(view)
            }
            Err(reason) => {
                eprintln!("weir: {reason}");
                Err(WRONG)
            }
        }
    }
}

/// What became of writing: a reader that has gone away ends it quietly, anything else is told.
fn written(result: io::Result<()>, code: u8) -> u8 {
    match result {
        Ok(()) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(error) => {
            eprintln!("weir: can't write: {error}");
            FAILED
        }
    }
}

/// Standard output for many lines.
fn stdout() -> impl Write {
    io::BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}
