//! How long an input waits before it looks for lost hardware again: from 100 ms, doubling, to 5 s.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The wait, and whether the loss was told already: hardware that stays away is one line in the log, not one per attempt.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    wait: Option<Duration>,
    told: bool,
}

impl Retry {
    /// The next wait.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.wait.map_or(FIRST, |wait| (2 * wait).min(LONGEST));
        self.wait = Some(wait);
        wait
    }

    /// Whether a loss should be logged now: once until [`Retry::recovered`].
    pub(crate) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// It is back and works.
    pub(crate) fn recovered(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_start_over_after_a_recovery() {
        let mut retry = Retry::default();
        let waits: Vec<u128> = (0..8).map(|_| retry.next_wait().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!([retry.tell(), retry.tell()], [true, false]);
        retry.recovered();
        assert_eq!((retry.next_wait(), retry.tell()), (FIRST, true));
    }
}
