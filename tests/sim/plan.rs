//! What a life is like: everything a seed decides beforehand, and what a planted bug adds.

use weir_engine::spec::{DedupSpec, Durability, EngineSpec, OnFull, OnStorageFailure};

use super::world::{self, MS, Random};

/// From this seed on lives mix everything that the first ones have apart.
pub const WIDE: u64 = 1000;
/// From this seed on they have what came later too: earlier seeds keep the lives they found something in.
pub const WIDEST: u64 = 1 << 52;
/// From this seed on states are lost in lives with edits, with thinned results, with a mode that syncs seldom and on disks that rot as well,
/// and open windows have little room.
pub const WIDER_STILL: u64 = 1 << 54;
/// From this seed on outputs may cut what they have back to what they are told, and states are lost whatever else goes wrong.
pub const FURTHEST: u64 = 1 << 55;
/// From this seed on states are lost in every second life, whatever else there is: outputs that know what they have or cut it back, modes that
/// do not sync, disks that err or are full.
pub const BARE: u64 = 1 << 56;
/// Inputs that recognise by `dedup` what comes again, in lives that have it.
pub const DEDUPS: [usize; 2] = [3, 5];

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
    /// A checkpoint counts before the blocks of the outbox that it speaks of are written.
    CheckpointBeforeOutbox,
    /// The journal is written over before the checkpoint that makes it free counts.
    JournalFreedEarly,
    /// An output that knows its place is not asked for it.
    CursorForgotten,
    /// How far groups had come that have ended is forgotten with a restart.
    FloorForgotten,
    /// Results leave before their cause is durable; acknowledgements wait.
    ReleasedEarly,
    /// What follows the checkpoint is replayed under the configuration of today.
    ReplayedUnderNew,
    /// Alerts are given up while results wait.
    AlertsFirst,
    /// The last block a checkpoint has in it is applied again.
    AppliedTwice,
    /// Levels are not set again by a start.
    LevelForgotten,
    /// Nobody notices that the broker has forgotten the session.
    SessionKept,
    /// The sync of an interval never comes.
    IntervalNotSynced,
    /// What `dedup` has seen is forgotten with a restart.
    SeenForgotten,
    /// Which points of a block stay is forgotten with a restart.
    ThinnedForgotten,
    /// Nobody says how often the disk was synced beyond the commits.
    SyncsUntold,
    /// An output is removed, and nobody says what waited for it.
    BacklogUntold,
    /// Outputs are told apart by the places they had before an edit.
    PlacesKept,
    /// What waits in the outbox is left there when every checkpoint is lost.
    OutboxForgotten,
    /// Without a state nobody asks how far windows had come.
    FloorsForgotten,
    /// A destination that has results of a record that was lost takes others of its number for them.
    LostLifeBelieved,
    /// A full disk's segments are removed before it is saved how far outputs have come.
    CursorsSavedLate,
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
    /// Files are flipped, zeroed, cut and removed while nobody looks.
    Damage,
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
    /// What a dead disk does to intake.
    pub on_failure: OnStorageFailure,
    /// The configuration is edited between lives.
    pub edits: bool,
    /// Brokers forget sessions and devices restart.
    pub forgetful: bool,
    /// Readings are of the present, so that levels move; else of an hour ago.
    pub recent: bool,
    /// Groups end soon.
    pub short_groups: bool,
    /// The disk is slow to sync.
    pub slow: bool,
    /// It dies seldom.
    pub calm: bool,
    /// Two inputs whose sources repeat themselves recognise it by `dedup` alone.
    pub dedup: bool,
    /// Outputs are away for long, and of what waits for them every second point goes when there is little room.
    pub thins: bool,
    /// The disk may be synced a few times a minute only.
    pub thrifty: bool,
    /// Edits add and remove outputs.
    pub changing: bool,
    /// Every checkpoint is lost once.
    pub stateless: bool,
    /// Open windows may have little memory.
    pub narrow: bool,
    /// Two outputs know what they have, in every mode.
    pub telling: bool,
    /// Two outputs cut back what they have, at a start, to what they are told.
    pub cutting: bool,
}

impl Plan {
    /// What the seed says: one of the plain lives that the first seeds stand for, from [`WIDE`] on any mixture of these, from [`WIDEST`] on of
    /// all there is, from [`FURTHEST`] on with nothing kept apart.
    pub fn of(seed: u64) -> Self {
        match seed {
            BARE.. => Self::bare(seed),
            FURTHEST.. => Self::furthest(seed),
            WIDEST.. => Self::widest(seed),
            WIDE.. => Self::wide(seed),
            _ => Self::plain(seed),
        }
    }

    fn bare(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x6c62_272e_07bb_0142);
        let furthest = Self::furthest(seed);
        let wide = Self::wide(seed);
        let stateless = random.once_in(2);
        let cutting = random.once_in(2);
        let telling = random.once_in(2) && may_know(wide.trouble) && !cutting;
        // Which output is which only a state knows, when one was added.
        let changing = furthest.changing && !stateless;
        Self { stateless, cutting, telling, knowing: (wide.knowing || telling) && !cutting, changing, ..furthest }
    }

    fn furthest(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x2127_599b_f432_5c37);
        let widest = Self::widest(seed);
        let stateless = widest.stateless;
        let cutting = random.once_in(2) && !stateless;
        Self { cutting, telling: widest.telling && !cutting, knowing: widest.knowing && !cutting, ..widest }
    }

    fn widest(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x1405_7b7e_f767_814f);
        let wide = Self::wide(seed);
        let thrifty = random.once_in(3) && wide.durability == Durability::Power;
        let (dedup, thins) = (random.once_in(2), random.once_in(3));
        // What rots may be what says which outputs there were.
        let changing = wide.edits && !wide.rots() && random.once_in(2);
        // Where the journal is not synced, the states are all there is of what they have.
        let steady = matches!(wide.trouble, Trouble::None | Trouble::Clock) && wide.durability == Durability::Power;
        let stateless = random.once_in(2) && steady && !wide.edits;
        let more = seed >= WIDER_STILL;
        // What a mode without syncs loses with the states is all there is.
        let kept = wide.durability == Durability::Power || wide.durability == Durability::Crash && !wide.power_cuts;
        let quiet = !matches!(wide.trouble, Trouble::DiskErrors | Trouble::DiskFull) && kept;
        let stateless = if more { random.once_in(2) && quiet } else { stateless };
        let narrow = more && random.once_in(3);
        // Which output is which only a state knows, when one was added.
        let changing = changing && !(more && stateless);
        let telling = random.once_in(3) && may_know(wide.trouble) && !stateless;
        Self {
            dedup,
            thins: thins && (more || !stateless),
            narrow,
            thrifty,
            changing,
            stateless,
            telling,
            // What is lost with the states is taken for delivered by one that knows.
            knowing: wide.knowing && !stateless || telling,
            // A run must be longer than a minute.
            calm: wide.calm || thrifty,
            ..wide
        }
    }

    fn wide(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x5851_f42d_4c95_7f2d);
        let durability = [Durability::Power, Durability::Power, Durability::Crash, Durability::None][random.below(4) as usize];
        let trouble = [Trouble::None, Trouble::None, Trouble::DiskErrors, Trouble::DiskFull, Trouble::Damage, Trouble::Clock]
            [random.below(6) as usize];
        let on_failure = if random.once_in(2) { OnStorageFailure::Continue } else { OnStorageFailure::Stall };
        Self {
            durability,
            power_cuts: !random.once_in(3),
            bounded: random.once_in(4),
            knowing: random.once_in(3) && durability == Durability::Power && may_know(trouble),
            trouble,
            batches: if random.once_in(8) { 120 } else { 30 },
            on_failure,
            edits: random.once_in(2),
            forgetful: random.once_in(2),
            recent: random.once_in(2),
            short_groups: random.once_in(3),
            slow: random.once_in(3),
            calm: random.once_in(4),
            ..Self::plain(seed)
        }
    }

    fn plain(seed: u64) -> Self {
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
            knowing: seed % 3 == 2 && may_know(trouble),
            trouble,
            death: Death::Random,
            bug: None,
            batches: if seed % 7 == 6 { 120 } else { 30 },
            on_failure: OnStorageFailure::Stall,
            edits: false,
            forgetful: false,
            recent: false,
            short_groups: false,
            slow: false,
            calm: false,
            dedup: false,
            thins: false,
            thrifty: false,
            changing: false,
            stateless: false,
            narrow: false,
            telling: false,
            cutting: false,
        }
    }

    /// What the seed says, without faults but for crashes, and with a bug.
    pub fn planted(seed: u64, bug: Bug) -> Self {
        let plain = Self { bug: Some(bug), durability: Durability::Power, power_cuts: true, trouble: Trouble::None, ..Self::plain(seed) };
        match bug {
            Bug::CursorForgotten => Self { knowing: true, ..plain },
            Bug::ReplayedUnderNew => Self { edits: true, ..plain },
            Bug::AlertsFirst => Self { bounded: true, ..plain },
            Bug::FloorForgotten => Self { short_groups: true, batches: 120, ..plain },
            Bug::LevelForgotten => Self { recent: true, ..plain },
            Bug::SessionKept => Self { forgetful: true, batches: 120, ..plain },
            Bug::IntervalNotSynced => Self { durability: Durability::Crash, calm: true, ..plain },
            Bug::ReleasedEarly => Self { slow: true, ..plain },
            Bug::SeenForgotten => Self { dedup: true, ..plain },
            Bug::ThinnedForgotten => Self { thins: true, batches: 120, ..plain },
            Bug::BacklogUntold | Bug::PlacesKept => Self { edits: true, changing: true, batches: 120, ..plain },
            Bug::OutboxForgotten => Self { stateless: true, knowing: false, batches: 120, ..plain },
            Bug::FloorsForgotten => Self { stateless: true, knowing: false, batches: 120, ..plain },
            Bug::LostLifeBelieved => Self { telling: true, knowing: true, durability: Durability::None, ..plain },
            Bug::CursorsSavedLate => Self { trouble: Trouble::DiskFull, durability: Durability::None, batches: 120, ..plain },
            Bug::SyncsUntold => Self { thrifty: true, calm: true, ..plain },
            _ => plain,
        }
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
            batches: 5,
            ..Self::plain(0)
        }
    }

    /// The command that lives this life again, unless a bug is planted in it.
    pub fn repeat(&self) -> String {
        let (effect, test) = match self.death {
            Death::At(effect) => (format!(" WEIR_SIM_EFFECT={effect}"), "a_death"),
            _ => (String::new(), "what_was"),
        };
        let planted = if self.bug.is_some() { " (with a bug planted)" } else { "" };
        format!("WEIR_SIM_SEED={}{effect} cargo test -p weir --test sim {test}{planted}", self.seed)
    }

    /// The configuration.
    pub fn spec(&self, random: &mut Random) -> EngineSpec {
        let mut spec = world::spec(self.durability);
        spec.storage.on_failure = self.on_failure;
        if self.short_groups {
            spec.time.group_ttl = 3000 * MS;
        }
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
        // Not of `random`: the lives of earlier seeds go by what it says.
        let mut other = Random(self.seed ^ 0x9fb2_1c65_1e98_df25);
        if self.thins {
            spec.storage.on_full = OnFull::Downsample;
            spec.storage.outbox_bytes_max = [8 << 10, 16 << 10, 32 << 10][other.below(3) as usize];
            spec.limits.results_waiting_bytes_max = [2 << 10, 8 << 10][other.below(2) as usize];
        }
        if self.narrow {
            spec.limits.panes_bytes_max = narrow(&mut other);
        }
        if self.thrifty {
            spec.storage.fsyncs_per_minute_max = [20, 60, 200][other.below(3) as usize];
        }
        for input in DEDUPS.into_iter().filter(|_| self.dedup) {
            spec.inputs[input].dedup = Some(dedup(&mut other));
        }
        spec
    }

    /// Whether results may be given up.
    pub fn may_give_up(&self) -> bool {
        self.bounded || self.thins || matches!(self.trouble, Trouble::DiskErrors | Trouble::DiskFull | Trouble::Flips | Trouble::Damage)
    }

    /// Whether what is on the disk may rot.
    pub fn rots(&self) -> bool {
        matches!(self.trouble, Trouble::Flips | Trouble::Damage)
    }

    /// Whether errors may be logged.
    pub fn may_complain(&self) -> bool {
        matches!(self.trouble, Trouble::DiskErrors | Trouble::DiskFull | Trouble::Flips | Trouble::Damage)
    }
}

/// What an input may remember: all there is, mostly; else not for as long as sources repeat themselves, or not as much.
pub fn dedup(random: &mut Random) -> DedupSpec {
    let within = [3_600_000, 3_600_000, 3_600_000, 800][random.below(4) as usize] * MS;
    DedupSpec { within, entries_max: [1 << 20, 1 << 20, 1 << 20, 40][random.below(4) as usize] }
}

/// Memory for open windows: enough for some, or for all.
pub fn narrow(random: &mut Random) -> usize {
    [2 << 10, 6 << 10, 64 << 20][random.below(3) as usize]
}

/// What rots behind the back of an output that knows its place is taken for delivered.
fn may_know(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::None | Trouble::Clock | Trouble::DiskFull)
}
