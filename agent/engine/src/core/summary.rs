//! What a checkpoint's state says, read without the configuration it was made under: for people who look at a store.

use weir_plugin_api::{Identity, InputCounts, Lane, Resume};

use super::{
    dedup::Dedup,
    state::{StateError, dedups, head, resume},
};
use crate::{
    codec::{
        bytes::{Damaged, Reader},
        record::{counts, quality},
    },
    operators::{Operators, OperatorsSummary},
    record::ClockQuality,
};

/// An input as the state has it.
#[derive(Clone, Debug)]
pub struct InputSummary {
    /// Its name.
    pub name: String,
    /// Where it goes on.
    pub resume: Resume,
    /// What was counted before the journal.
    pub counts: InputCounts,
    /// Points recorded.
    pub recorded: u64,
    /// Points that its `dedup` remembers.
    pub dedup_entries: usize,
}

/// How far an output has got in one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorSummary {
    /// Settled up to here.
    pub done: Identity,
    /// Points routed to it and not settled.
    pub outstanding: u64,
    /// Ranges behind `done` that were given up: behind the first identity, up to the second.
    pub gaps: Vec<(Identity, Identity)>,
}

impl CursorSummary {
    /// Whether a point of this identity still waits.
    pub fn waits(&self, identity: Identity) -> bool {
        identity > self.done && !self.gaps.iter().any(|(after, upto)| identity > *after && identity <= *upto)
    }
}

/// An output or edge action as the state has it.
#[derive(Clone, Debug)]
pub struct OutputSummary {
    /// Its name.
    pub name: String,
    /// Points that were routed to it.
    pub routed: u64,
    /// Points that arrived.
    pub delivered: u64,
    /// Its cursors, by lane.
    pub cursors: [CursorSummary; 2],
}

/// A block of the outbox that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSummary {
    /// Lane.
    pub lane: Lane,
    /// First identity.
    pub first: Identity,
    /// Last identity.
    pub last: Identity,
    /// Points that wait, by output in the order of [`StateSummary::outputs`].
    pub counts: Vec<u32>,
}

/// What a state holds.
#[derive(Clone, Debug)]
pub struct StateSummary {
    /// The record that comes next.
    pub next_record: u64,
    /// Observed axis, nanoseconds.
    pub observed: i64,
    /// Wall time of the last record, nanoseconds.
    pub wall_last: i64,
    /// wall − steady, nanoseconds.
    pub offset: i64,
    /// How far the clock could be believed.
    pub quality: ClockQuality,
    /// Inputs, those no longer configured last.
    pub inputs: Vec<InputSummary>,
    /// Outputs, then edge actions.
    pub outputs: Vec<OutputSummary>,
    /// What waits in the outbox.
    pub stored: Vec<StoredSummary>,
    /// Windows and alerts.
    pub operators: OperatorsSummary,
}

impl StateSummary {
    /// Reads a state.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn read(state: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader::new(state);
        let seen = dedups(head(&mut reader)?.dedup)?;
        let next_record = reader.u64()?;
        let _checkpoint = reader.u64()?;
        let (observed, wall_last, offset) = (reader.i64()?, reader.i64()?, reader.i64()?);
        let quality = quality(reader.u8()?)?;
        for _damage in 0..4 {
            reader.u64()?;
        }
        let mut inputs = Vec::new();
        for _ in 0..reader.count()? {
            let (name, resume, counts) = (reader.text()?.to_owned(), resume(&mut reader)?, counts(&mut reader)?);
            let recorded = reader.u64()?;
            let dedup_entries = seen.get(&name).map_or(0, Dedup::len);
            inputs.push(InputSummary { name, resume, counts, recorded, dedup_entries });
        }
        let mut outputs = Vec::new();
        for _ in 0..reader.count()? {
            outputs.push(output(&mut reader)?);
        }
        let mut stored = Vec::new();
        for lane in Lane::ALL {
            for _ in 0..reader.count()? {
                stored.push(block(&mut reader, lane, outputs.len())?);
            }
        }
        let operators = Operators::summary(reader.take(reader.left())?)?;
        Ok(Self { next_record, observed, wall_last, offset, quality, inputs, outputs, stored, operators })
    }
}

fn identity(reader: &mut Reader<'_>) -> Result<Identity, Damaged> {
    Ok(Identity { record: reader.u64()?, ordinal: reader.narrow()? })
}

fn output(reader: &mut Reader<'_>) -> Result<OutputSummary, Damaged> {
    let name = reader.text()?.to_owned();
    let (routed, delivered) = (reader.u64()?, reader.u64()?);
    // Six more counts and the token.
    for _ in 0..7 {
        reader.u64()?;
    }
    let mut cursors = [CursorSummary::default(), CursorSummary::default()];
    for cursor in &mut cursors {
        cursor.done = identity(reader)?;
        cursor.outstanding = reader.u64()?;
        for _ in 0..reader.count()? {
            cursor.gaps.push((identity(reader)?, identity(reader)?));
        }
    }
    Ok(OutputSummary { name, routed, delivered, cursors })
}

fn block(reader: &mut Reader<'_>, lane: Lane, outputs: usize) -> Result<StoredSummary, Damaged> {
    let (first, last) = (identity(reader)?, identity(reader)?);
    let _observed = reader.i64()?;
    let counts = (0..outputs).map(|_| reader.narrow()).collect::<Result<_, _>>()?;
    Ok(StoredSummary { lane, first, last, counts })
}
