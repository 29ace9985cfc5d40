//! Points a destination refused for good, kept as line protocol for a person to look at: two files per output, bounded together.
//!
//! Apart from the store because nothing depends on it: it is not synced, nothing is restored from it, and a disk that takes nothing
//! costs the copy, never the delivery. Writing happens outside tokio's thread, which never waits for the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use weir_plugin_api::{PointView, Points, Value, plugin::Rejection, series::escape_key};

use super::{delivery::OutputHealth, writes::SharedWrites};

/// A write that takes longer is left to itself; delivery goes on.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Characters of a reason that are kept.
const REASON_MAX: usize = 500;

/// One refused point.
struct Letter {
    /// Status and reason, one line.
    reason: String,
    /// The point, one line.
    line: String,
}

/// One output's dead letters.
pub struct DeadLetters {
    output: String,
    path: PathBuf,
    /// Each of the two files.
    bytes_max: u64,
    health: Arc<OutputHealth>,
    writes: SharedWrites,
    /// A write that took too long.
    late: Option<JoinHandle<()>>,
    failing: bool,
}

impl DeadLetters {
    /// Those of `output`, in the state directory; `bytes_max` for both files, 0 keeps none.
    pub fn new(directory: &Path, output: &str, bytes_max: u64, health: Arc<OutputHealth>, writes: SharedWrites) -> Option<Self> {
        let path = directory.join(format!("dead-letters-{}.lp", file_name(output)));
        (bytes_max > 0).then(|| Self {
            output: output.to_owned(),
            path,
            bytes_max: bytes_max / 2,
            health,
            writes,
            late: None,
            failing: false,
        })
    }

    /// Keeps the refused points of a write.
    pub async fn keep(&mut self, points: &Points, rejected: &[Rejection]) {
        let letters = letters(points, rejected);
        let count = letters.len() as u64;
        if self.late.as_ref().is_some_and(|write| !write.is_finished()) {
            self.note(0, count, Some("the write before is not done"));
            return;
        }
        let (path, bytes_max, writes) = (self.path.clone(), self.bytes_max, self.writes.clone());
        let (sender, result) = tokio::sync::oneshot::channel();
        let write = tokio::task::spawn_blocking(move || {
            // Whoever waited may have given up.
            let _ = sender.send(append(&path, bytes_max, &letters, &writes));
        });
        match timeout(WRITE_MAX, result).await {
            Ok(Ok(Ok(dropped))) => self.note(count.saturating_sub(dropped.refused), dropped.refused + dropped.rotated, None),
            Ok(Ok(Err(error))) => self.note(0, count, Some(&error.to_string())),
            Ok(Err(_)) => self.note(0, count, Some("the write was given up")),
            Err(_) => {
                self.late = Some(write);
                self.note(0, count, Some("the disk takes too long"));
            }
        }
    }

    fn note(&mut self, kept: u64, dropped: u64, error: Option<&str>) {
        self.health.dead_letters.fetch_add(kept, Ordering::Relaxed);
        self.health.dead_letters_dropped.fetch_add(dropped, Ordering::Relaxed);
        if let Some(error) = error
            && !self.failing
        {
            tracing::warn!(output = %self.output, path = %self.path.display(), error, "refused points can't be kept as dead letters");
        }
        self.failing = error.is_some();
    }
}

/// A file name of any alias, no two the same.
fn file_name(output: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    output.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn letters(points: &Points, rejected: &[Rejection]) -> Vec<Letter> {
    let views: Vec<PointView<'_>> = points.iter().collect();
    let letter = |rejection: &Rejection| {
        let point = views.get(rejection.index)?;
        let words = rejection.reason.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
        let reason: String = words.collect::<Vec<_>>().join(" ").chars().take(REASON_MAX).collect();
        Some(Letter { reason: format!("# {}: {reason}\n", rejection.status), line: line(point) })
    };
    rejected.iter().filter_map(letter).collect()
}

/// The point as line protocol. The codec for it may not be in this build.
fn line(point: &PointView<'_>) -> String {
    let series = point.series();
    let mut line = String::new();
    if series.measurement().starts_with('#') {
        // It would read as a comment.
        line.push('\\');
    }
    line.push_str(series.line());
    for (at, (name, value)) in point.fields().enumerate() {
        line.push(if at == 0 { ' ' } else { ',' });
        escape_key(name, &mut line);
        line.push('=');
        match value {
            Value::Float(v) => line.push_str(&v.to_string()),
            Value::Int(v) => line.push_str(&format!("{v}i")),
            Value::Uint(v) => line.push_str(&format!("{v}u")),
            Value::Bool(v) => line.push_str(if v { "true" } else { "false" }),
            Value::Text(v) => {
                line.push('"');
                line.push_str(&v.replace('\\', "\\\\").replace('"', "\\\""));
                line.push('"');
            }
        }
    }
    line.push_str(&format!(" {}\n", point.time()));
    line
}

/// Letters that are not, or no longer, there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    /// Too large for a file.
    refused: u64,
    /// In the older file when a new one was begun.
    rotated: u64,
}

/// Appends letters, a reason once for those in a row that share it, and begins a new file when one is full.
fn append(path: &Path, bytes_max: u64, letters: &[Letter], writes: &SharedWrites) -> io::Result<Dropped> {
    let mut dropped = Dropped::default();
    let (mut file, mut size) = open(path)?;
    let mut text = String::new();
    let mut last = "";
    for letter in letters {
        let whole = (letter.reason.len() + letter.line.len()) as u64;
        if whole > bytes_max {
            dropped.refused += 1;
            continue;
        }
        if size + text.len() as u64 + whole > bytes_max {
            file.write_all(text.as_bytes())?;
            writes.other(text.len() as u64);
            text.clear();
            dropped.rotated += rotate(path)?;
            (file, size) = open(path)?;
            last = "";
        }
        if letter.reason != last {
            text.push_str(&letter.reason);
            last = &letter.reason;
        }
        text.push_str(&letter.line);
    }
    file.write_all(text.as_bytes())?;
    writes.other(text.len() as u64);
    Ok(dropped)
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// The file becomes the older one; how many letters the older one before it held.
fn rotate(path: &Path) -> io::Result<u64> {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    let lost = match fs::read(&older) {
        Ok(bytes) => bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#")).count() as u64,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    fs::rename(path, &older)?;
    Ok(lost)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::{Identity, Series, chunk::ChunkBuilder};

    use super::*;

    fn writes() -> SharedWrites {
        SharedWrites::new(Arc::new(crate::sys::clock::SystemClock::default()))
    }

    fn points(count: u32) -> Points {
        let series = Arc::new(Series::from_parts("m x", &[("a", "b c")]));
        let mut builder = ChunkBuilder::default();
        for ordinal in 0..count {
            builder.point(Identity { record: 1, ordinal }, &series, 1);
            builder.field(&"f".into(), 5, Value::Float(1.5));
            builder.field(&"t".into(), 5, Value::Text("say \"hi\" \\"));
            builder.field(&"u".into(), 5, Value::Uint(7));
        }
        Points::from(Arc::new(builder.finish()))
    }

    fn rejections(count: usize, reason: &str) -> Vec<Rejection> {
        (0..count).map(|index| Rejection { index, status: "400".into(), reason: reason.into() }).collect()
    }

    const LINE: &str = "m\\ x,a=b\\ c f=1.5,t=\"say \\\"hi\\\" \\\\\",u=7u 5\n";

    #[tokio::test]
    async fn a_refused_point_is_kept_as_a_line_behind_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let health: Arc<OutputHealth> = Arc::default();
        let mut letters = DeadLetters::new(directory.path(), "a/b", 1 << 20, Arc::clone(&health), writes()).unwrap();
        letters.keep(&points(3), &rejections(2, "no\nsuch \u{1b}[31mtype")).await;
        letters.keep(&points(1), &rejections(1, "other")).await;
        let text = fs::read_to_string(directory.path().join("dead-letters-a%2Fb.lp")).unwrap();
        assert_eq!(text, format!("# 400: no such [31mtype\n{LINE}{LINE}# 400: other\n{LINE}"));
        assert_eq!(health.dead_letters.load(Ordering::Relaxed), 3);
        assert!(DeadLetters::new(directory.path(), "a/b", 0, health, writes()).is_none(), "0 keeps none");
    }

    #[tokio::test]
    async fn both_files_stay_within_the_bound_and_what_goes_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let health: Arc<OutputHealth> = Arc::default();
        let bytes_max = 4096;
        let mut letters = DeadLetters::new(directory.path(), "x", bytes_max, Arc::clone(&health), writes()).unwrap();
        for _ in 0..10 {
            letters.keep(&points(50), &rejections(50, "why not")).await;
        }
        letters.keep(&points(1), &rejections(1, &"long ".repeat(100_000))).await;
        let size = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
        let (new, old) = (size("dead-letters-x.lp"), size("dead-letters-x.lp.1"));
        assert!(new <= bytes_max / 2 && old <= bytes_max / 2 && old > bytes_max / 4, "{new} {old}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let kept = health.dead_letters.load(Ordering::Relaxed);
        let there = ["dead-letters-x.lp", "dead-letters-x.lp.1"].map(|name| {
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(text.starts_with("# 400: "), "a file explains itself: {text:.40}");
            text.lines().filter(|l| !l.starts_with('#')).count() as u64
        });
        assert_eq!(kept, 501);
        assert_eq!(there.iter().sum::<u64>() + health.dead_letters_dropped.load(Ordering::Relaxed), 501);
    }

    #[tokio::test]
    async fn a_directory_that_takes_nothing_costs_the_copy_only() {
        let health: Arc<OutputHealth> = Arc::default();
        let mut letters = DeadLetters::new(Path::new("/nonexistent"), "x", 4096, Arc::clone(&health), writes()).unwrap();
        letters.keep(&points(2), &rejections(2, "why not")).await;
        assert_eq!(health.dead_letters_dropped.load(Ordering::Relaxed), 2);
    }
}
