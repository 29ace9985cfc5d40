//! Alerts and points that no window takes, once more and as plainly as they can be: what the records say, point by point, compared with
//! what the operators made of them.

use std::{collections::BTreeMap, sync::Arc};

use weir_engine::{
    record::{BatchRecord, Record},
    series::SeriesTable,
    spec::{AlertSpec, EngineSpec},
};
use weir_plugin_api::{Cell, Lane};

use super::oracle::{Committed, Place};

/// One series under the alert.
#[derive(Clone, Debug, Default)]
struct Watched {
    firing: bool,
    /// The condition that is asked for holds since then.
    since: Option<i64>,
    last: Option<i64>,
    n: u64,
}

/// `when` and `clear` as the simulated configuration has them.
fn holds(condition: &str, a: f64) -> bool {
    let bound = condition.rsplit(' ').next().and_then(|b| b.parse().ok()).expect("a bound");
    if condition.contains('>') { a > bound } else { a < bound }
}

impl Watched {
    /// A point: the transition it makes, if any.
    fn point(&mut self, alert: &AlertSpec, time: i64, a: f64) -> Option<&'static str> {
        if self.last.is_some_and(|last| time < last) {
            return None;
        }
        self.last = Some(time);
        let clear = alert.clear.as_ref().expect("the simulated alert has one");
        let (condition, hold) = if self.firing { (clear, alert.keep) } else { (&alert.when, alert.for_) };
        if !holds(&condition.to_string(), a) {
            self.since = None;
            return None;
        }
        if time - *self.since.get_or_insert(time) < hold {
            return None;
        }
        (self.firing, self.since, self.n) = (!self.firing, None, self.n + 1);
        Some(if self.firing { "firing" } else { "resolved" })
    }
}

/// Points of a batch: series and the range of its cells.
fn points<'a>(batch: &'a BatchRecord<'_>, table: &SeriesTable) -> Vec<(Arc<weir_plugin_api::Series>, &'a [Cell])> {
    let starts: Vec<usize> = (0..batch.cells.len()).filter(|i| batch.cells[*i].starts_point()).collect();
    let ends = starts.iter().skip(1).copied().chain([batch.cells.len()]);
    starts.iter().zip(ends).map(|(start, end)| (Arc::clone(table.series(batch.cells[*start].series)), &batch.cells[*start..end])).collect()
}

/// The first place at which two lists are not the same.
fn same(what: &str, got: &[String], wanted: &[String]) -> Result<(), String> {
    let at = got.iter().zip(wanted).position(|(g, w)| g != w).unwrap_or(got.len().min(wanted.len()));
    if at == got.len().max(wanted.len()) {
        return Ok(());
    }
    let one = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "nothing".into());
    Err(format!("{what} {at} of {}: {} is not {}", wanted.len(), one(got), one(wanted)))
}

impl Committed {
    /// The transitions of the alert are those of the naive one, and every point that no window takes has left as it came. How many
    /// transitions there were.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_alerts_and_passed(&self, first: &Arc<EngineSpec>, results: &BTreeMap<Place, (String, u64)>) -> Result<u64, String> {
        let mut alert = self.beginning(first).0.alerts[0].clone();
        let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
        let (mut transitions, mut passed) = (Vec::new(), Vec::new());
        self.each(first, |_, _, record, table| match record {
            Record::Config { spec } => {
                let edited = EngineSpec::from_bytes(spec).expect("results() has read it").alerts.swap_remove(0);
                if edited.when.to_string() != alert.when.to_string() {
                    // It means something else: it starts anew, and its numbers go on.
                    watched.values_mut().for_each(|w| *w = Watched { n: w.n, ..Watched::default() });
                }
                alert = edited;
            }
            Record::Batch(batch) => {
                for (series, cells) in points(batch, table) {
                    let Some(start) = cells.first().filter(|_| series.measurement() != "m0") else { continue };
                    let value = |cell: &Cell| format!("{}={:?}", table.fields()[usize::from(cell.field)], cell.value(batch.text));
                    let fields: Vec<String> = cells.iter().map(value).collect();
                    passed.push(format!("{:?} {} {} {}", Lane::Results, series.line(), fields.join(","), start.time));
                    if series.measurement() != "m1" {
                        continue;
                    }
                    let a = start.as_f64().expect("a number");
                    let host = series.tags().next().map_or("", |(_, host)| host);
                    let known = watched.entry(host.to_owned()).or_default();
                    if let Some(state) = known.point(&alert, start.time, a) {
                        let n = known.n;
                        transitions.push(format!("{host} state=Text({state:?}),value=Float({a:?}),n=Int({n}) {}", start.time));
                    }
                }
            }
            _ => {}
        })?;
        let of = |prefix: &str| -> Vec<String> { results.values().map(|r| &r.0).filter(|r| r.starts_with(prefix)).cloned().collect() };
        let got: Vec<String> = of("Alerts weir_alert,alert=hot,").iter().map(|text| transition(text)).collect();
        same("transition", &got, &transitions)?;
        let passed_by = |measurement: &str| -> Vec<String> {
            passed.iter().filter(|p| p.starts_with(&format!("Results {measurement},"))).cloned().collect()
        };
        for measurement in ["m1", "m2"] {
            same(measurement, &of(&format!("Results {measurement},")), &passed_by(measurement))?;
        }
        Ok(transitions.len() as u64)
    }
}

/// What the naive alert says of a transition: all but whether it was historical.
fn transition(text: &str) -> String {
    let host = text.split("host=").nth(1).and_then(|rest| rest.split([',', ' ']).next()).unwrap_or_default();
    let fields = text.split(' ').nth(2).and_then(|fields| fields.split(",historical=").next()).unwrap_or_default();
    let time = text.rsplit(' ').next().unwrap_or_default();
    format!("{host} {fields} {time}")
}

/// No number of a transition stands for two transitions, and they grow in the order of what arrived.
///
/// # Errors
/// The first pair that does not.
pub fn check_transitions<'a>(arrived: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut last: BTreeMap<String, (u64, &str)> = BTreeMap::new();
    for text in arrived.filter(|text| text.starts_with("Alerts weir_alert,alert=hot,")) {
        let host = text.split("host=").nth(1).and_then(|rest| rest.split([',', ' ']).next()).unwrap_or_default();
        let n =
            text.split("n=Int(").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok()).ok_or_else(|| format!("{text} has no n"))?;
        if let Some((before, other)) = last.insert(host.to_owned(), (n, text)).filter(|(before, _)| *before >= n) {
            return Err(format!("{text} comes behind {other}: {n} is not above {before}"));
        }
    }
    Ok(())
}
