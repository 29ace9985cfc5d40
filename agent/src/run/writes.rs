//! How much is written and synced: the last minute, the last day, and the life of the card at that rate.
//!
//! Apart from the store because it needs a clock, and because it outlives a reload: what was written before one counts in the last day.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use weir_plugin_api::time::{Clock, SECOND};
use weir_store::{StoreStats, Writes};

const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 1440 * MINUTE;

/// What status and metrics tell of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// In the last minute.
    pub minute: Writes,
    /// In the last day, or since the start.
    pub day: Writes,
    /// Seconds since the start, at most a day.
    pub day_seconds: u64,
    /// By this process for others than the store: dead letters.
    pub other_bytes: u64,
}

impl Rates {
    /// Bytes a day at the measured rate; `None` before the first minute is over.
    pub fn bytes_per_day(&self) -> Option<u64> {
        (self.day_seconds >= 60).then(|| (u128::from(self.day.bytes) * 86_400 / u128::from(self.day_seconds)) as u64)
    }

    /// Days until `endurance` is used up, of which `used` is gone; `None` while nobody can tell.
    pub fn life_days(&self, endurance: u64, used: u64) -> Option<u64> {
        let rate = self.bytes_per_day().filter(|rate| *rate > 0)?;
        (endurance > 0).then(|| endurance.saturating_sub(used) / rate)
    }
}

/// The store's statistics and what is written per time, shared by those who write and those who show it.
#[derive(Clone)]
pub struct SharedWrites {
    meter: Arc<Mutex<Meter>>,
    clock: Arc<dyn Clock + Send + Sync>,
}

impl SharedWrites {
    /// Nothing was written yet.
    pub fn new(clock: Arc<dyn Clock + Send + Sync>) -> Self {
        let started = clock.steady();
        Self { meter: Arc::new(Mutex::new(Meter { started, ..Meter::default() })), clock }
    }

    /// The store has written `more`, and stands at `stats`.
    pub fn store(&self, stats: StoreStats, more: Writes) {
        let now = self.clock.steady();
        self.with(|meter| {
            meter.stats = stats;
            meter.add(now, more);
        });
    }

    /// Bytes were written to a file of the state directory that is not the store's.
    pub fn other(&self, bytes: u64) {
        let now = self.clock.steady();
        self.with(|meter| {
            meter.other_bytes += bytes;
            meter.add(now, Writes { bytes, fsyncs: 0 });
        });
    }

    /// Where the store stands, and the rates now.
    pub fn get(&self) -> (StoreStats, Rates) {
        let now = self.clock.steady();
        self.with(|meter| (meter.stats, meter.rates(now)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Meter) -> T) -> T {
        act(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct Meter {
    stats: StoreStats,
    started: i64,
    minute: Sliding,
    day: Sliding,
    other_bytes: u64,
}

impl Meter {
    fn add(&mut self, now: i64, more: Writes) {
        if more != Writes::default() {
            self.minute.add(now / SECOND, more);
            self.day.add(now / MINUTE, more);
        }
    }

    fn rates(&self, now: i64) -> Rates {
        let lived = now.saturating_sub(self.started).clamp(0, DAY);
        Rates {
            minute: self.minute.since(now / SECOND - 60),
            day: self.day.since(now / MINUTE - 1440),
            day_seconds: (lived / SECOND) as u64,
            other_bytes: self.other_bytes,
        }
    }
}

/// What was written per second or minute, as far back as somebody asks: an entry only for those in which something was.
#[derive(Default)]
struct Sliding(VecDeque<(i64, Writes)>);

/// Entries that are kept: those of a day.
const KEPT: usize = 1440;

impl Sliding {
    fn add(&mut self, at: i64, more: Writes) {
        match self.0.back_mut().filter(|(last, _)| *last >= at) {
            Some((_, writes)) => *writes = writes.and(more),
            None => self.0.push_back((at, more)),
        }
        while self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// Of all entries behind `after`.
    fn since(&self, after: i64) -> Writes {
        self.0.iter().rev().take_while(|(at, _)| *at > after).fold(Writes::default(), |sum, (_, writes)| sum.and(*writes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn steady(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }

        fn wall(&self) -> i64 {
            self.steady()
        }
    }

    #[test]
    fn a_minute_and_a_day_slide_and_a_young_agent_is_reckoned_by_its_age() {
        let clock = Arc::new(Hand::default());
        let writes = SharedWrites::new(clock.clone());
        let page = Writes { bytes: 4096, fsyncs: 1 };
        let mut rates = Rates::default();
        for second in 0..3 * 86_400i64 {
            clock.0.store(second * SECOND, Ordering::Relaxed);
            if second % 10 == 0 {
                writes.store(StoreStats::default(), page);
            }
            if second == 30 {
                assert_eq!(writes.get().1.bytes_per_day(), None, "half a minute says nothing");
            }
            if second == 3600 {
                rates = writes.get().1;
            }
        }
        assert_eq!((rates.minute, rates.day.fsyncs, rates.day_seconds), (Writes { bytes: 6 * 4096, fsyncs: 6 }, 361, 3600));
        let day = writes.get().1;
        assert_eq!((day.day.fsyncs, day.day_seconds), (8640, 86_400), "three days old, and the last one counts");
        assert_eq!(day.bytes_per_day(), Some(8640 * 4096));
        assert_eq!(day.life_days(8640 * 4096 * 100, 8640 * 4096 * 25), Some(75));
        assert_eq!(day.life_days(0, 0), None, "no endurance, no projection");
        assert_eq!(day.life_days(10, 20), Some(0), "used up");
        clock.0.store(5 * DAY, Ordering::Relaxed);
        assert_eq!(writes.get().1.day, Writes::default(), "nothing was written for a day");
        writes.other(100);
        assert_eq!((writes.get().1.minute.bytes, writes.get().1.other_bytes), (100, 100));
    }
}
