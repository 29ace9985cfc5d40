//! The status report: the ledger with names, as JSON for programs and as a table for people.

use std::{collections::BTreeMap, fmt::Write, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};
use weir_engine::core::Ledger;
use weir_plugin_api::units::format_size;
use weir_store::StoreStats;

use super::Shown;
use crate::run::writes::Rates;

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
    /// What the agent goes by at far sides, hexadecimal.
    #[serde(default)]
    pub agent: String,
    /// What it went by on another machine, and the last record it numbered there.
    #[serde(default)]
    pub earlier: Option<(String, u64)>,
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
    /// What is written to the disk: in the last minute and day, since the start by what for, and ever. A life only where an endurance is
    /// configured and a minute was measured.
    #[serde(default)]
    pub writes: BTreeMap<String, u64>,
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
            all.insert("dedup_entries".into(), input.dedup_entries);
            all.insert("dedup_forgotten".into(), input.dedup_forgotten);
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
                ("expired_downsampled", o.expired_downsampled),
                ("lost_outbox", o.lost_outbox),
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
                ("outbox_read_retries", ledger.outbox_read_retries),
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
        report.agent = format!("{:016x}", shown.bound.id.now);
        report.earlier = shown.bound.id.earlier.map(|(id, record)| (format!("{id:016x}"), record));
        for (row, health) in report.inputs.iter_mut().zip(&shown.input_health) {
            row.numbers.insert("failures".into(), health.failures());
            row.numbers.insert("failing".into(), u64::from(health.is_failing()));
            row.numbers.insert("contested".into(), health.contests());
        }
        for (row, health) in report.outputs.iter_mut().zip(&shown.health) {
            row.numbers.insert("retries".into(), health.retries.load(Ordering::Relaxed));
            row.numbers.insert("dead_letters".into(), health.dead_letters.load(Ordering::Relaxed));
            row.numbers.insert("dead_letters_dropped".into(), health.dead_letters_dropped.load(Ordering::Relaxed));
            row.numbers.insert("failing".into(), u64::from(health.failing.load(Ordering::Relaxed)));
            row.numbers.insert("failing_until_someone_acts".into(), u64::from(health.held.load(Ordering::Relaxed)));
        }
        let (stats, rates) = shown.writes.get();
        report.store.extend(numbers(&[
            ("bytes_written", stats.written.sum().bytes),
            ("fsyncs", stats.written.sum().fsyncs),
            ("journal_used_bytes", stats.journal_used),
            ("journal_capacity_bytes", stats.journal_capacity),
        ]));
        let asked = shown.checkpoints.counts();
        report.store.extend(numbers(&[
            ("checkpoints_asked", asked.asked.load(Ordering::Relaxed)),
            ("checkpoints_asked_failed", asked.failed.load(Ordering::Relaxed)),
            ("last_asked_ms", asked.took_ms.load(Ordering::Relaxed)),
        ]));
        report.writes = writes(&stats, &rates, shown.endurance_bytes);
        report
    }

    /// A line for people about what is written, and how long the card lasts.
    fn card(&self) -> Option<String> {
        let of = |name: &str| self.writes.get(name).copied();
        let amount = |span: &str| Some(format!("{} in {} fsyncs", rough(of(&format!("{span}_bytes"))?), of(&format!("{span}_fsyncs"))?));
        let mut line = format!("{:<31}minute {}  day {}  ever {}", "written", amount("minute")?, amount("day")?, amount("ever")?);
        if let Some(endurance) = of("endurance_bytes").filter(|bytes| *bytes > 0) {
            let used = of("ever_bytes")? as f64 / endurance as f64 * 100.0;
            let _ = write!(line, "\n{:<31}{} may be written to it, {used:.3} % used", "card", format_size(endurance));
            match (of("life_days"), of("day_seconds")?) {
                (Some(days), seconds) => {
                    let span = if seconds < 86_400 { format!("{} min", seconds / 60) } else { "day".into() };
                    let _ = write!(line, ", {:.1} years left at the rate of the last {span}", days as f64 / 365.25);
                }
                (None, _) => line.push_str(", too early to say how long it lasts"),
            }
        }
        line.push('\n');
        Some(line)
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
        out.extend(self.card());
        if self.damage.values().any(|v| *v > 0) {
            let _ = writeln!(out, "{:<31}{}", "damage", shown(&self.damage));
        }
        if self.store.get("bound_by_budget").is_some_and(|v| *v > 0) {
            out.push_str("bound by the write budget: readings wait for `fsyncs_per_minute_max`\n");
        }
        if self.store.get("held_back").is_some_and(|v| *v > 0) {
            out.push_str("held back: inputs that can wait do, because an output can't keep up\n");
        }
        if let Some((id, record)) = &self.earlier {
            let _ = writeln!(out, "agent {}: the state came from another machine, as agent {id}, at record {record}", self.agent);
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

/// The section about writing.
fn writes(stats: &StoreStats, rates: &Rates, endurance: u64) -> BTreeMap<String, u64> {
    let (written, ever) = (&stats.written, stats.ever.bytes + rates.other_bytes);
    let mut all = numbers(&[
        ("minute_bytes", rates.minute.bytes),
        ("minute_fsyncs", rates.minute.fsyncs),
        ("day_bytes", rates.day.bytes),
        ("day_fsyncs", rates.day.fsyncs),
        ("day_seconds", rates.day_seconds),
        ("ever_bytes", ever),
        ("ever_fsyncs", stats.ever.fsyncs),
        ("bytes_journal", written.journal.bytes),
        ("bytes_checkpoint", written.checkpoint.bytes),
        ("bytes_outbox", written.outbox.bytes),
        ("bytes_names", written.names.bytes),
        ("bytes_dead_letters", rates.other_bytes),
        ("fsyncs_journal", written.journal.fsyncs),
        ("fsyncs_checkpoint", written.checkpoint.fsyncs),
        ("fsyncs_outbox", written.outbox.fsyncs),
        ("fsyncs_names", written.names.fsyncs),
        ("endurance_bytes", endurance),
    ]);
    all.extend(rates.life_days(endurance, ever).map(|days| ("life_days".to_owned(), days)));
    all
}

/// Bytes as people read them.
fn rough(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = (0..units.len() - 1).find(|at| bytes >> (10 * (at + 1)) == 0).unwrap_or(units.len() - 1);
    if at == 0 { format!("{bytes} B") } else { format!("{:.1} {}", bytes as f64 / (1u64 << (10 * at)) as f64, units[at]) }
}

fn shown(numbers: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = numbers.iter().filter(|(_, v)| **v > 0).map(|(k, v)| format!("{k} {v}")).collect();
    if parts.is_empty() { "-".into() } else { parts.join("  ") }
}

#[cfg(test)]
mod tests {
    use weir_store::{Writes, Written};

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
    fn what_is_written_is_told_with_the_life_of_the_card() {
        let page = |n: u64| Writes { bytes: 4096 * n, fsyncs: n };
        let written = Written { journal: page(8640), checkpoint: page(20), ..Written::default() };
        let stats = StoreStats { written, ever: page(20_000), ..StoreStats::default() };
        let mut rates = Rates { minute: page(6), day: page(8660), day_seconds: 86_400, other_bytes: 0 };
        let report = |rates: &Rates, endurance: u64| Report { writes: writes(&stats, rates, endurance), ..Report::default() };
        let table = report(&rates, 10 << 40).table();
        assert!(table.contains("minute 24.0 KiB in 6 fsyncs  day 33.8 MiB in 8660 fsyncs  ever 78.1 MiB in 20000 fsyncs\n"), "{table}");
        assert!(table.contains("10TiB may be written to it, 0.001 % used, 848.6 years left at the rate of the last day\n"), "{table}");
        let metrics = super::super::metrics::render(&report(&rates, 10 << 40));
        assert!(metrics.contains("# TYPE weir_writes_minute_fsyncs gauge\nweir_writes_minute_fsyncs 6\n"), "{metrics}");
        assert!(
            metrics.contains("# TYPE weir_writes_bytes_journal_total counter\nweir_writes_bytes_journal_total 35389440\n"),
            "{metrics}"
        );
        assert!(metrics.contains("# TYPE weir_writes_ever_bytes_total counter"), "{metrics}");
        assert!(metrics.contains("# TYPE weir_writes_life_days gauge"), "{metrics}");
        assert!(!report(&rates, 0).table().contains("card"), "no endurance, no projection");
        rates.day_seconds = 59;
        assert!(report(&rates, 10 << 40).table().contains("too early to say"));
        rates.day_seconds = 600;
        assert!(report(&rates, 10 << 40).table().contains("5.9 years left at the rate of the last 10 min"));
    }

    #[test]
    fn a_state_that_came_from_another_machine_is_said() {
        let report = Report { agent: "0b".into(), earlier: Some(("0a".into(), 7)), ..Report::default() };
        assert!(report.table().contains("agent 0b: the state came from another machine, as agent 0a, at record 7\n"), "{}", report.table());
        assert!(!Report { agent: "0b".into(), ..Report::default() }.table().contains("machine"));
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
