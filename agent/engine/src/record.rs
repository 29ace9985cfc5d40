//! What the journal holds, and so all the engine ever learns.

use std::sync::Arc;

use weir_plugin_api::{Cell, Identity, InputCounts, Lane, Position, Series};

/// How far the wall clock can be believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClockQuality {
    /// Below the build date or the last persisted time: nobody has set it yet.
    #[default]
    Unset,
    /// Plausible.
    Rtc,
    /// The kernel says it is synchronised.
    Synced,
}

/// The wall clock of a moment that has passed, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockThen {
    /// wall − steady.
    pub offset: i64,
    /// Of that.
    pub quality: ClockQuality,
    /// Which boot it was; 0: nobody knows.
    pub boot: u64,
    /// Steady time of the last record.
    pub steady: i64,
    /// How far it is behind the farthest it has been in that boot.
    pub stepped_back: i64,
    /// Readings that wait for a clock.
    pub held: u64,
    /// Steady time of the newest of them; [`i64::MIN`] where there is none.
    pub newest_held: i64,
}

/// When a record was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Observed axis, nanoseconds.
    pub observed: i64,
    /// Steady axis of the boot the record was made in, nanoseconds.
    pub steady: i64,
}

/// One batch, its ids translated to the engine's table.
#[derive(Clone, Copy, Debug)]
pub struct BatchRecord<'a> {
    /// Index of the input.
    pub input: u16,
    /// When it was read, steady nanoseconds.
    pub read_at: i64,
    /// Where in the source it ends.
    pub position: &'a Position,
    /// What was counted on the way.
    pub counts: &'a InputCounts,
    /// Cells; series and field are ids of [`crate::series::SeriesTable`]. Untimed ones still carry steady time.
    pub cells: &'a [Cell],
    /// Text of text cells.
    pub text: &'a [u8],
    /// Points in `cells`.
    pub points: u32,
}

/// What the agent raises an alert about itself for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// An output or an edge action takes nothing until a person acts.
    OutputHeld = 0,
    /// Results are given up before an output had them.
    OutboxDropping = 1,
    /// The disk failed, and what is delivered may be lost by a restart.
    StorageFailed = 2,
}

impl Condition {
    /// Every one, by number.
    pub const ALL: [Self; 3] = [Self::OutputHeld, Self::OutboxDropping, Self::StorageFailed];

    /// Name of the alert: the `alert` tag of its transitions.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutputHeld => "output_held",
            Self::OutboxDropping => "outbox_dropping",
            Self::StorageFailed => "storage_failed",
        }
    }
}

/// One record. Its sequence number is given by the journal: from 1, without gaps.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// Readings.
    Batch(BatchRecord<'a>),
    /// A timer of the engine fell due.
    Tick,
    /// wall − steady changed, or its quality did.
    Clock {
        /// New offset, nanoseconds.
        offset: i64,
        /// How far to believe it.
        quality: ClockQuality,
        /// Which boot of the machine it was made in: a number no other boot has, 0 if nobody knows. Steady times of two boots have no
        /// relation.
        boot: u64,
    },
    /// The configuration changed: what follows was made under this one. The last record of its block.
    Config {
        /// As [`crate::spec::EngineSpec::to_bytes`] has it.
        spec: &'a [u8],
    },
    /// All finite inputs have ended: every watermark goes to +∞.
    Finish,
    /// An output got this far.
    Delivered {
        /// Index of the output.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Last identity delivered or given up.
        upto: Identity,
        /// Counts since the record before.
        counts: DeliveryCounts,
        /// The output's token.
        token: u64,
    },
    /// Points an output had not been offered were given up; what it has been offered before them is settled by itself.
    Expired {
        /// Index of the output.
        output: u16,
        /// Lane.
        lane: Lane,
        /// The points behind this identity …
        after: Identity,
        /// … up to this one.
        upto: Identity,
        /// How many, and why.
        counts: DeliveryCounts,
    },
    /// Of a block of the outbox only a part stays: the rest goes to nobody who has not had it.
    Thinned {
        /// What stays, in order: the first of a run of ordinals, and how many. The block's first and last result are always among it.
        kept: &'a [(Identity, u32)],
        /// How many results that each output waited for are left out.
        points: &'a [(u16, u64)],
    },
    /// How far windows had come at a checkpoint: the first record behind it. Only a start that finds no state goes by it, and then from its
    /// first record on.
    Floors {
        /// Time of the newest result there may have been of any group that is not named below; [`i64::MIN`]: there was none.
        common: i64,
        /// The same by the series of a group's results. What has points and was not emitted yet counts, too.
        groups: &'a [(Arc<Series>, i64)],
        /// The clock as it was then, without which times of reading would mean nothing until the next clock record; `None` where nobody knew.
        clock: Option<ClockThen>,
    },
    /// Something about the agent itself began or ended.
    Condition {
        /// What.
        condition: Condition,
        /// The output it is about; empty for the agent as a whole.
        subject: &'a str,
        /// It holds now.
        active: bool,
        /// How many points it is about.
        value: u64,
    },
}

/// What happened to points routed to an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Arrived.
    pub delivered: u64,
    /// Of these, overwrote another of the same series and time.
    pub collapsed: u64,
    /// Refused by the destination for good.
    pub rejected: u64,
    /// Given up: older than the bound.
    pub expired_age: u64,
    /// Given up: the outbox was full.
    pub expired_bytes: u64,
    /// Given up: the disk was full.
    pub expired_disk: u64,
    /// Given up: an edge action past `expires_after`.
    pub expired_stale: u64,
    /// Lost: their block of the outbox is damaged or missing, and nobody had given it up.
    pub lost_outbox: u64,
}
