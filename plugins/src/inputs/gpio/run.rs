//! The lines at work: wait for edges, publish at intervals, request again what was lost.

use std::{future::poll_fn, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior};
use weir_plugin_api::{
    collector::Collector,
    plugin::{BoxFuture, InputContext, PluginError, StreamingInput},
    position::Position,
    ring::Closed,
};

use super::{Mode, several::Several};
use crate::{
    gpio::{Chip, Edge, InputLine},
    inputs::retry::Retry,
};

const MEASUREMENT: &str = "gpio";

/// Why lines are not read any more.
enum Over {
    Stopped,
    Lost(PluginError),
    Closed(Closed),
}

impl From<Closed> for Over {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// One line and what is known of it.
pub(super) struct Line {
    name: String,
    offset_text: String,
    mode: Mode,
    pub(super) input: InputLine,
    /// Edges since the start, those lost on the way included.
    count: u64,
    /// Number of the last edge since the line was requested.
    last: u32,
}

impl Line {
    pub(super) fn new(name: String, mode: Mode, input: InputLine) -> Self {
        Self { name, offset_text: input.offset.to_string(), mode, input, count: 0, last: 0 }
    }

    /// Counts an edge and returns how many are missing before it.
    fn advance(&mut self, sequence: u32) -> u64 {
        let ahead = sequence.wrapping_sub(self.last);
        self.last = sequence;
        self.count += u64::from(ahead);
        u64::from(ahead.saturating_sub(1))
    }
}

/// The input.
pub(super) struct Gpio {
    chip: Box<dyn Chip>,
    chip_name: String,
    lines: Vec<Line>,
    publish_every: Duration,
    edges: Vec<Edge>,
}

impl Gpio {
    pub(super) fn new(chip: Box<dyn Chip>, lines: Vec<Line>, publish_every: Duration) -> Self {
        let chip_name = chip.path().trim_start_matches("/dev/").to_owned();
        Self { chip, chip_name, lines, publish_every, edges: Vec::new() }
    }

    async fn serve(&mut self, context: &mut InputContext) -> Result<(), PluginError> {
        let mut retry = Retry::default();
        loop {
            let requested: Vec<InputLine> = self.lines.iter().map(|line| line.input).collect();
            let (inputs, mut missing) = Several::request(self.chip.as_ref(), &requested);
            let over = if inputs.is_empty() {
                Over::Lost(missing.swap_remove(0).1)
            } else {
                tracing::info!(input = %context.name, chip = self.chip.path(), lines = self.lines.len() - missing.len(), "lines requested");
                for (line, reason) in &missing {
                    tracing::warn!(input = %context.name, line, %reason, "a GPIO line can't be had, looking for it; the others are read");
                }
                retry.recovered();
                if missing.is_empty() {
                    context.health.works();
                } else {
                    context.health.failed();
                }
                self.read(inputs, context).await
            };
            let error = match over {
                Over::Stopped => return Ok(()),
                Over::Closed(closed) => return Err(closed.into()),
                Over::Lost(error) => error,
            };
            context.health.failed();
            if retry.tell() {
                tracing::warn!(input = %context.name, reason = %error, "no GPIO lines, looking for them");
            }
            tokio::select! {
                biased;
                () = context.stop.requested() => return Ok(()),
                () = tokio::time::sleep(retry.next_wait()) => {}
            }
        }
    }

    async fn read(&mut self, mut inputs: Several, context: &mut InputContext) -> Over {
        // A new request numbers its edges from 1.
        self.lines.iter_mut().for_each(|line| line.last = 0);
        let mut due = interval(self.publish_every);
        let mut retry = Retry::default();
        let mut is_whole = self.is_whole(&inputs);
        let mut again_at = Instant::now() + retry.next_wait();
        loop {
            let outcome = tokio::select! {
                biased;
                () = context.stop.requested() => {
                    let last = self.stop(&mut inputs, &mut context.collector).await;
                    return last.err().unwrap_or(Over::Stopped);
                }
                came = poll_fn(|cx| inputs.poll_edges(cx, &mut self.edges)) => match came {
                    Ok(()) => self.take(inputs.now_ns(), &mut context.collector).await,
                    Err(error) => Err(Over::Lost(error)),
                },
                _ = due.tick() => self.publish(&mut inputs, &mut context.collector).await,
                () = tokio::time::sleep_until(again_at), if !is_whole => {
                    self.look_again(&mut inputs, &context.name);
                    is_whole = self.is_whole(&inputs);
                    if is_whole {
                        context.health.works();
                    } else {
                        context.health.failed();
                    }
                    again_at = Instant::now() + retry.next_wait();
                    Ok(())
                }
            };
            if let Err(over) = outcome {
                return over;
            }
        }
    }

    fn is_whole(&self, inputs: &Several) -> bool {
        self.lines.iter().all(|line| inputs.has(line.input.offset))
    }

    /// Requests lines that could not be had before.
    fn look_again(&self, inputs: &mut Several, input: &str) {
        for line in &self.lines {
            let line = line.input;
            if !inputs.has(line.offset) && inputs.add(self.chip.as_ref(), &[line]).is_empty() {
                tracing::info!(%input, line = line.offset, "the GPIO line is read now");
            }
        }
    }

    /// Turns edges into counts and points. While the ring is full the kernel keeps what comes, and counts what it can't keep.
    async fn take(&mut self, monotonic: i64, collector: &mut Collector) -> Result<(), Over> {
        let steady = collector.clock().steady();
        for edge in self.edges.drain(..) {
            let Some(line) = self.lines.iter_mut().find(|line| line.input.offset == edge.offset) else { continue };
            let lost = line.advance(edge.sequence);
            if line.mode != Mode::Edge {
                continue;
            }
            collector.counts().lost_link += lost;
            // An edge can't be later than now; 0 would be taken for "now".
            let at = steady.saturating_sub(monotonic.saturating_sub(edge.at_ns).max(0));
            collector.set_read_at(if at == 0 { 1 } else { at });
            point(collector, &self.chip_name, line, |point| {
                point
                    .field("level", edge.rising)
                    .field("edge", if edge.rising { "rising" } else { "falling" })
                    .field("seq", i64::from(edge.sequence))
                    .field("count", line.count as i64);
            });
            if collector.is_full() {
                collector.flush(Position::None).await?;
            }
        }
        collector.set_read_at(steady);
        collector.flush(Position::None).await?;
        Ok(())
    }

    /// Publishes levels and counts. Asks the chip in any case: kernels before 6.6 don't wake who waits for the edges of one that is gone.
    async fn publish(&mut self, inputs: &mut Several, collector: &mut Collector) -> Result<(), Over> {
        collector.set_read_at(collector.clock().steady());
        for line in &self.lines {
            let Some(level) = inputs.level(line.input.offset) else { continue };
            let level = level.map_err(Over::Lost)?;
            match line.mode {
                Mode::Edge => {}
                Mode::Level => {
                    point(collector, &self.chip_name, line, |point| {
                        point.field("level", level);
                    });
                }
                Mode::Counter => point(collector, &self.chip_name, line, |point| {
                    point.field("count", line.count as i64);
                }),
            }
        }
        collector.flush(Position::None).await?;
        Ok(())
    }

    /// What was counted since the last time must not be lost by a stop.
    async fn stop(&mut self, inputs: &mut Several, collector: &mut Collector) -> Result<(), Over> {
        let came = poll_fn(|cx| std::task::Poll::Ready(inputs.poll_edges(cx, &mut self.edges).is_ready())).await;
        if came {
            self.take(inputs.now_ns(), collector).await?;
        }
        collector.set_read_at(collector.clock().steady());
        for line in self.lines.iter().filter(|line| line.mode == Mode::Counter && inputs.has(line.input.offset)) {
            point(collector, &self.chip_name, line, |point| {
                point.field("count", line.count as i64);
            });
        }
        collector.flush(Position::None).await?;
        Ok(())
    }
}

impl StreamingInput for Gpio {
    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(self.serve(context))
    }
}

fn point(collector: &mut Collector, chip: &str, line: &Line, fields: impl FnOnce(&mut weir_plugin_api::collector::PointWriter<'_>)) {
    let tags = [("chip", chip), ("line", line.offset_text.as_str()), ("name", line.name.as_str())];
    let named = if line.name.is_empty() { &tags[..2] } else { &tags[..] };
    fields(&mut collector.point(MEASUREMENT, named, None));
}

fn interval(every: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now(), every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
