//! What can go wrong with the store, one variant per kind of trouble, with the path.

use std::{fmt, io, path::PathBuf};

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Making the directory.
    CreateDirectory,
    /// Making a file.
    Create,
    /// Listing the directory.
    List,
    /// Locking it.
    Lock,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Making it durable.
    Sync,
    /// Renaming it.
    Rename,
    /// Removing it.
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateDirectory => "create the directory",
            Self::Create => "create",
            Self::List => "list",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
        })
    }
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("can't {operation} {path}")]
    Io {
        /// What was tried.
        operation: Operation,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent uses the directory.
    #[error("another agent is using {directory}")]
    Locked {
        /// Which.
        directory: PathBuf,
    },
    /// Every place in the journal holds what no checkpoint covers.
    #[error("the journal is full ({bytes} bytes)")]
    JournalFull {
        /// Its bound.
        bytes: u64,
    },
    /// A sync failed, and so did the second try on another file.
    #[error("syncing failed twice")]
    Failed {
        /// The second failure.
        source: Box<StoreError>,
    },
    /// A block that does not go on where the last one that was taken ended.
    #[error("a block that begins with record {found} can't follow the one before {expected}")]
    OutOfOrder {
        /// The record it should begin with.
        expected: u64,
        /// The one it begins with.
        found: u64,
    },
    /// A block larger than the format allows.
    #[error("a block of {0} bytes is too large")]
    TooLarge(usize),
}

impl StoreError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// It and what caused it, in one line: for those who are told in words.
    pub fn with_causes(&self) -> String {
        let mut words = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            words = format!("{words}: {error}");
            cause = error.source();
        }
        words
    }

    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::Failed { source } => source.is_no_space(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operating_system_said_is_told() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError::Io { operation: Operation::Write, path: "outbox-1-00000000".into(), source };
        let twice = StoreError::Failed { source: Box::new(error) };
        assert_eq!(twice.with_causes(), "syncing failed twice: can't write outbox-1-00000000: no storage space");
    }
}
