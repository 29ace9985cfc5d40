//! The file output: points appended to files or standard output, exactly once across crashes.
//!
//! A write counts as delivered after `fdatasync`. The token of a delivery says how much was written up to it; when the agent comes
//! back with an older token, whatever is in a file beyond it is cut off before the same points are written again.
//!
//! A file that is moved away or removed (as `logrotate` does) is let go before the next write, and a new one is made in its place.

mod origin;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinHandle;
use weir_plugin_api::{
    Lane, Points,
    options::Section,
    plugin::{BoxFuture, BuildContext, Encoder, Outcome, Output, OutputEntry, OutputResume, PluginError},
};

use self::origin::Origin;
use crate::codecs;

weir_plugin_api::options! {
    /// Options of the file output.
    pub struct FileOptions {
        /// Files to append to; `stdout` is standard output. A file that is missing is made, its directory is not. One that is moved away or
        /// removed while the agent runs is followed by a new one.
        files: Vec<String> = vec!["stdout".into()],
        /// Write all points of a write as one document, for formats that have one.
        use_batch_format: bool = false,
    }
}

/// The registry's entry.
pub static ENTRY: OutputEntry = OutputEntry {
    name: "file",
    about: "appends points to files or standard output, exactly once",
    specs: || [FileOptions::specs(), codecs::encoder_specs()].concat(),
    unsupported: &["rotation_interval", "rotation_max_size", "rotation_max_archives", "compression_algorithm", "compression_level"],
    build,
};

fn build(section: &Section<'_>, context: &BuildContext) -> Option<Box<dyn Output>> {
    let options = FileOptions::read(section);
    let encoder = codecs::encoder(section);
    let (options, encoder) = (options?, encoder?);
    if options.files.iter().enumerate().any(|(i, file)| options.files[..i].contains(file)) {
        section.error_at("files", "`files` names one file twice");
        return None;
    }
    if options.files.is_empty() {
        section.error_at("files", "`files`: needs at least one file, or \"stdout\"");
        return None;
    }
    Some(Box::new(FileOutput::new(options, encoder, context.directory.join(format!("output-{}.origin", context.name)))))
}

/// One file being appended to.
struct Target {
    path: PathBuf,
    file: File,
    /// Pipes and devices (`/dev/null`, `/dev/stderr`) can be written to but neither cut nor synced.
    regular: bool,
    /// Bytes it has, as far as this output knows.
    length: u64,
}

impl Target {
    /// Opens and cuts `path` to `length`; a file that is shorter stays as it is, and the log says so.
    fn open(path: PathBuf, length: Option<u64>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let metadata = file.metadata()?;
        let mut target = Self { path, file, regular: metadata.is_file(), length: metadata.len() };
        if let (Some(want), true) = (length, target.regular) {
            if want < target.length {
                tracing::info!(file = %target.path.display(), bytes = target.length - want, "cut off what a crash had left unconfirmed");
                target.cut(want)?;
                target.file.sync_all()?;
            } else if want > target.length {
                tracing::warn!(file = %target.path.display(), bytes = want - target.length, "the file is shorter than what was written to it");
            }
        }
        Ok(target)
    }

    /// Whether another file than this, or none, has its name now.
    fn has_gone(&self) -> io::Result<bool> {
        if !self.regular {
            return Ok(false);
        }
        let identity = |m: &fs::Metadata| (m.dev(), m.ino());
        match fs::metadata(&self.path) {
            Ok(there) => Ok(identity(&there) != identity(&self.file.metadata()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        // Never longer: somebody may have emptied it meanwhile.
        if self.regular && self.file.metadata()?.len() > length {
            self.file.set_len(length)?;
        }
        self.length = length;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if self.regular {
            self.file.sync_data()?;
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// What is written to, shared with the blocking thread that writes.
#[derive(Default)]
struct Files {
    targets: Vec<Target>,
    stdout: bool,
    /// Where the last confirmed write ended: the token, and each target's length.
    token: u64,
    confirmed: Vec<u64>,
    /// A write was begun since.
    dirty: bool,
    /// Where it is kept how long each file was at which token.
    origin: PathBuf,
}

impl Files {
    fn open(paths: &[String], origin_path: &Path, resume: OutputResume) -> Result<Self, PluginError> {
        let token = resume.token;
        let mut files = Self { token, origin: origin_path.to_owned(), ..Self::default() };
        let (origin, mut now, mut moved, mut endangered) = (Origin::load(origin_path), Origin::default(), false, None);
        for name in paths {
            if name == "stdout" {
                files.stdout = true;
                continue;
            }
            let path = PathBuf::from(name);
            let length = origin.length(&path, token).filter(|_| resume.known);
            let target = Target::open(path, length).map_err(|e| PluginError::because(format!("cannot open {name}"), &e))?;
            if origin.is_empty() && token > 0 && resume.known && target.regular && target.length > 0 {
                tracing::warn!(file = name, "nobody knows any more how long it was: what a crash may have left unconfirmed is not cut off");
            }
            moved |= target.regular && (!origin.covers(&target.path) || length != Some(target.length));
            now.set(&target.path, token, target.length);
            if target.regular && origin.would_cut(&target.path, token, target.length) {
                endangered = Some(name);
            }
            files.confirmed.push(target.length);
            files.targets.push(target);
        }
        // Written only when it says something new: nothing is synced at an ordinary start.
        if let (true, Err(error)) = (moved, now.save(origin_path)) {
            if let Some(name) = endangered {
                // Another start would take what the file has for what a crash had left.
                return Err(PluginError::because(format!("cannot remember how much {name} has"), &error));
            }
            files.forgets(&error);
        }
        Ok(files)
    }

    fn forgets(&self, error: &io::Error) {
        let file = self.origin.display();
        tracing::warn!(%file, %error, "cannot remember where this output began, so a crash before its first checkpoint may repeat points");
    }

    /// Lets go of files that were moved away or removed, and makes others in their place.
    fn follow(&mut self) -> io::Result<()> {
        let mut moved = false;
        for (target, confirmed) in self.targets.iter_mut().zip(&mut self.confirmed) {
            if target.has_gone().map_err(|e| naming(&target.path, &e))? {
                *target = Target::open(target.path.clone(), None).map_err(|e| naming(&target.path, &e))?;
                (*confirmed, moved) = (target.length, true);
                tracing::info!(file = %target.path.display(), "was moved away or removed, goes on in a new one");
            }
        }
        if moved {
            let mut origin = Origin::default();
            self.targets.iter().for_each(|target| origin.set(&target.path, self.token, target.length));
            origin.save(&self.origin).unwrap_or_else(|error| self.forgets(&error));
        }
        Ok(())
    }

    /// Appends to every file, or to none.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.dirty {
            // A write that failed, or whose caller went away before it heard of the end, is written again from its start.
            for (target, length) in self.targets.iter_mut().zip(&self.confirmed) {
                target.cut(*length).map_err(|e| naming(&target.path, &e))?;
            }
        }
        self.follow()?;
        self.dirty = true;
        for target in &mut self.targets {
            target.append(bytes).map_err(|e| naming(&target.path, &e))?;
        }
        if self.stdout {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())?;
        }
        Ok(())
    }

    /// The caller knows that the last write of `bytes` bytes is there.
    fn confirm(&mut self, bytes: usize) -> u64 {
        self.dirty = false;
        self.confirmed.clear();
        self.confirmed.extend(self.targets.iter().map(|t| t.length));
        self.token += bytes as u64;
        self.token
    }
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

/// The output.
struct FileOutput {
    options: FileOptions,
    encoder: Box<dyn Encoder>,
    origin: PathBuf,
    files: Arc<Mutex<Files>>,
    buffer: Vec<u8>,
    /// The write under way; still there when its caller went away.
    running: Option<JoinHandle<(Vec<u8>, io::Result<()>)>>,
}

impl FileOutput {
    fn new(options: FileOptions, encoder: Box<dyn Encoder>, origin: PathBuf) -> Self {
        Self { options, encoder, origin, files: Arc::default(), buffer: Vec::new(), running: None }
    }

    async fn append(&mut self, points: &Points) -> Outcome {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if self.options.use_batch_format {
            self.encoder.encode_all(points, &mut buffer);
        } else {
            points.iter().for_each(|point| self.encoder.encode(point, &mut buffer));
        }
        let files = Arc::clone(&self.files);
        if let Some(abandoned) = &mut self.running {
            // Its result is of no interest: the next write begins where the last confirmed one ended.
            let _ = abandoned.await;
        }
        let job = self.running.insert(tokio::task::spawn_blocking(move || {
            let result = lock(&files).append(&buffer);
            (buffer, result)
        }));
        let done = job.await;
        self.running = None;
        match done {
            Ok((buffer, Ok(()))) => {
                let token = lock(&self.files).confirm(buffer.len());
                self.buffer = buffer;
                Outcome::Delivered { rejected: Vec::new(), collapsed: 0, token }
            }
            Ok((buffer, Err(error))) => {
                self.buffer = buffer;
                Outcome::Retry { after: None, reason: error.to_string() }
            }
            Err(error) => Outcome::Retry { after: None, reason: format!("the writing thread ended: {error}") },
        }
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output for FileOutput {
    /// Regular files: after a crash each is cut to what was confirmed, which two writers would do to each other.
    fn claims(&self) -> Vec<String> {
        let paths = self.options.files.iter().filter(|file| *file != "stdout").map(|file| crate::claim::canonical(file));
        paths.filter(|path| path.metadata().map_or(true, |m| m.is_file())).map(|path| format!("file:{}", path.display())).collect()
    }

    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        Box::pin(async move {
            let (paths, origin) = (self.options.files.clone(), self.origin.clone());
            let opened = tokio::task::spawn_blocking(move || Files::open(&paths, &origin, resume)).await;
            *lock(&self.files) = opened.map_err(|e| PluginError::because("cannot open files", &e))??;
            Ok(resume)
        })
    }

    fn forget(&mut self) {
        if let Err(error) = Origin::remove(&self.origin) {
            tracing::warn!(file = %self.origin.display(), %error, "cannot forget where an output of this name began");
        }
    }

    fn write<'a>(&'a mut self, _lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(self.append(points))
    }
}

#[cfg(test)]
mod tests;
