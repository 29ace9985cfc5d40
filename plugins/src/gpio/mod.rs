//! Lines of a GPIO chip as the input and the action see them: real ones of the kernel's character device, or a script in tests.
// The input uses one half of it, the action the other, and each may be built alone.
#![cfg_attr(not(all(feature = "input-gpio", feature = "action-gpio")), allow(dead_code))]

use std::task::{Context, Poll};

use weir_plugin_api::{options::Section, plugin::PluginError};

mod chip;
#[cfg(test)]
pub(crate) mod scripted;

pub(crate) use chip::Device;

weir_plugin_api::choice! {
    /// What holds a line that nothing drives.
    pub enum Bias {
        /// As it is.
        AsIs = "as_is",
        /// A resistor up.
        PullUp = "pull_up",
        /// A resistor down.
        PullDown = "pull_down",
        /// Nothing.
        Disabled = "disabled",
    }
}

weir_plugin_api::choice! {
    /// Which changes are edges.
    pub enum Edges {
        /// To active.
        Rising = "rising",
        /// To inactive.
        Falling = "falling",
        /// Both.
        Both = "both",
    }
}

/// A line to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputLine {
    pub(crate) offset: u32,
    pub(crate) active_low: bool,
    pub(crate) bias: Bias,
    pub(crate) debounce: std::time::Duration,
    /// `None` where only the level matters.
    pub(crate) edges: Option<Edges>,
}

/// A change of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) offset: u32,
    /// It became active.
    pub(crate) rising: bool,
    /// When, on the kernel's monotonic clock, nanoseconds.
    pub(crate) at_ns: i64,
    /// Number among the line's edges since it was requested, from 1: a gap means lost edges. It wraps.
    pub(crate) sequence: u32,
}

/// Where lines are requested.
pub(crate) trait Chip: Send + Sync {
    /// How it is called in messages and claims.
    fn path(&self) -> &str;

    /// Requests lines to read.
    fn inputs(&self, lines: &[InputLine]) -> Result<Box<dyn Inputs>, PluginError>;

    /// Requests a line and drives it to `active`.
    fn output(&self, offset: u32, active_low: bool, active: bool) -> Result<Box<dyn Output>, PluginError>;
}

/// Requested lines to read; released when dropped.
pub(crate) trait Inputs: Send {
    /// Appends edges that have come; pending while there are none.
    fn poll_edges(&mut self, cx: &mut Context<'_>, edges: &mut Vec<Edge>) -> Poll<Result<(), PluginError>>;

    /// Whether the line is active now.
    fn level(&mut self, offset: u32) -> Result<bool, PluginError>;

    /// The clock of the edges, now.
    fn now_ns(&self) -> i64;
}

/// A requested line to drive; released when dropped.
pub(crate) trait Output: Send {
    /// Drives it.
    fn set(&mut self, active: bool) -> Result<(), PluginError>;
}

/// The device file of a chip that is named with or without `/dev/`.
pub(crate) fn chip_path(section: &Section<'_>, chip: &str) -> Option<String> {
    if chip.is_empty() {
        section.error_at("chip", "`chip` is empty");
        return None;
    }
    Some(if chip.starts_with('/') { chip.to_owned() } else { format!("/dev/{chip}") })
}
