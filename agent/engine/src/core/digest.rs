//! One number for what a state holds, the same whichever way and whenever it came about.
//!
//! Apart from the state's bytes, because those tell the time too: record numbers, clocks and how far sources and outputs have got differ
//! between two runs of the same readings, what was computed of them and what was counted must not. So a run that was killed and went on
//! can be compared with one that was not, and one machine with another.

use std::sync::Arc;

use super::{
    Core, Now,
    dedup::hash_bytes,
    state::{StateError, spec_of},
};
use crate::{
    codec::bytes::{Damaged, put_bytes, put_u64},
    record::ClockQuality,
};

impl Core {
    /// The digest: counts of inputs and outputs, points that `dedup` remembers, windows, alerts and their counts.
    pub fn lasting_digest(&self) -> u64 {
        let mut out = Vec::new();
        for (spec, input) in self.spec.inputs.iter().zip(&self.inputs) {
            put_bytes(&mut out, spec.name.as_bytes());
            input.counts.fields().iter().for_each(|(_, count)| put_u64(&mut out, *count));
            put_u64(&mut out, input.recorded);
            input.dedup.put_points(&mut out);
        }
        for line in &self.lines {
            put_bytes(&mut out, line.name.as_bytes());
            let given_up = [line.expired_age, line.expired_bytes, line.expired_disk, line.expired_stale];
            let counts = [line.routed, line.delivered, line.collapsed, line.rejected];
            counts.into_iter().chain(given_up).for_each(|count| put_u64(&mut out, count));
            if line.lost_outbox > 0 {
                put_u64(&mut out, line.lost_outbox);
            }
        }
        self.operators.snapshot_without_moments(&self.table, &mut out);
        hash_bytes(&out)
    }
}

/// The digest of a checkpoint's state.
///
/// # Errors
/// See [`StateError`]; a state that does not say which configuration it belongs to can't be read alone.
pub fn of_state(state: &[u8]) -> Result<u64, StateError> {
    let spec = spec_of(state)?.ok_or(Damaged("it does not say which configuration it belongs to"))?;
    let now = Now { steady: 0, wall: 0, quality: ClockQuality::Unset };
    Ok(Core::restore(Arc::new(spec), state, &[], now)?.lasting_digest())
}
