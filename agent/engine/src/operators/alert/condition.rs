//! The agent's own alerts: what is wrong with the agent itself, by records, so that a transition is numbered and survives like any other.
//!
//! Apart from the others because there is no expression, no group and no duration: the core says when one begins and ends.

use std::sync::Arc;

use weir_plugin_api::{Lane, Series, SeriesParts, Value};

use super::{Alerts, Now};
use crate::{
    operators::{
        route,
        snapshot::{Reader, SnapshotError, Writer},
    },
    record::Condition,
    results::Results,
    spec::EngineSpec,
};

/// One condition of one subject that ever held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::operators) struct Known {
    condition: Condition,
    subject: Arc<str>,
    active: bool,
    /// Transitions so far.
    n: u64,
}

/// All of them, in order: at most three for each output.
#[derive(Clone, Debug, Default)]
pub(in crate::operators) struct Conditions {
    known: Vec<Known>,
}

impl Conditions {
    /// Whether it holds.
    pub fn is_active(&self, condition: Condition, subject: &str) -> bool {
        self.known.iter().any(|k| k.active && k.condition == condition && *k.subject == *subject)
    }

    /// Those that hold.
    pub fn active(&self) -> impl Iterator<Item = (Condition, &Arc<str>)> {
        self.known.iter().filter(|k| k.active).map(|k| (k.condition, &k.subject))
    }

    /// Notes what a record says; the number of the transition, `None` if there is none.
    fn note(&mut self, condition: Condition, subject: &str, active: bool) -> Option<u64> {
        let at = self.known.binary_search_by(|k| (k.condition, &*k.subject).cmp(&(condition, subject)));
        let at = match at {
            Ok(at) => at,
            Err(_) if !active => return None,
            Err(at) => {
                self.known.insert(at, Known { condition, subject: subject.into(), active: false, n: 0 });
                at
            }
        };
        let known = &mut self.known[at];
        if known.active == active {
            return None;
        }
        (known.active, known.n) = (active, known.n + 1);
        Some(known.n)
    }

    /// What is over and about an output that is gone is not kept.
    pub fn write(&self, w: &mut Writer<'_>, spec: &EngineSpec) {
        let kept = |k: &&Known| k.active || k.subject.is_empty() || spec.outputs.iter().any(|o| o.name == *k.subject);
        w.u32(self.known.iter().filter(kept).count());
        for known in self.known.iter().filter(kept) {
            w.u8(known.condition as u8);
            w.text(&known.subject);
            w.u8(u8::from(known.active));
            w.u64(known.n);
        }
    }
}

impl Alerts {
    /// A condition began or ended: emits the transition, dated by the wall clock.
    pub fn condition(
        &mut self,
        (condition, subject): (Condition, &str),
        active: bool,
        value: u64,
        time: i64,
        results: &mut Results,
        now: &Now,
    ) {
        let Some(n) = self.conditions.note(condition, subject, active) else { return };
        let spec = Arc::clone(&self.spec);
        self.sums.move_levels(&spec.agent_alerts.level_actions, active);
        self.sums.transitions += 1;
        let series = series(&spec, condition, subject);
        let route = route::alerts_route(&spec, &series) | spec.agent_alerts.edge_actions;
        if route == 0 {
            return;
        }
        let series = if now.wall.is_none() { route::provisional(&series) } else { Arc::new(series) };
        let names = &self.names;
        results.point(Lane::Alerts, &series, route);
        let mut field = |name, value| results.field(Lane::Alerts, name, time, value);
        field(&names.state, Value::Text(if active { "firing" } else { "resolved" }));
        if !subject.is_empty() {
            field(&names.value, Value::Float(value as f64));
        }
        field(&names.n, Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        field(&names.historical, Value::Bool(false));
    }

    pub fn read_conditions(&mut self, r: &mut Reader<'_>) -> Result<(), SnapshotError> {
        for _ in 0..r.count()? {
            let Some(condition) = Condition::ALL.get(usize::from(r.u8()?)).copied() else { return r.damaged() };
            let (subject, active, n) = (r.text()?.into(), r.u8()? != 0, r.u64()?);
            if active {
                let spec = Arc::clone(&self.spec);
                self.sums.move_levels(&spec.agent_alerts.level_actions, true);
            }
            self.conditions.known.push(Known { condition, subject, active, n });
        }
        if self.conditions.known.is_sorted() { Ok(()) } else { r.damaged() }
    }
}

fn series(spec: &EngineSpec, condition: Condition, subject: &str) -> Series {
    let mut parts = SeriesParts { measurement: "weir_alert".into(), tags: Vec::new() };
    parts.tag("output", subject);
    parts.tag("alert", condition.name());
    parts.tag("severity", &spec.agent_alerts.severity);
    for (k, v) in &spec.global_tags {
        parts.default_tag(k, v);
    }
    Series::new(&parts)
}
