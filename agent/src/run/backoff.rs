//! How long to wait before trying again: doubling, bounded, with jitter so that a fleet does not come back in step.

use std::time::Duration;

/// A growing delay.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    random: Random,
}

impl Backoff {
    /// From `first`, doubling up to `max`; `seed` separates those who start together.
    pub fn new(first: Duration, max: Duration, seed: u64) -> Self {
        Self { first, max, next: first, random: Random(seed) }
    }

    /// The delay now: between half and all of the step; the step then doubles.
    pub fn step(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step / 2 + self.random.up_to(step / 2)
    }

    /// The delay now, if the other side asked for one: never less than the step, or an asked-for nothing would be no delay at all.
    pub fn at_least(&mut self, asked: Option<Duration>) -> Duration {
        self.step().max(asked.unwrap_or_default())
    }

    /// Back to the first step, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): for jitter, nothing else.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration below `limit`.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(self.next() % nanos) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_asked_for_adds_to_the_delay_and_never_takes_it_away() {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(4), 7);
        assert!(backoff.at_least(Some(Duration::ZERO)) >= Duration::from_secs(1));
        assert_eq!(backoff.at_least(Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert!(backoff.at_least(None) >= Duration::from_secs(2), "it went on doubling");
    }

    #[test]
    fn delays_double_up_to_the_bound_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4), 7);
        for expected in [1, 2, 4, 4] {
            let delay = backoff.step();
            assert!(delay >= Duration::from_secs(expected) / 2 && delay <= Duration::from_secs(expected), "{delay:?}");
        }
        backoff.reset();
        assert!(backoff.step() <= Duration::from_secs(1));
    }
}
