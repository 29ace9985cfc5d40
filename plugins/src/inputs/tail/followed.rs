//! One file being followed: how far it was read, whether it was truncated or replaced, and its decoder.

use std::{
    cmp::Reverse,
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use weir_plugin_api::{
    Collector, Position,
    plugin::{Decoder, PluginError, Stop},
    position::{FilePosition, Resume},
};

use super::{
    super::{
        blocks::{BLOCK, Blocks, Cut},
        file::blocking,
    },
    flush, identity,
};
use crate::descriptors::spare;

/// Bytes at the beginning of a file that tell it from another one in the same inode.
const HEAD: u64 = 1024;
/// A file that was replaced is followed until it was quiet for so long: its writer may still hold it.
const LINGER: Duration = Duration::from_secs(3);
/// A file that can't be read is opened anew after so long.
const REOPEN_AFTER: Duration = Duration::from_secs(30);
/// Bytes of rows that a header may have.
const HEADER_MAX: u64 = 64 * 1024;

/// Where a file is begun.
pub(super) enum Start {
    Beginning,
    End,
    /// Where it was left, if it is still that file.
    Saved(FilePosition),
    /// The same for a file that has another name now; nothing else is begun.
    Moved(FilePosition),
}

/// How far a file was decoded.
struct Reached {
    path: String,
    id: (u64, u64),
    offset: u64,
    head: Vec<u8>,
}

impl Reached {
    fn advance(&mut self, bytes: &[u8]) -> FilePosition {
        let room = (HEAD as usize).saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.offset += bytes.len() as u64;
        self.position()
    }

    fn position(&self) -> FilePosition {
        FilePosition { path: self.path.clone(), file: self.id, offset: self.offset, head: crc32c::crc32c(&self.head) }
    }
}

/// One file.
pub(super) struct Followed {
    /// Where it is looked for.
    pub(super) path: PathBuf,
    /// Device and inode.
    pub(super) id: (u64, u64),
    file: Arc<File>,
    reached: Reached,
    /// Offset behind the last byte read.
    read: u64,
    blocks: Blocks,
    decoder: Box<dyn Decoder>,
    tags: Vec<(String, String)>,
    /// Since when another file stands at its path and it does not grow.
    gone: Option<Instant>,
    over: bool,
    /// It could not be read: until then it is left alone, and opened anew after.
    reopen_at: Option<Instant>,
    /// Its beginning must be recorded, as it is not 0.
    unsaid: bool,
    /// Rows of a header that stand before its beginning.
    header: Option<Vec<u8>>,
}

/// What a look into the file gave.
enum Look {
    Bytes(Vec<u8>),
    Nothing,
    /// It is shorter than what was read, or begins otherwise.
    Truncated,
    /// A bad block of the disk, a server that is gone.
    Unreadable(std::io::Error),
}

impl Followed {
    /// Opens the file at `at`; `None` when it is not there or not the one that is looked for. Blocks on the disk.
    pub(super) fn open(
        at: &Path,
        path: PathBuf,
        start: Start,
        tags: Vec<(String, String)>,
        mut decoder: Box<dyn Decoder>,
        cut: Cut,
        header: usize,
    ) -> std::io::Result<Option<Self>> {
        let file = match File::open(at).and_then(spare) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let (id, length) = ((metadata.dev(), metadata.ino()), metadata.len());
        let fits = |saved: &FilePosition| -> std::io::Result<bool> {
            Ok(saved.file == id && saved.offset <= length && crc32c::crc32c(&head(&file, saved.offset)?) == saved.head)
        };
        let (offset, unsaid) = match &start {
            Start::Beginning => (0, false),
            Start::End => (length, length > 0),
            Start::Saved(saved) if fits(saved)? => (saved.offset, false),
            Start::Saved(_) => (0, false),
            Start::Moved(saved) if fits(saved)? && saved.offset < length => (saved.offset, false),
            Start::Moved(_) => return Ok(None),
        };
        let head = head(&file, offset)?;
        decoder.reset();
        let reached = Reached { path: path.to_string_lossy().into_owned(), id, offset, head };
        let blocks = Blocks::new(cut);
        let file = Arc::new(file);
        let header = if offset > 0 && header > 0 { Some(first_rows(&file, header)?) } else { None };
        Ok(Some(Self {
            path,
            id,
            file,
            reached,
            read: offset,
            blocks,
            decoder,
            tags,
            gone: None,
            over: false,
            reopen_at: None,
            unsaid,
            header,
        }))
    }

    /// Says where it begins, if that is not its beginning: lines that come while the agent is down are then not lost.
    pub(super) async fn begin(&mut self, out: &mut Collector, resume: &mut Resume) -> Result<(), PluginError> {
        if let Some(rows) = self.header.take() {
            // Rows of a header give no points.
            self.decoder.decode(&rows, out);
        }
        if std::mem::take(&mut self.unsaid) { flush(out, resume, self.reached.position()).await } else { Ok(()) }
    }

    /// Orders the parts of a log: by when they were written to last, and where the file system's clock is too coarse to tell, the one that
    /// was rotated more often first, which has the longer or the higher name.
    pub(super) fn age(&self) -> (Option<SystemTime>, Reverse<(usize, PathBuf)>) {
        let modified = self.file.metadata().and_then(|m| m.modified()).ok();
        (modified, Reverse((self.path.as_os_str().len(), self.path.clone())))
    }

    /// Whether it still stands at its path.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path) == Some(self.id)
    }

    /// Whether it was replaced and read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Reads what it has grown by; returns whether it has.
    pub(super) async fn follow(&mut self, out: &mut Collector, resume: &mut Resume, stop: &Stop) -> Result<bool, PluginError> {
        let mut grew = false;
        if let Some(at) = self.reopen_at {
            self.over = Instant::now() >= at;
            return Ok(false);
        }
        // Looking at the length costs no wait, so a quiet file costs no thread.
        while !stop.is_requested() && self.file.metadata().map_or(true, |m| m.len() != self.read) {
            match self.look().await? {
                Look::Nothing => break,
                // The others go on.
                Look::Unreadable(error) => {
                    tracing::warn!(input = out.input_name(), file = self.reached.path, %error, "can't read a file");
                    self.reopen_at = Some(Instant::now() + REOPEN_AFTER);
                    return Ok(grew);
                }
                Look::Truncated => {
                    self.decode(true, out, resume).await?;
                    self.decoder.reset();
                    self.blocks.clear();
                    (self.read, self.reached.offset) = (0, 0);
                    self.reached.head.clear();
                }
                Look::Bytes(bytes) => {
                    self.read += bytes.len() as u64;
                    self.blocks.push(&bytes);
                    self.decode(false, out, resume).await?;
                }
            }
            grew = true;
        }
        if grew || self.is_in_place() {
            self.gone = None;
        } else if self.gone.get_or_insert_with(Instant::now).elapsed() >= LINGER {
            self.decode(true, out, resume).await?;
            self.over = true;
        }
        Ok(grew)
    }

    /// Decodes what was read and sends it.
    async fn decode(&mut self, last: bool, out: &mut Collector, resume: &mut Resume) -> Result<(), PluginError> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let tags: Vec<(&str, &str)> = self.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let context = out.context(&tags, None, Some(&self.reached.path));
        out.set_context(context);
        let before = self.reached.offset;
        let reached = &mut self.reached;
        let position = |bytes: &[u8]| {
            let position = Position::Files(vec![reached.advance(bytes)]);
            resume.apply(&position);
            position
        };
        self.blocks.decode(self.decoder.as_mut(), out, last, position).await?;
        if self.reached.offset > before {
            flush(out, resume, self.reached.position()).await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Look, PluginError> {
        let (file, head, read) = (Arc::clone(&self.file), self.reached.head.clone(), self.read);
        let looked = blocking(move || {
            let length = file.metadata()?.len();
            let mut now = vec![0; head.len()];
            match file.read_exact_at(&mut now, 0) {
                _ if length < read => return Ok(Look::Truncated),
                Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error),
                read => {
                    if read.is_err() || now != head {
                        return Ok(Look::Truncated);
                    }
                }
            }
            let mut bytes = vec![0; BLOCK.min((length - read) as usize)];
            let length = file.read_at(&mut bytes, read)?;
            bytes.truncate(length);
            Ok(if length == 0 { Look::Nothing } else { Look::Bytes(bytes) })
        });
        Ok(looked.await?.unwrap_or_else(Look::Unreadable))
    }
}

/// The first bytes of a file, of those before `offset`.
fn head(file: &File, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; offset.min(HEAD) as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}

/// The first `rows` lines that are not blank.
fn first_rows(file: &File, rows: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len().min(HEADER_MAX) as usize];
    let length = file.read_at(&mut bytes, 0)?;
    let lines = bytes[..length].split_inclusive(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty());
    Ok(lines.take(rows).flatten().copied().collect())
}

#[cfg(all(test, feature = "codec-influx"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::testing;

    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_left_and_goes_on_where_it_was_when_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.lp");
        std::fs::write(&path, "m v=1 1\n").unwrap();
        let open = |start| {
            let decoder = Box::new(crate::codecs::influx::InfluxDecoder::default());
            Followed::open(&path, path.clone(), start, Vec::new(), decoder, Cut::Lines, 0).unwrap().unwrap()
        };
        let (mut collector, mut receiver) = testing::collector();
        let (mut resume, stop) = (Resume::default(), Stop::default());
        let mut followed = open(Start::Beginning);
        assert!(followed.follow(&mut collector, &mut resume, &stop).await.unwrap());
        // A handle that only writes reads as a broken disk does: with an error.
        followed.file = Arc::new(File::options().append(true).open(&path).unwrap());
        std::fs::write(&path, "m v=1 1\nm v=2 2\n").unwrap();
        assert!(!followed.follow(&mut collector, &mut resume, &stop).await.unwrap());
        assert!(!followed.is_over() && followed.reopen_at.is_some_and(|at| at > Instant::now()));
        followed.reopen_at = Some(Instant::now());
        assert!(!followed.follow(&mut collector, &mut resume, &stop).await.unwrap());
        assert!(followed.is_over());
        let saved = resume.files[&followed.id].clone();
        let mut again = open(Start::Saved(saved));
        assert!(again.follow(&mut collector, &mut resume, &stop).await.unwrap());
        assert_eq!(receiver.take(), ["m v=1 1", "m v=2 2"]);
    }
}
