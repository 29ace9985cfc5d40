//! The status report: the ledger with names, as JSON for programs and as a table for people.

use std::{collections::BTreeMap, fmt::Write, sync::PoisonError, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};
use weir_engine::core::Ledger;

use super::Shown;

/// A row: a name and its numbers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Row {
    /// Whose numbers.
    pub name: String,
    /// The numbers, by their names in the ledger.
    #[serde(flatten)]
    pub numbers: BTreeMap<String, u64>,
}

/// The report.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Where the state lives.
    pub directory: String,
    /// Inputs.
    pub inputs: Vec<Row>,
    /// The engine as a whole.
    pub engine: BTreeMap<String, u64>,
    /// Windows and alerts.
    pub operators: Vec<Row>,
    /// Outputs and edge actions.
    pub outputs: Vec<Row>,
    /// Journal, checkpoints, outbox.
    pub store: BTreeMap<String, u64>,
    /// What damage cost.
    pub damage: BTreeMap<String, u64>,
    /// Why storage failed, if it did.
    pub storage_failed: Option<String>,
    /// Lines of the ledger that do not balance: a bug.
    pub residues: Vec<String>,
}

fn numbers(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
    list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

impl Report {
    /// The ledger alone.
    pub fn of_ledger(ledger: &Ledger) -> Self {
        let inputs = ledger.inputs.iter().map(|input| {
            let mut all = numbers(&input.counts.fields());
            all.insert("recorded".into(), input.recorded);
            Row { name: input.name.clone(), numbers: all }
        });
        let operators = ledger.operators.iter().map(|operator| {
            let c = &operator.counts;
            let all = numbers(&[
                ("in", c.r#in),
                ("applied", c.applied),
                ("late", c.late),
                ("late_clock_step", c.late_clock_step),
                ("future", c.future),
                ("overflow_groups", c.overflow_groups),
                ("overflow_panes", c.overflow_panes),
                ("conflict_type", c.conflict_type),
                ("undefined", c.undefined),
                ("first", c.first),
                ("revision", c.revision),
                ("early", c.early),
                ("transitions", c.transitions),
                ("forgotten", c.forgotten),
            ]);
            Row { name: operator.name.clone(), numbers: all }
        });
        let outputs = ledger.outputs.iter().map(|o| {
            let all = numbers(&[
                ("routed", o.routed),
                ("delivered", o.delivered),
                ("collapsed", o.collapsed),
                ("rejected", o.rejected),
                ("expired_age", o.expired_age),
                ("expired_bytes", o.expired_bytes),
                ("expired_disk", o.expired_disk),
                ("expired_stale", o.expired_stale),
                ("waiting_memory", o.waiting_memory),
                ("waiting_disk", o.waiting_disk),
                ("in_flight", o.in_flight),
                ("lag_ms", u64::try_from(o.lag / 1_000_000).unwrap_or(0)),
            ]);
            Row { name: o.name.clone(), numbers: all }
        });
        let (engine, damage) = (&ledger.engine, &ledger.damage);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            inputs: inputs.collect(),
            engine: numbers(&[
                ("records", ledger.records),
                ("dispatched", engine.dispatched),
                ("held", engine.held),
                ("passed", engine.passed),
                ("taken", engine.taken),
                ("rejected_future", engine.rejected_future),
                ("late_stream", engine.late_stream),
                ("rejected_type", engine.rejected_type),
                ("fields_coerced", ledger.types.coerced),
                ("fields_rejected_type", ledger.types.rejected),
                ("fields_untyped", ledger.types.untyped),
            ]),
            operators: operators.collect(),
            outputs: outputs.collect(),
            store: numbers(&[
                ("journal_since_checkpoint_bytes", ledger.journal_bytes),
                ("outbox_bytes", ledger.outbox_bytes),
                ("commits", ledger.commits),
                ("checkpoints", ledger.checkpoints),
                ("bound_by_budget", u64::from(ledger.bound_by_budget)),
                ("held_back", u64::from(ledger.held_back)),
                ("over_budget", ledger.over_budget),
            ]),
            damage: numbers(&[
                ("journal_blocks", damage.journal_blocks),
                ("records", damage.records),
                ("points", damage.points),
                ("outbox_blocks", damage.outbox_blocks),
            ]),
            storage_failed: ledger.storage_failed.clone(),
            residues: ledger.residues(),
            ..Self::default()
        }
    }

    /// The ledger with what tasks and the store add.
    pub fn new(ledger: &Ledger, shown: &Shown) -> Self {
        let mut report = Self::of_ledger(ledger);
        report.directory = shown.directory.display().to_string();
        for (row, health) in report.outputs.iter_mut().zip(&shown.health) {
            row.numbers.insert("retries".into(), health.retries.load(Ordering::Relaxed));
            row.numbers.insert("dead_letters".into(), health.dead_letters.load(Ordering::Relaxed));
            row.numbers.insert("dead_letters_dropped".into(), health.dead_letters_dropped.load(Ordering::Relaxed));
            row.numbers.insert("failing".into(), u64::from(health.failing.load(Ordering::Relaxed)));
            row.numbers.insert("failing_until_someone_acts".into(), u64::from(health.held.load(Ordering::Relaxed)));
        }
        let stats = *shown.store.lock().unwrap_or_else(PoisonError::into_inner);
        report.store.extend(numbers(&[
            ("bytes_written", stats.bytes_written),
            ("fsyncs", stats.fsyncs),
            ("journal_used_bytes", stats.journal_used),
            ("journal_capacity_bytes", stats.journal_capacity),
        ]));
        report
    }

    /// As text: each line with the numbers that are not zero.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (title, rows) in [("input", &self.inputs), ("operator", &self.operators), ("output", &self.outputs)] {
            for row in rows {
                let _ = writeln!(out, "{title:<9}{:<22}{}", row.name, shown(&row.numbers));
            }
        }
        let _ = writeln!(out, "{:<31}{}", "engine", shown(&self.engine));
        let _ = writeln!(out, "{:<31}{}", "store", shown(&self.store));
        if self.damage.values().any(|v| *v > 0) {
            let _ = writeln!(out, "{:<31}{}", "damage", shown(&self.damage));
        }
        if self.store.get("bound_by_budget").is_some_and(|v| *v > 0) {
            out.push_str("bound by the write budget: readings wait for `fsyncs_per_minute_max`\n");
        }
        if self.store.get("held_back").is_some_and(|v| *v > 0) {
            out.push_str("held back: inputs that can wait do, because an output can't keep up\n");
        }
        if let Some(reason) = &self.storage_failed {
            let _ = writeln!(out, "storage failed: {reason}");
        }
        match self.residues.as_slice() {
            [] => out.push_str("ledger balances\n"),
            residues => residues.iter().for_each(|r| {
                let _ = writeln!(out, "does not balance: {r}");
            }),
        }
        out
    }
}

fn shown(numbers: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = numbers.iter().filter(|(_, v)| **v > 0).map(|(k, v)| format!("{k} {v}")).collect();
    if parts.is_empty() { "-".into() } else { parts.join("  ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_budget_that_binds_is_said_and_counted() {
        let report = Report::of_ledger(&Ledger { bound_by_budget: true, over_budget: 3, ..Ledger::default() });
        assert!(report.table().contains("bound by the write budget"), "{}", report.table());
        assert!(report.table().contains("over_budget 3"), "{}", report.table());
        let metrics = super::super::metrics::render(&report);
        assert!(metrics.contains("# TYPE weir_store_bound_by_budget gauge\nweir_store_bound_by_budget 1\n"), "{metrics}");
        assert!(metrics.contains("# TYPE weir_store_over_budget_total counter\nweir_store_over_budget_total 3\n"), "{metrics}");
        assert!(!Report::of_ledger(&Ledger::default()).table().contains("budget"));
    }

    #[test]
    fn inputs_that_are_held_back_are_said_and_shown() {
        let report = Report::of_ledger(&Ledger { held_back: true, ..Ledger::default() });
        assert!(report.table().contains("inputs that can wait do"), "{}", report.table());
        let metrics = super::super::metrics::render(&report);
        assert!(metrics.contains("# TYPE weir_store_held_back gauge\nweir_store_held_back 1\n"), "{metrics}");
        assert!(!Report::of_ledger(&Ledger::default()).table().contains("held back"));
    }
}
