//! Standard input: read to its end, in large blocks.
//!
//! A thread of its own reads, as a read of a terminal or pipe can't be cancelled: after a stop it is simply left behind.

use std::io::Read;

use tokio::sync::mpsc;
use weir_plugin_api::{
    Position,
    options::{OptionSpec, Section},
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, Decoder, InputContext, InputEntry, PluginError, StreamingInput},
};

use super::blocks::{BLOCK, Blocks, Cut};
use crate::codecs;

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry { name: "stdin", about: "standard input, read to its end", specs, unsupported: &[], build };

fn specs() -> Vec<OptionSpec> {
    codecs::decoder_specs()
}

fn build(section: &Section<'_>, _: &BuildContext) -> Option<BuiltInput> {
    let decoder = codecs::decoder(section)?;
    let input = Stdin { decoder, cut: Cut::of(section, true), open: || Box::new(std::io::stdin()) };
    Some(BuiltInput { input: AnyInput::Streaming(Box::new(input)), claims: vec!["stdin:standard input".into()] })
}

struct Stdin {
    decoder: Box<dyn Decoder>,
    cut: Cut,
    open: fn() -> Box<dyn Read + Send>,
}

impl StreamingInput for Stdin {
    fn can_wait(&self) -> bool {
        true
    }

    fn is_finite(&self) -> bool {
        true
    }

    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let mut blocks = Blocks::new(self.cut);
            let mut reader = read_blocks((self.open)())?;
            let out = &mut context.collector;
            loop {
                let block = match reader.filled.try_recv() {
                    Ok(block) => Some(block),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                    Err(mpsc::error::TryRecvError::Empty) => {
                        // Nothing more for the moment: what was read goes on.
                        out.flush(Position::None).await?;
                        tokio::select! {
                            block = reader.filled.recv() => block,
                            () = context.stop.requested() => break,
                        }
                    }
                };
                match block {
                    Some(Ok(block)) => {
                        blocks.push(&block);
                        blocks.decode(self.decoder.as_mut(), out, false, |_| Position::None).await?;
                        // The thread may have ended meanwhile.
                        let _ = reader.empty.send(block);
                    }
                    Some(Err(error)) => {
                        out.flush(Position::None).await?;
                        return Err(PluginError::because("can't read standard input", &error));
                    }
                    None => {
                        blocks.decode(self.decoder.as_mut(), out, true, |_| Position::None).await?;
                        break;
                    }
                }
                if context.stop.is_requested() {
                    break;
                }
            }
            out.flush(Position::None).await?;
            Ok(())
        })
    }
}

/// Blocks from a reading thread, and the way back for empty ones.
struct Reader {
    filled: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    empty: std::sync::mpsc::Sender<Vec<u8>>,
}

fn read_blocks(mut source: Box<dyn Read + Send>) -> Result<Reader, PluginError> {
    let (send, filled) = mpsc::channel(2);
    let (empty, empties) = std::sync::mpsc::channel::<Vec<u8>>();
    let read = move || {
        loop {
            let mut block = empties.try_recv().unwrap_or_default();
            block.resize(BLOCK, 0);
            let read = match source.read(&mut block) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(length);
                    Ok(block)
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if send.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("stdin".into()).spawn(read);
    started.map_err(|e| PluginError::because("can't start the thread that reads standard input", &e))?;
    Ok(Reader { filled, empty })
}

#[cfg(test)]
#[cfg(feature = "codec-influx")]
mod tests {
    #![allow(clippy::unwrap_used)]
    use weir_plugin_api::{position::Resume, testing};

    use super::*;

    #[tokio::test]
    async fn everything_is_read_to_the_end_even_a_line_without_newline() {
        fn open() -> Box<dyn Read + Send> {
            let lines: String = (0..20_000).map(|i| format!("m v={i} {i}\n")).collect();
            Box::new(std::io::Cursor::new(lines.trim_end().to_owned()))
        }
        let (collector, mut receiver) = testing::collector();
        let mut context = testing::context(collector, Resume::default());
        let mut stdin = Stdin { decoder: Box::new(codecs::influx::InfluxDecoder::default()), cut: Cut::Lines, open };
        assert!(stdin.is_finite());
        let run = stdin.run(&mut context);
        tokio::pin!(run);
        let mut lines = Vec::new();
        loop {
            tokio::select! {
                biased;
                done = &mut run => break done.unwrap(),
                () = tokio::task::yield_now() => lines.extend(receiver.take()),
            }
        }
        lines.extend(receiver.take());
        assert_eq!(lines.len(), 20_000);
        assert_eq!(lines[19_999], "m v=19999 19999");
    }

    #[tokio::test]
    async fn a_stop_ends_it_while_nothing_comes() {
        struct Silent;
        impl Read for Silent {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
        }
        let (collector, _receiver) = testing::collector();
        let mut context = testing::context(collector, Resume::default());
        let stop = context.stop.clone();
        let decoder = Box::new(codecs::influx::InfluxDecoder::default());
        let mut stdin = Stdin { decoder, cut: Cut::Lines, open: || Box::new(Silent) };
        let (done, ()) = tokio::join!(stdin.run(&mut context), async { stop.request() });
        done.unwrap();
    }
}
