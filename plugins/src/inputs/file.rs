//! Files that are read anew, as a whole, at each interval.

use std::path::{Path, PathBuf};

use weir_plugin_api::{
    Position,
    collector::{Context, Refusal},
    options::{OptionSpec, Section},
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, Decoder, InputContext, InputEntry, PluginError, PolledInput},
};

use super::paths::{FILES_MAX, PathPattern};
use crate::codecs;

/// Bytes a file may have.
const FILE_MAX: u64 = 64 * 1024 * 1024;

weir_plugin_api::options! {
    /// Options of the input.
    pub struct FileOptions {
        /// Files to read; `*`, `?`, `[…]`, `{…}` and `**` for all directories below may be used.
        files: Vec<String>,
        /// Name of a tag that gets the name of the file; empty for none.
        file_tag: String = String::new(),
        /// Name of a tag that gets the path of the file; empty for none.
        file_path_tag: String = String::new(),
        /// Encoding of the files: `utf-8`, which an empty one means too.
        character_encoding: String = String::new(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry { name: "file", about: "files read as a whole at each interval", specs, unsupported: &[], build };

fn specs() -> Vec<OptionSpec> {
    [FileOptions::specs(), codecs::decoder_specs()].concat()
}

/// Reports an encoding other than UTF-8.
pub(super) fn check_encoding(section: &Section<'_>, encoding: &str) -> bool {
    let known = matches!(encoding.to_ascii_lowercase().as_str(), "" | "utf-8" | "utf8");
    if !known {
        section.error_at("character_encoding", "`character_encoding`: only utf-8 is read");
    }
    known
}

/// Reports a list of files without any.
pub(super) fn check_files(section: &Section<'_>, files: &[String]) -> bool {
    let some = !files.is_empty() && files.iter().all(|f| !f.is_empty());
    if !some {
        section.error_at("files", "`files`: name at least one file");
    }
    some
}

fn build(section: &Section<'_>, _: &BuildContext) -> Option<BuiltInput> {
    let (options, decoder) = (FileOptions::read(section), codecs::decoder(section));
    let (options, decoder) = (options?, decoder?);
    if !(check_encoding(section, &options.character_encoding) & check_files(section, &options.files)) {
        return None;
    }
    let patterns = options.files.iter().map(|f| PathPattern::new(f)).collect();
    let input = File { options, patterns, decoder };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(input)), claims: Vec::new() })
}

struct File {
    options: FileOptions,
    patterns: Vec<PathPattern>,
    decoder: Box<dyn Decoder>,
}

/// What came of one path.
type Content = (PathBuf, Result<Option<Vec<u8>>, std::io::Error>);

impl PolledInput for File {
    fn can_wait(&self) -> bool {
        true
    }

    fn gather<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let mut failed = None;
            for pattern in self.patterns.clone() {
                let text = pattern.text().to_owned();
                let plain = pattern.is_plain();
                let (paths, all) = blocking(move || pattern.find()).await?;
                if !all {
                    failed
                        .get_or_insert(PluginError::new(format_args!("{text} finds more than {FILES_MAX} files, the others are not read")));
                }
                if plain && paths.is_empty() {
                    failed.get_or_insert(PluginError::new(format_args!("there is no file {text}")));
                }
                for path in paths {
                    let (path, content) = blocking(move || read(path)).await?;
                    match content {
                        Ok(Some(bytes)) => self.decode(&path, &bytes, context).await?,
                        Ok(None) => {
                            let reason = format_args!("{} has more than {FILE_MAX} bytes", path.display());
                            context.collector.refuse(Refusal::Size, reason, &[]);
                        }
                        Err(error) => {
                            failed.get_or_insert(PluginError::because(format_args!("can't read {}", path.display()), &error));
                        }
                    }
                }
            }
            failed.map_or(Ok(()), Err)
        })
    }
}

impl File {
    async fn decode(&mut self, path: &Path, bytes: &[u8], context: &mut InputContext) -> Result<(), PluginError> {
        let (full, name) = (path.to_string_lossy(), path.file_name().unwrap_or_default().to_string_lossy());
        let all = [(self.options.file_tag.as_str(), &*name), (self.options.file_path_tag.as_str(), &*full)];
        let tags: Vec<(&str, &str)> = all.into_iter().filter(|(key, _)| !key.is_empty()).collect();
        let out = &mut context.collector;
        let around = out.context(&tags, None, Some(&full));
        out.set_context(around);
        self.decoder.reset();
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.decoder.decode(rest, out).min(rest.len());
            rest = &rest[used..];
            if out.is_full() || used == 0 {
                out.flush(Position::None).await?;
            }
        }
        out.set_context(Context::default());
        Ok(())
    }
}

/// `None` when it is too large.
fn read(path: PathBuf) -> Content {
    let length = std::fs::metadata(&path).map(|m| m.len());
    let content = match length {
        Ok(length) if length > FILE_MAX => Ok(None),
        Ok(_) => std::fs::read(&path).map(Some),
        Err(error) => Err(error),
    };
    (path, content)
}

/// Does something that waits for the disk on a thread where that holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PluginError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| PluginError::because("a read of files was broken off", &e))
}

#[cfg(test)]
#[cfg(feature = "codec-influx")]
mod tests {
    #![allow(clippy::unwrap_used)]
    use weir_plugin_api::{position::Resume, testing};

    use super::*;

    #[tokio::test]
    async fn files_are_read_anew_each_time_with_their_names_as_tags() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.txt"), "m v=1 1\nnonsense\n").unwrap();
        std::fs::write(directory.path().join("b.txt"), "m v=2 2").unwrap();
        let pattern = format!("{}/*.txt", directory.path().display());
        let missing = format!("{}/c.txt", directory.path().display());
        let mut input = File {
            options: FileOptions {
                files: vec![],
                file_tag: "file".into(),
                file_path_tag: String::new(),
                character_encoding: String::new(),
            },
            patterns: vec![PathPattern::new(&missing), PathPattern::new(&pattern)],
            decoder: Box::new(codecs::influx::InfluxDecoder::default()),
        };
        let (collector, mut receiver) = testing::collector();
        let mut context = testing::context(collector, Resume::default());
        for _ in 0..2 {
            let error = input.gather(&mut context).await.unwrap_err();
            assert!(error.0.contains("c.txt"), "{error}");
            context.collector.flush(Position::None).await.unwrap();
            assert_eq!(receiver.take(), ["m,file=a.txt v=1 1", "m,file=b.txt v=2 2"]);
        }
        assert_eq!(receiver.counts.refused_parse, 2);
    }
}
