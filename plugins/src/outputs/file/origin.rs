//! Where the file output began: how long each file was at which token, so that it knows what to cut off after a crash even when
//! the files were not empty at first, have different lengths, or no delivery was remembered yet.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

/// A small text file: one line `token length path` for each file written to, and a last one `crc` with the CRC-32C of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    files: Vec<(PathBuf, u64, u64)>,
}

impl Origin {
    /// What is remembered in `path`; nothing when it is missing or damaged. Before there was a checksum lines that cannot be read are left out.
    pub(super) fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let body = match text.rsplit_once("crc ") {
            Some((body, sum)) if u32::from_str_radix(sum.trim_end(), 16) == Ok(crc32c::crc32c(body.as_bytes())) => body,
            Some(_) => return Self::default(),
            None => &text,
        };
        let line = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let (token, length) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some((PathBuf::from(parts.next()?), token, length))
        };
        Self { files: body.lines().filter_map(line).collect() }
    }

    /// Remembers that `path` had `length` bytes at `token`.
    pub(super) fn set(&mut self, path: &Path, token: u64, length: u64) {
        self.files.push((path.to_owned(), token, length));
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether `path` is remembered.
    pub(super) fn covers(&self, path: &Path) -> bool {
        self.files.iter().any(|(p, _, _)| p == path)
    }

    /// How long `path` was when the running token was `token`; `None` when this output did not write to it then, or nobody can say:
    /// to have points twice is better than to take somebody's lines away.
    pub(super) fn length(&self, path: &Path, token: u64) -> Option<u64> {
        let (_, from, length) = self.files.iter().find(|(p, _, _)| p == path)?;
        Some(length + token.saturating_sub(*from))
    }

    /// Whether a start that finds this and nothing newer would cut `path`, which has `length` bytes at `token`, below that.
    pub(super) fn would_cut(&self, path: &Path, token: u64, length: u64) -> bool {
        self.length(path, token).is_some_and(|at| at < length)
    }

    /// Removes what is remembered in `path`, durably.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Ok(()) => fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes it durably, all or nothing.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let temporary = path.with_extension("origin.new");
        let mut file = fs::File::create(&temporary)?;
        let lines: String = self.files.iter().map(|(name, token, length)| format!("{token} {length} {}\n", name.display())).collect();
        writeln!(file, "{lines}crc {:08x}", crc32c::crc32c(lines.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    }
}
