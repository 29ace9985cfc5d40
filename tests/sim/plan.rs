//! What a life is like: everything a seed decides beforehand, and what a planted bug adds.

use weir_engine::spec::{Durability, EngineSpec};

use super::world::{self, MS, Random};

/// A bug that is put between the core, the store, the sources and the outputs, so that it is seen whether anybody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The journal is written and not synced.
    JournalNotSynced,
    /// The outbox is written and not synced.
    OutboxNotSynced,
    /// A checkpoint is renamed before its content is synced.
    CheckpointNotSynced,
    /// Names are made and not synced.
    NamesNotSynced,
    /// A block counts as durable when it is handed to the disk.
    AcknowledgedEarly,
    /// An input takes what a source sends again for something new.
    RedeliveryCounted,
    /// Results are numbered as they leave, not named by their cause.
    RunningIdentity,
    /// What a checkpoint that never happened appended to the outbox is left there.
    OutboxNotCut,
}

/// Which faults occur, next to crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    None,
    /// Operations on files fail now and then.
    DiskErrors,
    /// The disk is full for a while.
    DiskFull,
    /// Bits flip while nobody looks.
    Flips,
    /// The wall clock is unset, steps and stops.
    Clock,
}

/// When the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// At any time, often.
    Random,
    /// Once, at this effect; what it leaves is decided by the seed.
    At(u32),
    /// Never.
    Never,
}

/// How a life goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The mode.
    pub durability: Durability,
    /// Power fails, too; else only the process dies.
    pub power_cuts: bool,
    /// Outputs are away for long and little may wait for them: what is given up must be counted.
    pub bounded: bool,
    /// The first output knows what it has, and gets nothing twice.
    pub knowing: bool,
    /// Faults.
    pub trouble: Trouble,
    /// Deaths.
    pub death: Death,
    /// A bug.
    pub bug: Option<Bug>,
    /// Batches of each input.
    pub batches: usize,
}

impl Plan {
    /// What the seed says.
    pub fn of(seed: u64) -> Self {
        // A killed process keeps what was written: the weaker mode promises as much then.
        let crash = seed % 5 == 4;
        let trouble = match seed % 11 {
            // A failed sync loses what this mode owes a sync only now and then.
            1 | 6 if !crash => Trouble::DiskErrors,
            3 => Trouble::DiskFull,
            5 => Trouble::Flips,
            8 => Trouble::Clock,
            _ => Trouble::None,
        };
        Self {
            seed,
            durability: if crash { Durability::Crash } else { Durability::Power },
            power_cuts: !crash,
            bounded: seed % 4 == 3,
            // What rots behind the back of an output that knows its place is taken for delivered.
            knowing: seed % 3 == 2 && matches!(trouble, Trouble::None | Trouble::Clock | Trouble::DiskFull),
            trouble,
            death: Death::Random,
            bug: None,
            batches: if seed % 7 == 6 { 120 } else { 30 },
        }
    }

    /// What the seed says, without faults but for crashes, and with a bug.
    pub fn planted(seed: u64, bug: Bug) -> Self {
        Self { bug: Some(bug), durability: Durability::Power, power_cuts: true, trouble: Trouble::None, ..Self::of(seed) }
    }

    /// A short life that ends, once, at effect `at`.
    pub fn short(seed: u64, death: Death) -> Self {
        Self {
            seed,
            durability: Durability::Power,
            power_cuts: true,
            bounded: false,
            knowing: seed % 2 == 1,
            trouble: Trouble::None,
            death,
            bug: None,
            batches: 5,
        }
    }

    /// The configuration.
    pub fn spec(&self, random: &mut Random) -> EngineSpec {
        let mut spec = world::spec(self.durability);
        spec.storage.journal_bytes_max = [128 << 10, 256 << 10, 4 << 20][random.below(3) as usize];
        spec.storage.fsyncs_per_minute_max = [0, 0, 0, 1000][random.below(4) as usize];
        spec.limits.results_waiting_bytes_max = [2 << 10, 8 << 10, 1 << 20][random.below(3) as usize];
        spec.time.idle_after = [50 * MS, 300 * MS, 3_600_000 * MS][random.below(3) as usize];
        spec.windows[0].allowed_lateness = [0, 1000 * MS, 5000 * MS][random.below(3) as usize];
        spec.windows[1].lateness = [0, 100 * MS, 1000 * MS][random.below(3) as usize];
        if self.bounded {
            spec.storage.outbox_bytes_max = [4 << 10, 64 << 10][random.below(2) as usize];
            spec.storage.outbox_age_max = [2000 * MS, 3_600_000 * MS][random.below(2) as usize];
            spec.outputs[1].waiting_points_max = 100;
        }
        spec
    }

    /// Whether results may be given up.
    pub fn may_give_up(&self) -> bool {
        self.bounded || matches!(self.trouble, Trouble::DiskErrors | Trouble::DiskFull | Trouble::Flips)
    }

    /// Whether errors may be logged.
    pub fn may_complain(&self) -> bool {
        matches!(self.trouble, Trouble::DiskErrors | Trouble::DiskFull | Trouble::Flips)
    }
}
