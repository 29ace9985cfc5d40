//! What the demo shows: an output that remembers the newest of everything, and two ways to print it, a table that is drawn anew each
//! second on a terminal, plain lines elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use weir_engine::core::Ledger;
use weir_plugin_api::{
    Lane, PointView, Points, Value,
    plugin::{BoxFuture, Notification, Outcome, Output},
};

/// Window results kept for the sparkline.
const HISTORY: usize = 24;
/// Alert transitions kept.
const TRANSITIONS: usize = 6;
/// Sparkline steps.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One device's field.
#[derive(Clone, Debug, Default)]
struct Row {
    readings: u64,
    last: f64,
    windows: u64,
    window: BTreeMap<String, f64>,
    means: VecDeque<f64>,
    firing: bool,
}

/// What is known now.
#[derive(Debug, Default)]
pub struct Screen {
    rows: BTreeMap<(String, String), Row>,
    transitions: VecDeque<Notification>,
    /// Lines for a reader that is no terminal.
    lines: Vec<String>,
}

/// The shared screen.
#[derive(Clone, Debug, Default)]
pub struct SharedScreen(Arc<Mutex<Screen>>);

impl SharedScreen {
    fn with<T>(&self, f: impl FnOnce(&mut Screen) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lines since the last call.
    pub fn take_lines(&self) -> Vec<String> {
        self.with(|screen| std::mem::take(&mut screen.lines))
    }

    /// The table as text with ANSI colours.
    pub fn draw(&self, ledger: &Ledger, directory: &str, seconds: u64) -> String {
        self.with(|screen| screen.draw(ledger, directory, seconds))
    }
}

impl Output for SharedScreen {
    fn write<'a>(&'a mut self, lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        self.with(|screen| {
            for point in points.iter() {
                match lane {
                    Lane::Alerts => screen.transition(point),
                    Lane::Results => screen.point(point),
                }
            }
        });
        Box::pin(async { Outcome::delivered() })
    }
}

impl Screen {
    fn transition(&mut self, point: PointView<'_>) {
        let notification = Notification::from_point(point);
        let device = tag(&notification, "device").to_owned();
        for ((name, _), row) in &mut self.rows {
            if *name == device {
                row.firing = notification.state == "firing";
            }
        }
        let value = notification.value.map_or_else(String::new, |v| format!(" at {v:.1}"));
        self.lines.push(format!("alert  {:<12} {:<9} {}{value}", device, notification.state, notification.alert));
        if self.transitions.len() == TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back(notification);
    }

    /// A window result has fields `<field>_<aggregate>`, a reading has plain ones.
    fn point(&mut self, point: PointView<'_>) {
        let device = point.series().tag("device").unwrap_or("-").to_owned();
        let is_result = point.field("count").is_none() && point.fields().any(|(name, _)| name.ends_with("_count"));
        if !is_result {
            for (field, value) in point.fields() {
                let Some(value) = value.as_f64() else { continue };
                let row = self.rows.entry((device.clone(), field.to_owned())).or_default();
                row.readings += 1;
                row.last = value;
            }
            return;
        }
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in point.fields() {
            let Some((field, aggregate)) = name.rsplit_once('_') else { continue };
            let Some(number) = value.as_f64() else { continue };
            let row = self.rows.entry((device.clone(), field.to_owned())).or_default();
            row.window.insert(aggregate.to_owned(), number);
            if aggregate == "mean" {
                row.windows += 1;
                if row.means.len() == HISTORY {
                    row.means.pop_front();
                }
                row.means.push_back(number);
            }
            let line = lines.entry(field.to_owned()).or_default();
            match value {
                Value::Float(_) => write!(line, " {aggregate}={number:.2}"),
                _ => write!(line, " {aggregate}={number}"),
            }
            .unwrap_or_default();
        }
        for (field, line) in lines {
            self.lines.push(format!("window {device:<12} {field}{line}"));
        }
    }

    fn draw(&self, ledger: &Ledger, directory: &str, seconds: u64) -> String {
        let mut out = String::from("\x1b[H\x1b[2J");
        let _ = writeln!(out, "\x1b[1mweir demo\x1b[0m  {seconds} s  results in {directory}  (Ctrl-C ends it)\n");
        let _ = writeln!(
            out,
            "\x1b[2m{:<12} {:<12} {:>9} {:>9} {:>9} {:>9} {:>7}  {:<24}  state\x1b[0m",
            "device", "field", "readings", "last", "mean", "max", "count", "mean of the last windows"
        );
        for ((device, field), row) in &self.rows {
            let cell = |name: &str| row.window.get(name).map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
            let count = row.window.get("count").map_or_else(|| "-".to_owned(), |v| format!("{v}"));
            let state = if row.firing { "\x1b[1;31mFIRING\x1b[0m" } else { "\x1b[32mok\x1b[0m" };
            let _ = writeln!(
                out,
                "{device:<12} {field:<12} {:>9} {:>9.2} {:>9} {:>9} {count:>7}  {:<24}  {state}",
                row.readings,
                row.last,
                cell("mean"),
                cell("max"),
                sparkline(&row.means)
            );
        }
        out.push_str("\nalerts\n");
        for n in self.transitions.iter().rev() {
            let value = n.value.map_or_else(String::new, |v| format!(" at {v:.1}"));
            let _ = writeln!(out, "  {:<9} {:<12} {} #{}{value}", n.state, tag(n, "device"), n.alert, n.n);
        }
        out.push('\n');
        out.push_str(&crate::http::report::Report::of_ledger(ledger).table());
        out
    }
}

fn tag<'n>(notification: &'n Notification, key: &str) -> &'n str {
    notification.tags.iter().find(|(k, _)| k == key).map_or("-", |(_, v)| v)
}

fn sparkline(values: &VecDeque<f64>) -> String {
    let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), v| (min.min(*v), max.max(*v)));
    let span = if max > min { max - min } else { 1.0 };
    values.iter().map(|v| BARS[(((v - min) / span) * 7.0).round() as usize % 8]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_the_least_to_the_greatest() {
        assert_eq!(sparkline(&VecDeque::from([0.0, 3.5, 7.0])), "▁▅█");
        assert_eq!(sparkline(&VecDeque::from([2.0])), "▁");
    }
}
