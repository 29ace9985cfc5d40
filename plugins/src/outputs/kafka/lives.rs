//! A small file that tells apart the lives of a store: which identities a cursor found in Kafka still speaks of.
//!
//! Identities count records, and records that a damaged store or a power cut has lost give their numbers to others. A cursor from before
//! would take those for delivered. So every start is a life with a random number of its own, the control record names the life that wrote
//! it, and what it says counts only up to where the first life after it began.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use weir_plugin_api::Identity;

/// One start of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    /// Drawn at random.
    id: u64,
    /// Its first record.
    first: u64,
    /// It may have delivered something.
    used: bool,
}

/// The lives that still matter, the current one last: a line `id first used|new` each, and `crc` with the CRC-32C of these lines.
#[derive(Debug)]
pub struct Lives {
    path: PathBuf,
    lives: Vec<Life>,
}

impl Lives {
    /// Begins a life in which the records after `recovered` are new. A file that can't be read, or is damaged, holds nothing.
    pub fn begin(path: &Path, id: u64, recovered: u64) -> Self {
        let mut lives = match fs::read(path) {
            Ok(bytes) => lives_in(&bytes).unwrap_or_else(|| {
                tracing::error!(file = %path.display(), "which starts sent what to Kafka is damaged: what was in doubt may be sent twice");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        let mut first = recovered + 1;
        // One that delivered nothing is named by no control record: only where it began is to be known.
        while let Some(unused) = lives.pop_if(|life| !life.used) {
            first = first.min(unused.first);
        }
        lives.push(Life { id, first, used: false });
        Self { path: path.to_owned(), lives }
    }

    /// The current one.
    pub fn current(&self) -> u64 {
        self.lives.last().map_or(0, |life| life.id)
    }

    /// Up to where a cursor that life `life` wrote still counts; `None` when nobody knows that life.
    pub fn known(&self, life: u64, cursor: Identity) -> Option<Identity> {
        let at = self.lives.iter().position(|l| l.id == life)?;
        let next = self.lives[at + 1..].iter().map(|l| l.first).min().unwrap_or(u64::MAX);
        Some(cursor.min(Identity { record: next - 1, ordinal: u32::MAX }))
    }

    /// The current life is about to deliver, and the control record it found is of life `found`: whatever came before that is shut out.
    pub fn deliver(&mut self, found: Option<u64>) {
        let Some(mut current) = self.lives.pop() else { return };
        current.used = true;
        let at = found.and_then(|found| self.lives.iter().position(|l| l.id == found));
        let between = self.lives.split_off(at.map_or(0, |at| at + 1));
        if let Some(found) = self.lives.pop() {
            current.first = between.iter().map(|l| l.first).fold(current.first, u64::min);
            self.lives = vec![found];
        }
        self.lives.push(current);
    }

    /// Writes it durably, all or nothing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("lives.new");
        let mut file = fs::File::create(&temporary)?;
        let line = |Life { id, first, used }: &Life| format!("{id:016x} {first} {}\n", if *used { "used" } else { "new" });
        let lines: String = self.lives.iter().map(line).collect();
        writeln!(file, "{lines}crc {:08x}", crc32c::crc32c(lines.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The lives a file names; `None` if it is damaged. Before there was a checksum lines that can't be read were left out.
fn lives_in(bytes: &[u8]) -> Option<Vec<Life>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let lines = match text.rsplit_once("crc ") {
        Some((lines, sum)) => {
            Some(lines).filter(|lines| u32::from_str_radix(sum.trim_end(), 16) == Ok(crc32c::crc32c(lines.as_bytes())))?
        }
        None => text,
    };
    Some(lines.lines().filter_map(read).collect())
}

fn read(line: &str) -> Option<Life> {
    let mut words = line.split(' ');
    let (id, first, used) = (words.next()?, words.next()?, words.next()?);
    let first: u64 = first.parse().ok().filter(|first| *first > 0)?;
    Some(Life { id: u64::from_str_radix(id, 16).ok()?, first, used: used == "used" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(record: u64) -> Identity {
        Identity { record, ordinal: 3 }
    }

    fn last_of(record: u64) -> Option<Identity> {
        Some(Identity { record, ordinal: u32::MAX })
    }

    /// A start with so many records recovered; with `found`, one that reached Kafka and found that life's record.
    fn start(path: &Path, id: u64, recovered: u64, found: Option<Option<u64>>) -> Lives {
        let mut lives = Lives::begin(path, id, recovered);
        lives.save().unwrap();
        if let Some(found) = found {
            lives.deliver(found);
            lives.save().unwrap();
        }
        lives
    }

    #[test]
    fn a_cursor_counts_up_to_where_a_later_life_began() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives");
        start(&path, 1, 0, Some(None));
        let second = start(&path, 2, 100, Some(Some(1)));
        assert_eq!(second.known(1, at(90)), Some(at(90)), "nothing was lost");
        assert_eq!(second.known(2, at(180)), Some(at(180)), "its own");
        // Records 151 to 180 are lost, and Kafka is down for a whole life.
        start(&path, 3, 150, None);
        let fourth = start(&path, 4, 300, None);
        assert_eq!(fourth.known(2, at(180)), last_of(150));
        assert_eq!(fourth.known(3, at(180)), None, "it never delivered");
        // What was lost reaches into the life before.
        let fifth = start(&path, 5, 80, Some(Some(2)));
        assert_eq!(fifth.known(2, at(180)), last_of(80));
        assert_eq!(fifth.known(1, at(90)), None, "shut out long ago");
        assert_eq!(start(&path, 6, 500, None).known(2, at(180)), last_of(80), "remembered until something is delivered");
    }

    #[test]
    fn an_empty_store_under_a_known_cursor_skips_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives");
        start(&path, 1, 0, Some(None));
        let again = start(&path, 2, 0, None);
        assert_eq!(again.known(1, at(70)), last_of(0));
    }

    #[test]
    fn the_file_stays_small_and_garbage_in_it_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives");
        for id in 1..100 {
            start(&path, id, 0, (id % 3 == 0).then(|| id.checked_sub(3).filter(|before| *before > 0)));
        }
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= 4);
        fs::write(&path, "zz 1 used\n5\n\n0000000000000007 0 used\n").unwrap();
        let lives = Lives::begin(&path, 9, 4);
        assert_eq!((lives.current(), lives.lives.len()), (9, 1));
    }

    #[test]
    fn a_digit_that_rotted_makes_no_cursor_reach_further_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives");
        start(&path, 1, 0, Some(None));
        start(&path, 2, 150, None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(" 151 new\n"), "{text}");
        fs::write(&path, text.replace(" 151 ", " 159 ")).unwrap();
        assert_eq!(start(&path, 3, 500, None).known(1, at(180)), None, "sent twice rather than not at all");
        // Written without a checksum, before there was one.
        fs::write(&path, text.split_once("crc").unwrap().0).unwrap();
        assert_eq!(start(&path, 3, 500, None).known(1, at(180)), last_of(150));
    }
}
