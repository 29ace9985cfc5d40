//! A chip that does what a test tells it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use weir_plugin_api::plugin::PluginError;

use super::{Chip, Edge, InputLine, Inputs, Output};

#[derive(Default)]
pub(crate) struct World {
    /// The chip is there.
    pub(crate) present: bool,
    /// Lines another process holds.
    pub(crate) taken: BTreeSet<u32>,
    /// Whoever waits for edges is not told that it is gone.
    pub(crate) silent: bool,
    /// Times it was asked for lines.
    pub(crate) requests: u32,
    /// Edges to come.
    pub(crate) edges: VecDeque<Edge>,
    /// Levels of lines, driven or not.
    pub(crate) levels: BTreeMap<u32, bool>,
    /// The monotonic clock.
    pub(crate) now_ns: i64,
    /// Every level an output was driven to.
    pub(crate) driven: Vec<bool>,
    waker: Option<Waker>,
}

/// Copies share one world.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<World>>);

impl Script {
    pub(crate) fn new() -> Self {
        let script = Self::default();
        script.world().present = true;
        script
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world and wakes who waits for edges.
    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world();
        change(&mut world);
        if let Some(waker) = world.waker.take() {
            waker.wake();
        }
    }

    fn check(&self) -> Result<MutexGuard<'_, World>, PluginError> {
        let world = self.world();
        if world.present { Ok(world) } else { Err(PluginError::new("scripted: the chip is gone")) }
    }
}

impl Chip for Script {
    fn path(&self) -> &str {
        "/dev/gpiochip0"
    }

    fn inputs(&self, lines: &[InputLine]) -> Result<Box<dyn Inputs>, PluginError> {
        self.world().requests += 1;
        let world = self.check()?;
        if lines.iter().any(|line| world.taken.contains(&line.offset)) {
            return Err(PluginError::new("scripted: the line is busy"));
        }
        drop(world);
        Ok(Box::new(self.clone()))
    }

    fn output(&self, _offset: u32, _active_low: bool, active: bool) -> Result<Box<dyn Output>, PluginError> {
        self.world().requests += 1;
        self.check()?.driven.push(active);
        Ok(Box::new(self.clone()))
    }
}

impl Inputs for Script {
    fn poll_edges(&mut self, cx: &mut Context<'_>, edges: &mut Vec<Edge>) -> Poll<Result<(), PluginError>> {
        let mut world = match self.check() {
            Ok(world) => world,
            Err(_) if self.world().silent => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if world.edges.is_empty() {
            world.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        edges.extend(world.edges.drain(..));
        Poll::Ready(Ok(()))
    }

    fn level(&mut self, offset: u32) -> Result<bool, PluginError> {
        Ok(self.check()?.levels.get(&offset).copied().unwrap_or(false))
    }

    fn now_ns(&self) -> i64 {
        self.world().now_ns
    }
}

impl Output for Script {
    fn set(&mut self, active: bool) -> Result<(), PluginError> {
        self.check()?.driven.push(active);
        Ok(())
    }
}
