//! One file being followed: how far it was read, whether it was truncated or replaced, and its decoder.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
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

/// Bytes at the beginning of a file that tell it from another one in the same inode.
const HEAD: u64 = 1024;
/// A file that was replaced is followed until it was quiet for so long: its writer may still hold it.
const LINGER: Duration = Duration::from_secs(3);
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
        let file = match File::open(at) {
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
        Ok(Some(Self { path, id, file, reached, read: offset, blocks, decoder, tags, gone: None, over: false, unsaid, header }))
    }

    /// Says where it begins, if that is not its beginning: lines that come while the agent is down are then not lost.
    pub(super) async fn begin(&mut self, out: &mut Collector, resume: &mut Resume) -> Result<(), PluginError> {
        if let Some(rows) = self.header.take() {
            // Rows of a header give no points.
            self.decoder.decode(&rows, out);
        }
        if std::mem::take(&mut self.unsaid) { flush(out, resume, self.reached.position()).await } else { Ok(()) }
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
        // Looking at the length costs no wait, so a quiet file costs no thread.
        while !stop.is_requested() && self.file.metadata().map_or(true, |m| m.len() != self.read) {
            match self.look().await? {
                Look::Nothing => break,
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
            if length < read || file.read_exact_at(&mut now, 0).is_err() || now != head {
                return Ok(Look::Truncated);
            }
            let mut bytes = vec![0; BLOCK.min((length - read) as usize)];
            let length = file.read_at(&mut bytes, read)?;
            bytes.truncate(length);
            Ok(if length == 0 { Look::Nothing } else { Look::Bytes(bytes) })
        });
        looked.await?.map_err(|e: std::io::Error| PluginError::because(format_args!("can't read {}", self.path.display()), &e))
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
