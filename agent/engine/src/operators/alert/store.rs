//! What a snapshot keeps of an alert.

use super::{
    Alerts,
    state::{Axis, Memory, State},
};
use crate::operators::snapshot::{Reader, SnapshotError, Writer, meaning};
use crate::spec::{AlertSpec, EngineSpec};

/// Hash of what gives an alert its meaning: severity, durations and actions may change freely.
pub(in crate::operators) fn alert_meaning(alert: &AlertSpec, spec: &EngineSpec) -> u64 {
    let window = alert.window.and_then(|w| spec.windows.get(w)).map(|w| &w.name);
    let clear = alert.clear.as_ref().map(ToString::to_string);
    meaning(&format!("{:?}", (alert.when.to_string(), clear, &alert.by, window, &alert.filter)))
}

impl Alerts {
    /// Name and meaning of each.
    pub fn known(&self) -> Vec<(String, u64)> {
        self.spec.alerts.iter().map(|a| (a.name.clone(), alert_meaning(a, &self.spec))).collect()
    }

    pub fn write(&self, w: &mut Writer<'_>) {
        w.u32(self.alerts.len());
        for (alert, (name, meaning)) in self.alerts.iter().zip(self.known()) {
            w.part(&name, meaning, |w| {
                alert.counts.fields().iter().for_each(|(_, v)| w.u64(*v));
                w.u32(alert.groups.len());
                for group in &alert.groups {
                    w.series(&group.key);
                    write_memory(&group.memory, w);
                }
            });
        }
    }

    pub fn read(&mut self, at: usize, r: &mut Reader<'_>) -> Result<(), SnapshotError> {
        self.alerts[at].counts = r.counts()?;
        for _ in 0..r.count()? {
            let key = r.series()?;
            let memory = read_memory(r)?;
            let spec = std::sync::Arc::clone(&self.spec);
            self.alerts[at].add_group(key, &spec, memory);
            if memory.level {
                self.sums.move_levels(&spec.alerts[at].level_actions, true);
            }
        }
        Ok(())
    }
}

fn write_memory(memory: &Memory, w: &mut Writer<'_>) {
    let (state, since) = match memory.state {
        State::Ok => (0, None),
        State::Pending { since } => (1, Some(since)),
        State::Firing { clear_since } => (2, clear_since),
    };
    w.u8(state);
    w.option(since);
    w.option(memory.last);
    w.u8(memory.axis as u8);
    w.u64(memory.n);
    w.u8(u8::from(memory.level));
}

fn read_memory(r: &mut Reader<'_>) -> Result<Memory, SnapshotError> {
    let (state, since) = (r.u8()?, r.option()?);
    let state = match (state, since) {
        (0, None) => State::Ok,
        (1, Some(since)) => State::Pending { since },
        (2, clear_since) => State::Firing { clear_since },
        _ => return r.damaged(),
    };
    let last = r.option()?;
    let Some(axis) = Axis::from_u8(r.u8()?) else { return r.damaged() };
    Ok(Memory { state, last, axis, n: r.u64()?, level: r.u8()? != 0 })
}
