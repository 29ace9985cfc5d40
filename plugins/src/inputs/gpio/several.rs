//! Lines of a chip requested together, or one by one where that fails: one that another process holds must not cost the others.

use std::task::{Context, Poll};

use weir_plugin_api::plugin::PluginError;

use crate::gpio::{Chip, Edge, InputLine, Inputs};

/// Requested lines of one chip.
#[derive(Default)]
pub(super) struct Several {
    requests: Vec<(Vec<u32>, Box<dyn Inputs>)>,
}

impl Several {
    /// Requests `lines`; also gives those that can't be had, and why.
    pub(super) fn request(chip: &dyn Chip, lines: &[InputLine]) -> (Self, Vec<(u32, PluginError)>) {
        let mut several = Self::default();
        let missing = several.add(chip, lines);
        (several, missing)
    }

    /// Requests more lines.
    pub(super) fn add(&mut self, chip: &dyn Chip, lines: &[InputLine]) -> Vec<(u32, PluginError)> {
        match chip.inputs(lines) {
            Ok(inputs) => {
                self.requests.push((lines.iter().map(|line| line.offset).collect(), inputs));
                Vec::new()
            }
            Err(error) => match lines {
                [line] => vec![(line.offset, error)],
                _ => lines.iter().flat_map(|line| self.add(chip, std::slice::from_ref(line))).collect(),
            },
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether it has this line.
    pub(super) fn has(&self, offset: u32) -> bool {
        self.requests.iter().any(|(offsets, _)| offsets.contains(&offset))
    }

    /// Whether the line is active now; `None` for one that is not here.
    pub(super) fn level(&mut self, offset: u32) -> Option<Result<bool, PluginError>> {
        let (_, inputs) = self.requests.iter_mut().find(|(offsets, _)| offsets.contains(&offset))?;
        Some(inputs.level(offset))
    }

    /// Appends edges that have come, of each request in their order; pending while there are none.
    pub(super) fn poll_edges(&mut self, cx: &mut Context<'_>, edges: &mut Vec<Edge>) -> Poll<Result<(), PluginError>> {
        let before = edges.len();
        for (_, inputs) in &mut self.requests {
            if let Poll::Ready(Err(error)) = inputs.poll_edges(cx, edges) {
                return Poll::Ready(Err(error));
            }
        }
        if edges.len() == before {
            return Poll::Pending;
        }
        if self.requests.len() > 1 {
            edges[before..].sort_by_key(|edge| edge.at_ns);
        }
        Poll::Ready(Ok(()))
    }

    /// The clock of the edges, now.
    pub(super) fn now_ns(&self) -> i64 {
        self.requests.first().map_or(0, |(_, inputs)| inputs.now_ns())
    }
}
