//! The most memory a configuration can make the engine take, part by part, when every bound is reached at once.
//!
//! Beside the engine, because it counts in the sizes of what the engine keeps. Texts that a bound in number can't bound are counted at
//! [`crate::series::SERIES_BYTES`], which the tables refuse to exceed on the whole.

use crate::{
    operators,
    series::SERIES_BYTES,
    spec::{EngineSpec, OnFull},
};

/// Fields counted for a window that takes every field.
pub const FIELDS_ASSUMED: usize = 8;
/// A table of so many entries, with room for the next.
const ENTRY: u64 = 64;

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Bytes at most.
    pub bytes: u64,
    /// A checkpoint holds it too.
    pub kept: bool,
}

/// Every part of the engine.
pub fn parts(spec: &EngineSpec) -> Vec<Part> {
    let limits = &spec.limits;
    let (series, groups) = (limits.series_max as u64, limits.groups_max as u64);
    let part = |name: String, bytes: u64, kept: bool| Part { name, bytes, kept };
    let waiting = limits.results_waiting_bytes_max as u64;
    let mut parts = vec![
        part(format!("series table, {series} series"), series.saturating_mul(SERIES_BYTES as u64 + 3 * ENTRY), true),
        // Twice before inputs wait, twice again while a checkpoint writes the former, and once encoded and once more with the disk.
        part("results that wait".into(), waiting.saturating_mul(6), false),
        part("points held for the clock".into(), limits.held_bytes_max as u64 * 2, true),
    ];
    if spec.storage.on_full == OnFull::Downsample {
        parts.push(part("down-sampling".into(), waiting / 2 + series.saturating_mul(ENTRY), false));
    }
    for input in &spec.inputs {
        if let Some(dedup) = &input.dedup {
            parts.push(part(format!("input {}: what it has had before", input.name), dedup.memory_bytes_max() as u64, true));
        }
    }
    for window in &spec.windows {
        let literal = !window.fields.is_empty() && window.fields.iter().all(|f| !f.contains(['*', '?', '[', '{']));
        let fields = if literal { window.fields.len() } else { FIELDS_ASSUMED };
        let pane = operators::pane_bytes(&window.aggregates, fields) as u64;
        let panes = limits.panes_per_group_max as u64;
        // A group of each living one and one that has ended.
        let group = operators::WINDOW_GROUP as u64 + 2 * (SERIES_BYTES as u64 + 3 * ENTRY);
        let bytes = groups.saturating_mul(group).saturating_add(series * 8);
        parts.push(part(format!("window \"{}\", {groups} groups", window.name), bytes, true));
        // A pane may become fuller by one point after the bound is looked at.
        let most = (limits.panes_bytes_max as u64).saturating_add(pane);
        let panes_all = groups.saturating_mul(panes).saturating_mul(pane);
        let what = format!("window \"{}\", {panes} panes a group × {fields} fields, or panes_bytes_max", window.name);
        parts.push(part(what, panes_all.min(most), true));
    }
    for alert in &spec.alerts {
        let group = operators::ALERT_GROUP as u64 + 2 * (SERIES_BYTES as u64 + ENTRY);
        let what = format!("alert \"{}\", {groups} groups", alert.name);
        parts.push(part(what, groups.saturating_mul(group).saturating_add(series * 4), true));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Aggregate, WindowSpec};

    #[test]
    fn a_bound_that_is_halved_halves_what_hangs_on_it() {
        let window = |aggregates: Vec<Aggregate>| WindowSpec {
            name: "w".into(),
            every: 1,
            period: 1,
            align: 0,
            by: None,
            fields: vec!["a".into(), "b".into()],
            filter: weir_plugin_api::filter::Filter::default(),
            aggregates,
            lateness: 0,
            allowed_lateness: 0,
            reemit_every: 0,
            drop_original: false,
            name_override: None,
            result_fields: false,
            time_is_end: false,
        };
        let bytes = |spec: &EngineSpec| parts(spec).iter().filter(|p| p.name.starts_with("window")).map(|p| p.bytes).sum::<u64>();
        let mut spec = EngineSpec { windows: vec![window(vec![Aggregate::Mean])], ..EngineSpec::default() };
        (spec.limits.series_max, spec.limits.panes_bytes_max) = (0, usize::MAX);
        let all = bytes(&spec);
        spec.limits.groups_max /= 2;
        assert_eq!(bytes(&spec) * 2, all);
        let means = bytes(&spec);
        spec.windows = vec![window(vec![Aggregate::Mean, Aggregate::Percentile(950)])];
        assert!(bytes(&spec) > means * 10, "a sketch is larger than a mean");
        spec.limits.panes_bytes_max = 1 << 20;
        assert!(bytes(&spec) < means, "and all of them are bounded");
    }
}
