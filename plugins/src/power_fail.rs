//! A line that says that the power is about to go: of a UPS, a supervisor chip, a comparator at the input of the power supply.
//!
//! It is read by the same code as the lines of `inputs.gpio`, and apart from it because nothing is measured: who watches it has moments
//! left to bring what it has to safety.

use weir_plugin_api::options::{FromNode, Item, Node, Section};

weir_plugin_api::choice! {
    /// The voltage that says so.
    pub enum Active {
        /// Low: what a broken wire with a resistor down says too.
        Low = "low",
        /// High.
        High = "high",
    }
}

weir_plugin_api::options! {
    /// The line's table.
    struct Options {
        /// The chip's device file, such as `gpiochip0`.
        chip: String,
        /// Its number on the chip.
        line: u32,
        /// The voltage that says that the power goes.
        active: Active = Active::Low,
        /// What holds the line while nothing drives it: `as_is`, `pull_up`, `pull_down`, `disabled`.
        bias: String = "as_is".into(),
        /// Shorter changes are none. What waits for this is lost of the moments that are left.
        debounce: std::time::Duration = std::time::Duration::ZERO,
    }
}

/// The line as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerFail {
    path: String,
    offset: u32,
    active_low: bool,
    bias: String,
    debounce: std::time::Duration,
}

impl FromNode for PowerFail {
    const KIND: &'static str = "table";

    fn from_node(node: &Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let Item::Table(table) = &node.item else {
            return Err("a table such as { chip = \"gpiochip0\", line = 17, active = \"low\" } is needed".into());
        };
        let own = Section::new(format!("{}.{key}", section.path), table, node.place.clone(), section.diagnostics());
        let options = Options::read(&own);
        own.finish(&[]);
        let Some(options) = options else { return Err("it needs a `chip` and a `line`".into()) };
        if !["as_is", "pull_up", "pull_down", "disabled"].contains(&options.bias.as_str()) {
            return Err("`bias` is as_is, pull_up, pull_down or disabled".into());
        }
        if cfg!(not(feature = "input-gpio")) {
            return Err("this build of weir has no GPIO".into());
        }
        if options.chip.is_empty() {
            return Err("`chip` is empty".into());
        }
        let path = if options.chip.starts_with('/') { options.chip } else { format!("/dev/{}", options.chip) };
        let (offset, active_low) = (options.line, options.active == Active::Low);
        Ok(Self { path, offset, active_low, bias: options.bias, debounce: options.debounce })
    }

    fn to_toml(&self) -> String {
        let active = if self.active_low { "low" } else { "high" };
        format!("{{ chip = {}, line = {}, active = \"{active}\" }}", weir_plugin_api::options::quote(&self.path), self.offset)
    }
}

#[cfg(feature = "input-gpio")]
mod watch {
    use std::{future::poll_fn, time::Duration};

    use weir_plugin_api::plugin::{PluginError, Stop};

    use super::PowerFail;
    use crate::{
        gpio::{Bias, Chip, Device, Edges, InputLine},
        inputs::retry::Retry,
    };

    /// How often a chip that says nothing is asked whether it is still there.
    const LOOK: Duration = Duration::from_secs(10);

    impl PowerFail {
        /// What nobody else may have.
        pub fn claim(&self) -> String {
            format!("gpio:{}:{}", crate::claim::canonical(&self.path).display(), self.offset)
        }

        /// Calls `failing` whenever the line becomes active, and at once when it is, until `stop` is requested. A chip that is not there is
        /// looked for.
        pub async fn watch(self, stop: Stop, failing: impl FnMut() + Send) {
            let chip = Device::new(self.path.clone());
            self.watch_on(&chip, stop, failing).await;
        }

        pub(super) async fn watch_on(&self, chip: &dyn Chip, stop: Stop, mut failing: impl FnMut() + Send) {
            let mut retry = Retry::default();
            loop {
                let error = tokio::select! {
                    biased;
                    () = stop.requested() => return,
                    Err(error) = self.read(chip, &mut retry, &mut failing) => error,
                };
                if retry.tell() {
                    tracing::error!(chip = %self.path, line = self.offset, reason = %error, "the power-fail line can't be watched, looking for it");
                }
                tokio::select! {
                    biased;
                    () = stop.requested() => return,
                    () = tokio::time::sleep(retry.next_wait()) => {}
                }
            }
        }

        async fn read(
            &self,
            chip: &dyn Chip,
            retry: &mut Retry,
            failing: &mut (impl FnMut() + Send),
        ) -> Result<std::convert::Infallible, PluginError> {
            let mut lines = chip.inputs(&[self.line()])?;
            tracing::info!(chip = %self.path, line = self.offset, "power-fail line watched");
            // Requested first: what happens between the two is an edge.
            if lines.level(self.offset)? {
                failing();
            }
            retry.recovered();
            let mut edges = Vec::new();
            loop {
                let came = tokio::time::timeout(LOOK, poll_fn(|cx| lines.poll_edges(cx, &mut edges))).await;
                match came {
                    Ok(came) => came?,
                    // Kernels before 6.6 don't wake who waits for the edges of a chip that is gone.
                    Err(_) => {
                        lines.level(self.offset)?;
                    }
                }
                // Several at once ask for the same.
                if edges.drain(..).any(|edge| edge.rising) {
                    failing();
                }
            }
        }

        fn line(&self) -> InputLine {
            let bias = match self.bias.as_str() {
                "pull_up" => Bias::PullUp,
                "pull_down" => Bias::PullDown,
                "disabled" => Bias::Disabled,
                _ => Bias::AsIs,
            };
            let debounce: Duration = self.debounce;
            InputLine { offset: self.offset, active_low: self.active_low, bias, debounce, edges: Some(Edges::Rising) }
        }
    }
}

#[cfg(not(feature = "input-gpio"))]
impl PowerFail {
    /// What nobody else may have.
    pub fn claim(&self) -> String {
        self.path.clone()
    }

    /// Never: there is no such line in this build.
    pub async fn watch(self, stop: weir_plugin_api::plugin::Stop, _failing: impl FnMut() + Send) {
        stop.requested().await;
    }
}

#[cfg(all(test, feature = "input-gpio"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::{Duration, Instant},
    };

    use weir_plugin_api::{
        options::{Diagnostics, Place, Table},
        plugin::Stop,
    };

    use super::*;
    use crate::gpio::{Edge, scripted::Script};

    fn line() -> PowerFail {
        PowerFail { path: "/dev/gpiochip0".into(), offset: 17, active_low: true, bias: "as_is".into(), debounce: Duration::ZERO }
    }

    fn edge(rising: bool, sequence: u32) -> Edge {
        Edge { offset: 17, rising, at_ns: 0, sequence }
    }

    async fn until(mut is: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < Duration::from_secs(60), "waited too long");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_line_that_becomes_active_or_is_asks_and_one_that_is_lost_is_looked_for() {
        let (script, asked, stop) = (Script::default(), Arc::new(AtomicU32::new(0)), Stop::default());
        let (chip, count, end) = (script.clone(), Arc::clone(&asked), stop.clone());
        let task = tokio::spawn(async move {
            let failing = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            line().watch_on(&chip, end, failing).await;
        });
        until(|| script.world().requests >= 2).await;
        script.change(|world| world.present = true);
        let before = script.world().requests;
        until(|| script.world().requests > before).await;
        assert_eq!(asked.load(Ordering::Relaxed), 0, "the power is there");
        script.change(|world| world.edges.extend([edge(true, 1), edge(false, 2), edge(true, 3)]));
        until(|| asked.load(Ordering::Relaxed) == 1).await;
        script.change(|world| world.edges.push_back(edge(false, 4)));
        until(|| script.world().edges.is_empty()).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1, "it comes back");
        // The chip goes and comes back, and the line is active then.
        script.change(|world| world.present = false);
        let before = script.world().requests;
        until(|| script.world().requests > before).await;
        script.change(|world| {
            world.present = true;
            world.levels.insert(17, true);
        });
        until(|| asked.load(Ordering::Relaxed) == 2).await;
        stop.request();
        task.await.unwrap();
    }

    #[test]
    fn a_table_is_read_and_what_is_wrong_in_it_is_said() {
        let read = |entries: &[(&str, Item)]| {
            let node = |item: Item| Node { place: Place::default(), item, secret: false };
            let entries = entries.iter().map(|(k, v)| ((*k).to_owned(), Place::default(), node(v.clone()))).collect();
            let table = node(Item::Table(Table { entries }));
            let diagnostics = Diagnostics::default();
            let outer = Table { entries: Vec::new() };
            let section = Section::new("storage", &outer, Place::default(), &diagnostics);
            let read = PowerFail::from_node(&table, &section, "power_fail");
            (read, diagnostics.take().into_iter().map(|d| d.message).collect::<Vec<_>>())
        };
        let text = |text: &str| Item::Text(text.into());
        let (whole, told) = read(&[("chip", text("gpiochip0")), ("line", Item::Int(17)), ("active", text("high"))]);
        assert_eq!((whole, told), (Ok(PowerFail { active_low: false, ..line() }), vec![]));
        let (none, told) = read(&[("chip", text("gpiochip0"))]);
        assert!(none.is_err() && told.iter().any(|t| t.contains("line")), "{none:?} {told:?}");
        let (none, _) = read(&[("chip", text("gpiochip0")), ("line", Item::Int(17)), ("bias", text("up"))]);
        assert!(none.is_err_and(|e| e.contains("pull_up")));
        let (_, told) = read(&[("chip", text("gpiochip0")), ("line", Item::Int(17)), ("activ", text("low"))]);
        assert!(told.iter().any(|t| t.contains("activ")), "{told:?}");
    }
}
