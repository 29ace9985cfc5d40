//! Follows files as they grow, through rotation by renaming and by truncation, and resumes where it was after a crash.
//!
//! Files are polled: often while they grow, once a second when they are quiet. Every batch carries the position it reaches, so that
//! after a `kill -9` no line is lost or read twice.

mod followed;

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use weir_plugin_api::{
    Collector, Position,
    collector::Context,
    options::{OptionSpec, Section},
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, InputContext, InputEntry, PluginError, StreamingInput},
    position::{FilePosition, Resume},
};

use self::followed::{Followed, Start};
use super::{
    blocks::Cut,
    file::{blocking, check_encoding, check_files},
    paths::{FILES_MAX, PathPattern},
};
use crate::{
    codecs::{self, Decoders},
    descriptors::is_shortage,
};

/// Pause after a look that found something.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often patterns are matched anew.
const SEARCH_EVERY: Duration = Duration::from_secs(5);

weir_plugin_api::choice! {
    /// Where a file is begun.
    pub enum InitialOffset {
        /// At its beginning, whatever was read before.
        Beginning = "beginning",
        /// At its end, whatever was read before.
        End = "end",
        /// Where it was left, at its beginning if it is new.
        SavedOrBeginning = "saved-or-beginning",
        /// Where it was left, at its end if it is new.
        SavedOrEnd = "saved-or-end",
    }
}

weir_plugin_api::choice! {
    /// How growth is noticed.
    pub enum WatchMethod {
        /// By looking.
        Poll = "poll",
    }
}

weir_plugin_api::options! {
    /// Options of the input.
    pub struct TailOptions {
        /// Files to follow; `*`, `?`, `[…]`, `{…}` and `**` for all directories below may be used.
        files: Vec<String>,
        /// Where a file that is there at the start is begun. Files that come later are read from their beginning.
        initial_read_offset: InitialOffset = InitialOffset::SavedOrEnd,
        /// Begin at the beginning: `true` is `saved-or-beginning`, for configurations written before `initial_read_offset`.
        from_beginning: bool = false,
        /// How growth is noticed.
        watch_method: WatchMethod = WatchMethod::Poll,
        /// Name of a tag that gets the path of the file; empty for none.
        path_tag: String = "path".into(),
        /// Encoding of the files: `utf-8`, which an empty one means too.
        character_encoding: String = String::new(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry {
    name: "tail",
    about: "files followed as they grow",
    specs,
    unsupported: &["pipe", "max_undelivered_lines", "filters", "multiline"],
    build,
};

fn specs() -> Vec<OptionSpec> {
    [TailOptions::specs(), codecs::decoder_specs()].concat()
}

fn build(section: &Section<'_>, _: &BuildContext) -> Option<BuiltInput> {
    let (options, decoders) = (TailOptions::read(section), codecs::decoders(section));
    let header = header_rows(section);
    let (options, decoders) = (options?, decoders?);
    if !(check_encoding(section, &options.character_encoding) & check_files(section, &options.files)) {
        return None;
    }
    let offset = if options.from_beginning { InitialOffset::SavedOrBeginning } else { options.initial_read_offset };
    let patterns = options.files.iter().map(|f| PathPattern::new(f)).collect();
    let tail = Tail {
        patterns,
        offset,
        path_tag: options.path_tag,
        decoders,
        cut: Cut::of(section, false),
        header,
        started: false,
        left_out: false,
        refused: BTreeSet::new(),
    };
    Some(BuiltInput { input: AnyInput::Streaming(Box::new(tail)), claims: Vec::new() })
}

/// Rows at the beginning of a file that its decoder must see whatever is read after them.
fn header_rows(section: &Section<'_>) -> usize {
    use weir_plugin_api::options::Item;
    let number = |key| match section.node(key).map(|n| &n.item) {
        Some(Item::Int(n)) => usize::try_from(*n).unwrap_or(0),
        _ => 0,
    };
    let csv = matches!(section.node("data_format").map(|n| &n.item), Some(Item::Text(f)) if f == "csv");
    if csv { number("csv_header_row_count") + number("csv_skip_rows") } else { 0 }
}

struct Tail {
    patterns: Vec<PathPattern>,
    offset: InitialOffset,
    path_tag: String,
    decoders: Decoders,
    cut: Cut,
    header: usize,
    /// Files found from now on are new.
    started: bool,
    /// It was said that there are more files than can be followed.
    left_out: bool,
    /// Files that are there and can't be followed, of which that was said.
    refused: BTreeSet<PathBuf>,
}

impl StreamingInput for Tail {
    fn can_wait(&self) -> bool {
        true
    }

    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let InputContext { collector: out, resume, stop, .. } = context;
            let mut files: Vec<Followed> = Vec::new();
            let (mut pause, mut search_at) = (PAUSE_MIN, Instant::now());
            if self.offset != InitialOffset::Beginning && self.offset != InitialOffset::End {
                self.find_moved(resume, &mut files, out).await?;
            }
            while !stop.is_requested() {
                if Instant::now() >= search_at {
                    self.search(resume, &mut files, out).await?;
                    search_at = Instant::now() + SEARCH_EVERY;
                    self.started = true;
                } else {
                    self.reopen(resume, &mut files, out).await?;
                }
                let mut grew = false;
                for file in &mut files {
                    grew |= file.follow(out, resume, stop).await?;
                    if stop.is_requested() {
                        break;
                    }
                }
                files.retain(|f| !f.is_over());
                pause = if grew { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.requested() => {}
                }
            }
            Ok(())
        })
    }
}

impl Tail {
    /// Looks for files of all patterns.
    async fn search(&mut self, resume: &mut Resume, files: &mut Vec<Followed>, out: &mut Collector) -> Result<(), PluginError> {
        let patterns = self.patterns.clone();
        let found = blocking(move || patterns.iter().map(PathPattern::find).collect::<Vec<_>>()).await?;
        let too_many = self.patterns.iter().zip(&found).find(|(_, (_, all))| !all).map(|(pattern, _)| pattern.text().to_owned());
        let paths: BTreeSet<PathBuf> = found.into_iter().flat_map(|(paths, _)| paths).collect();
        self.refused.retain(|path| paths.contains(path));
        let (before, mut shortage) = (files.len(), false);
        for path in paths {
            if !self.open(&path, resume, files, out).await? {
                // The others are looked at again when there may be room.
                shortage = true;
                break;
            }
        }
        let left_out = shortage || too_many.is_some();
        if left_out && !self.left_out {
            let (input, pattern) = (out.input_name(), too_many.unwrap_or_default());
            tracing::warn!(
                %input,
                followed = files.len(),
                limit = FILES_MAX,
                pattern,
                shortage,
                "more files than can be followed, the others are not read"
            );
        }
        self.left_out = left_out;
        if files.len() != before || !self.started {
            // Parts of one log that was rotated while nobody looked are read in the order they were written, whatever they are called now.
            files.sort_by_cached_key(Followed::age);
        }
        Ok(())
    }

    /// Looks whether another file stands at the path of one that was followed.
    async fn reopen(&mut self, resume: &mut Resume, files: &mut Vec<Followed>, out: &mut Collector) -> Result<(), PluginError> {
        let plain = self.patterns.iter().filter(|p| p.is_plain()).map(|p| PathBuf::from(p.text()));
        let moved = files.iter().filter(|f| !f.is_in_place()).map(|f| f.path.clone());
        let paths: BTreeSet<PathBuf> = plain.chain(moved).collect();
        let is_new = |path: &PathBuf| !self.refused.contains(path) && identity(path).is_some_and(|id| files.iter().all(|f| f.id != id));
        if self.patterns.iter().any(|p| !p.is_plain()) && paths.iter().any(is_new) {
            // It may have been rotated more than once since the last look: what came in between is read before what is there now.
            return self.search(resume, files, out).await;
        }
        for path in paths {
            self.open(&path, resume, files, out).await?;
        }
        Ok(())
    }

    /// Follows the file at `path` unless it is followed already. `false` when the process may not open another.
    async fn open(
        &mut self,
        path: &Path,
        resume: &mut Resume,
        files: &mut Vec<Followed>,
        out: &mut Collector,
    ) -> Result<bool, PluginError> {
        let Some(id) = identity(path) else { return Ok(true) };
        if let Some(known) = files.iter_mut().find(|f| f.id == id) {
            if known.path != path && !known.is_in_place() {
                // Renamed, and a pattern names it by its new name too: it goes on under the old one.
                known.path = path.to_owned();
            }
            return Ok(true);
        }
        let elsewhere = || resume.files_by_touch().filter(|f| Path::new(&f.path) == path).filter_map(|f| on_device(f, id)).last();
        let saved = resume.files.get(&id).cloned().or_else(elsewhere);
        let succeeds = resume.files.values().any(|f| Path::new(&f.path) == path);
        let start = match (self.offset, saved) {
            _ if self.started && !resume.files.contains_key(&id) => Start::Beginning,
            // After an error the input runs again: what was sent then is not sent twice, wherever it began at first.
            (_, Some(saved)) if self.started => Start::Saved(saved),
            (InitialOffset::SavedOrBeginning | InitialOffset::SavedOrEnd, Some(saved)) => Start::Saved(saved),
            (InitialOffset::SavedOrEnd, None) if succeeds => Start::Beginning,
            (InitialOffset::Beginning | InitialOffset::SavedOrBeginning, _) => Start::Beginning,
            (InitialOffset::End | InitialOffset::SavedOrEnd, _) => Start::End,
        };
        self.follow(path, path, start, resume, files, out).await
    }

    /// Finds files that were renamed while the agent was down, by their inode, to read what was left of them.
    async fn find_moved(&mut self, resume: &mut Resume, files: &mut Vec<Followed>, out: &mut Collector) -> Result<(), PluginError> {
        for saved in resume.files.clone().into_values() {
            let path = PathBuf::from(&saved.path);
            if identity(&path).is_some_and(|id| on_device(&saved, id).is_some()) {
                continue;
            }
            let (directory, wanted) = (directory_of(&path).to_owned(), saved);
            let found = blocking(move || {
                let entries = std::fs::read_dir(directory).ok()?;
                entries.flatten().find_map(|e| Some((e.path(), on_device(&wanted, identity(&e.path())?)?)))
            });
            if let Some((at, saved)) = found.await? {
                self.follow(&at, &path, Start::Moved(saved), resume, files, out).await?;
            }
        }
        Ok(())
    }

    /// Opens the file at `at`, which is called `path`. `false` when the process may not open another.
    async fn follow(
        &mut self,
        at: &Path,
        path: &Path,
        start: Start,
        resume: &mut Resume,
        files: &mut Vec<Followed>,
        out: &mut Collector,
    ) -> Result<bool, PluginError> {
        let name = path.to_string_lossy().into_owned();
        let tags: &[(&str, &str)] = if self.path_tag.is_empty() { &[] } else { &[(&self.path_tag, &name)] };
        let (tags, decoder, at, called) =
            (tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), (self.decoders)(), at.to_owned(), path.to_owned());
        let (cut, header) = (self.cut, self.header);
        let opened = blocking(move || Followed::open(&at, called, start, tags, decoder, cut, header)).await?;
        match opened {
            Ok(None) => {}
            Ok(Some(mut file)) => {
                self.refused.remove(path);
                file.begin(out, resume).await?;
                files.push(file);
            }
            Err(error) if is_shortage(&error) => return Ok(false),
            // It is tried again at the next look, and said once.
            Err(error) => {
                if self.refused.insert(path.to_owned()) {
                    tracing::warn!(input = out.input_name(), file = name, %error, "can't follow a file");
                }
            }
        }
        out.set_context(Context::default());
        Ok(true)
    }
}

/// The directory that `path` is in; of a bare name that is the one the agent runs in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| (m.dev(), m.ino()))
}

/// The position as one of the file `id`, if that may be the same: a file system can be another device after a reboot, its inodes stay.
/// Whether it is the same is told by how it begins.
fn on_device(saved: &FilePosition, id: (u64, u64)) -> Option<FilePosition> {
    (saved.file.1 == id.1).then(|| FilePosition { file: id, ..saved.clone() })
}

/// Sends what was collected with the position it reaches, and remembers that for a restart of the input alone.
async fn flush(out: &mut Collector, resume: &mut Resume, position: FilePosition) -> Result<(), PluginError> {
    let position = Position::Files(vec![position]);
    resume.apply(&position);
    out.flush(position).await?;
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "codec-influx")]
mod tests;
