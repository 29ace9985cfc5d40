//! Finds the files that patterns like `/var/log/**/*.log` name. `*`, `?`, `[…]` and `{…}` stay within one directory, `**` goes through all, as it does
//! in `**.log`, which Telegraf takes for `**/*.log`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use weir_plugin_api::filter::Glob;

/// Files one pattern may find.
pub(super) const FILES_MAX: usize = 4096;
/// Directories deep that `**` goes.
const DEPTH_MAX: usize = 32;

/// One pattern of files.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    text: String,
    /// The path up to the first step with a pattern.
    base: PathBuf,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Name(String),
    Glob(Glob),
    Any,
}

impl PathPattern {
    /// Takes a pattern apart.
    pub(super) fn new(text: &str) -> Self {
        let (mut base, mut steps) = (PathBuf::new(), Vec::new());
        if text.starts_with('/') {
            base.push("/");
        }
        for part in split(text).into_iter().filter(|p| !p.is_empty()) {
            let magic = part.contains(['*', '?', '[', '{', '\\']);
            match (magic, steps.is_empty()) {
                (false, true) => base.push(part),
                (false, false) => steps.push(Step::Name(part.to_owned())),
                (true, _) if part == "**" => steps.push(Step::Any),
                (true, _) if part.starts_with("**") => steps.extend([Step::Any, Step::Glob(Glob::new(&part[1..]))]),
                (true, _) => steps.push(Step::Glob(Glob::new(part))),
            }
        }
        Self { text: text.to_owned(), base, steps }
    }

    /// The pattern as written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names one file.
    pub(super) fn is_plain(&self) -> bool {
        self.steps.is_empty()
    }

    /// The files there are now, in order, and whether these are all: some [`FILES_MAX`] of more otherwise. What can't be read is left out.
    /// Blocks on the disk.
    pub(super) fn find(&self) -> (Vec<PathBuf>, bool) {
        let mut found = BTreeSet::new();
        walk(&self.base, &self.steps, 0, &mut found);
        let all = found.len() <= FILES_MAX;
        (found.into_iter().take(FILES_MAX).collect(), all)
    }
}

/// Splits at slashes that are not inside braces.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '/' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn walk(path: &Path, steps: &[Step], depth: usize, found: &mut BTreeSet<PathBuf>) {
    if found.len() > FILES_MAX || depth > DEPTH_MAX {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        if path.is_file() {
            found.insert(path.to_owned());
        }
        return;
    };
    if let Step::Name(name) = step {
        return walk(&path.join(name), rest, depth, found);
    }
    if matches!(step, Step::Any) && !rest.is_empty() {
        walk(path, rest, depth, found);
    }
    let directory = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let below = path.join(name);
        match step {
            Step::Any if entry.file_type().is_ok_and(|t| t.is_dir()) => walk(&below, steps, depth + 1, found),
            Step::Any if rest.is_empty() => walk(&below, rest, depth, found),
            Step::Glob(glob) if glob.matches(name) => walk(&below, rest, depth, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_find_files_and_two_stars_go_through_directories() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.log", "b.log", "b.txt", "sub/c.log", "sub/deep/d.log", "sub/deep/e.csv"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        for (pattern, expected) in [
            ("a.log", "a.log"),
            ("none.log", ""),
            ("*.log", "a.log b.log"),
            ("[b-z].{log,txt}", "b.log b.txt"),
            ("*/c.log", "sub/c.log"),
            ("**/*.log", "a.log b.log sub/c.log sub/deep/d.log"),
            ("sub/**", "sub/c.log sub/deep/d.log sub/deep/e.csv"),
            ("**/deep/?.csv", "sub/deep/e.csv"),
            ("**.log", "a.log b.log sub/c.log sub/deep/d.log"),
            ("sub/**.csv", "sub/deep/e.csv"),
        ] {
            let found = PathPattern::new(&format!("{}/{pattern}", directory.path().display())).find().0;
            let names: Vec<_> = found.iter().map(|p| p.strip_prefix(directory.path()).unwrap().to_str().unwrap()).collect();
            assert_eq!(names.join(" "), expected, "{pattern}");
        }
    }
    #[test]
    fn of_too_many_files_the_bound_is_found_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let pattern = PathPattern::new(&format!("{}/*", directory.path().display()));
        for n in 0..FILES_MAX {
            std::fs::write(directory.path().join(format!("{n}")), "").unwrap();
        }
        let (found, all) = pattern.find();
        assert_eq!((found.len(), all), (FILES_MAX, true));
        std::fs::write(directory.path().join("more"), "").unwrap();
        let (found, all) = pattern.find();
        assert_eq!((found.len(), all), (FILES_MAX, false));
    }
}
