//! The ledger: what came in, what became of it, what waits where. Every line balances at every record.

use weir_plugin_api::InputCounts;

use crate::{
    operators::{EngineCounts, OperatorCounts, TypeCounts},
    record::DeliveryCounts,
};

/// One input's line.
#[derive(Clone, Debug, Default)]
pub struct InputLine {
    /// Name.
    pub name: String,
    /// What was counted before the journal.
    pub counts: InputCounts,
    /// Points in records.
    pub recorded: u64,
    /// Points that `dedup` remembers now.
    pub dedup_entries: u64,
    /// Points it forgot before their time, because it may remember no more.
    pub dedup_forgotten: u64,
}

/// One operator's line.
#[derive(Clone, Debug, Default)]
pub struct OperatorLine {
    /// Name.
    pub name: String,
    /// Counts.
    pub counts: OperatorCounts,
}

/// One output's or edge action's line.
#[derive(Clone, Debug, Default)]
pub struct OutputLine {
    /// Name.
    pub name: String,
    /// Points meant for it.
    pub routed: u64,
    /// Arrived.
    pub delivered: u64,
    /// Of these, overwrote another.
    pub collapsed: u64,
    /// Refused for good by the far side.
    pub rejected: u64,
    /// Given up by age.
    pub expired_age: u64,
    /// Given up because the outbox or its count was full.
    pub expired_bytes: u64,
    /// Given up because the disk was full.
    pub expired_disk: u64,
    /// Edge actions past their time.
    pub expired_stale: u64,
    /// Left out to make room for the rest: of each series every second one goes.
    pub expired_downsampled: u64,
    /// Lost with a block of the outbox that is damaged or missing though nobody had given it up.
    pub lost_outbox: u64,
    /// Waiting in memory.
    pub waiting_memory: u64,
    /// Waiting in the outbox.
    pub waiting_disk: u64,
    /// With the output's task.
    pub in_flight: u64,
    /// Age of the oldest waiting result, nanoseconds on the observed axis.
    pub lag: i64,
}

impl OutputLine {
    /// Counts what happened to points.
    pub(super) fn settle(&mut self, counts: &DeliveryCounts) {
        self.delivered += counts.delivered;
        self.collapsed += counts.collapsed;
        self.rejected += counts.rejected;
        self.expired_age += counts.expired_age;
        self.expired_bytes += counts.expired_bytes;
        self.expired_disk += counts.expired_disk;
        self.expired_stale += counts.expired_stale;
        self.lost_outbox += counts.lost_outbox;
    }

    /// Points that were given up on purpose: a bound, a full disk or an edge action's time asked for it.
    pub fn given_up(&self) -> u64 {
        self.expired_age + self.expired_bytes + self.expired_disk + self.expired_stale + self.expired_downsampled
    }

    /// Points that arrived, were given up, or are lost.
    pub(super) fn settled(&self) -> u64 {
        self.delivered + self.rejected + self.given_up() + self.lost_outbox
    }

    /// Points that are not settled yet.
    pub fn waiting(&self) -> u64 {
        self.waiting_memory + self.waiting_disk + self.in_flight
    }
}

/// What damage cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageLine {
    /// Journal blocks lost.
    pub journal_blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Points in them.
    pub points: u64,
    /// Outbox blocks lost.
    pub outbox_blocks: u64,
}

/// The whole ledger at one moment.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Inputs by index.
    pub inputs: Vec<InputLine>,
    /// The engine.
    pub engine: EngineCounts,
    /// Fields whose type was not the first one's.
    pub types: TypeCounts,
    /// Operators.
    pub operators: Vec<OperatorLine>,
    /// Outputs, then edge actions, by index.
    pub outputs: Vec<OutputLine>,
    /// Damage.
    pub damage: DamageLine,
    /// Last record.
    pub records: u64,
    /// Journal bytes since the last checkpoint, as the core counts them.
    pub journal_bytes: u64,
    /// Outbox bytes on disk.
    pub outbox_bytes: u64,
    /// Commits so far.
    pub commits: u64,
    /// The write budget holds back a commit now.
    pub bound_by_budget: bool,
    /// Syncs that went past the write budget: commits with an alert in them, and what can't wait at a bound.
    pub over_budget: u64,
    /// Reads of the outbox that failed and were tried again, since the start.
    pub outbox_read_retries: u64,
    /// Inputs that can wait are held back now, because an output can't keep up.
    pub held_back: bool,
    /// Checkpoints so far.
    pub checkpoints: u64,
    /// Why storage failed, if it did.
    pub storage_failed: Option<String>,
}

impl Ledger {
    /// Lines that do not balance, in words; empty, or there is a bug.
    pub fn residues(&self) -> Vec<String> {
        let mut residues = Vec::new();
        let mut check = |what: String, left: u64, right: u64| {
            if left != right {
                residues.push(format!("{what}: {left} is not {right}"));
            }
        };
        let mut recorded = 0;
        for input in &self.inputs {
            recorded += input.recorded;
            check(
                format!("input {}: read = not recorded + recorded", input.name),
                input.counts.read,
                input.counts.not_recorded() + input.recorded,
            );
        }
        check("engine: recorded = held + dispatched".into(), recorded, self.engine.held + self.engine.dispatched);
        for operator in &self.operators {
            let c = &operator.counts;
            let settled =
                c.applied + c.late + c.late_clock_step + c.future + c.overflow_groups + c.overflow_panes + c.conflict_type + c.undefined;
            check(format!("operator {}: in = applied + late + future + overflow + conflict + undefined", operator.name), c.r#in, settled);
        }
        for output in &self.outputs {
            check(format!("output {}: routed = settled + waiting", output.name), output.routed, output.settled() + output.waiting());
        }
        residues
    }
}
