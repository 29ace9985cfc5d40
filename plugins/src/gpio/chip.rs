//! The kernel's GPIO character device, version 2.

use std::task::{Context, Poll, ready};

use gpiocdev::{
    Request,
    line::{EdgeDetection, EdgeKind, Value},
};
use tokio::io::{Interest, unix::AsyncFd};
use weir_plugin_api::plugin::PluginError;

use super::{Bias, Chip, Edge, Edges, InputLine, Inputs, Output};

/// Edges the kernel keeps for us while we are busy; past it the oldest are lost, which their numbers show.
const KERNEL_EDGES: u32 = 4096;
/// Edges taken at once.
const EDGES_AT_ONCE: usize = 256;
const CONSUMER: &str = "weir";

/// A chip's device file.
pub(crate) struct Device {
    path: String,
}

impl Device {
    pub(crate) fn new(path: String) -> Self {
        Self { path }
    }

    fn failed(&self, error: &dyn std::error::Error) -> PluginError {
        PluginError::because(&self.path, error)
    }

    /// A line was refused: names it, and whoever holds it.
    fn refused(&self, offset: u32, error: &dyn std::error::Error) -> PluginError {
        let info = gpiocdev::Chip::from_path(&self.path).and_then(|chip| chip.line_info(offset));
        let held = match info {
            Ok(info) if info.used => format!(", held by {:?}", info.consumer.to_string()),
            _ => String::new(),
        };
        PluginError::because(format_args!("{} line {offset}{held}", self.path), error)
    }
}

impl Chip for Device {
    fn path(&self) -> &str {
        &self.path
    }

    fn inputs(&self, lines: &[InputLine]) -> Result<Box<dyn Inputs>, PluginError> {
        let mut builder = Request::builder();
        builder.on_chip(&self.path).with_consumer(CONSUMER).with_kernel_event_buffer_size(KERNEL_EDGES);
        for line in lines {
            builder.with_line(line.offset).as_input().with_bias(match line.bias {
                Bias::AsIs => None,
                Bias::PullUp => Some(gpiocdev::line::Bias::PullUp),
                Bias::PullDown => Some(gpiocdev::line::Bias::PullDown),
                Bias::Disabled => Some(gpiocdev::line::Bias::Disabled),
            });
            if line.active_low {
                builder.as_active_low();
            } else {
                builder.as_active_high();
            }
            if !line.debounce.is_zero() {
                builder.with_debounce_period(line.debounce);
            }
            if let Some(edges) = line.edges {
                builder.with_edge_detection(match edges {
                    Edges::Rising => EdgeDetection::RisingEdge,
                    Edges::Falling => EdgeDetection::FallingEdge,
                    Edges::Both => EdgeDetection::BothEdges,
                });
            }
        }
        let request = builder.request().map_err(|e| match lines {
            [line] => self.refused(line.offset, &e),
            _ => self.failed(&e),
        })?;
        let request = watch(request).map_err(|e| self.failed(&e))?;
        Ok(Box::new(Requested { request, path: self.path.clone() }))
    }

    fn output(&self, offset: u32, active_low: bool, active: bool) -> Result<Box<dyn Output>, PluginError> {
        let mut builder = Request::builder();
        builder.on_chip(&self.path).with_consumer(CONSUMER).with_line(offset).as_output(value(active));
        if active_low {
            builder.as_active_low();
        }
        let request = builder.request().map_err(|e| self.refused(offset, &e))?;
        Ok(Box::new(Driven { request, offset, path: self.path.clone() }))
    }
}

fn value(active: bool) -> Value {
    if active { Value::Active } else { Value::Inactive }
}

/// Tokio's replacement of this constructor is `unsafe` because a type may lie about its descriptor; a request owns its own.
#[expect(deprecated, reason = "the request owns the descriptor for as long as it is watched")]
fn watch(request: Request) -> std::io::Result<AsyncFd<Request>> {
    AsyncFd::with_interest(request, Interest::READABLE)
}

struct Requested {
    request: AsyncFd<Request>,
    path: String,
}

impl Requested {
    fn failed(&self, error: &dyn std::error::Error) -> PluginError {
        PluginError::because(&self.path, error)
    }
}

impl Inputs for Requested {
    fn poll_edges(&mut self, cx: &mut Context<'_>, edges: &mut Vec<Edge>) -> Poll<Result<(), PluginError>> {
        let before = edges.len();
        let failed = |error: &dyn std::error::Error| PluginError::because(&self.path, error);
        loop {
            let mut guard = ready!(self.request.poll_read_ready(cx)).map_err(|e| failed(&e))?;
            let request = self.request.get_ref();
            // The device blocks when it has nothing, so it is asked first each time.
            while edges.len() < before + EDGES_AT_ONCE && request.has_edge_event().map_err(|e| failed(&e))? {
                let edge = request.read_edge_event().map_err(|e| failed(&e))?;
                edges.push(Edge {
                    offset: edge.offset,
                    rising: edge.kind == EdgeKind::Rising,
                    at_ns: i64::try_from(edge.timestamp_ns).unwrap_or(i64::MAX),
                    sequence: edge.line_seqno,
                });
            }
            if edges.len() > before {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    fn level(&mut self, offset: u32) -> Result<bool, PluginError> {
        Ok(self.request.get_ref().value(offset).map_err(|e| self.failed(&e))? == Value::Active)
    }

    fn now_ns(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * weir_plugin_api::time::SECOND + now.tv_nsec
    }
}

struct Driven {
    request: Request,
    offset: u32,
    path: String,
}

impl Output for Driven {
    fn set(&mut self, active: bool) -> Result<(), PluginError> {
        self.request.set_value(self.offset, value(active)).map_err(|e| PluginError::because(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_that_is_missing_is_named() {
        let chip = Device::new("/dev/gpiochip-of-nowhere".into());
        let error = chip.output(3, false, true).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("/dev/gpiochip-of-nowhere") && error.contains("No such file"), "{error}");
    }
}
