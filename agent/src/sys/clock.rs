//! The system's clocks, and how far the wall clock can be believed.

use std::{
    path::Path,
    sync::atomic::{AtomicI64, AtomicU8, Ordering},
};

use rustix::time::{ClockId, clock_gettime};
use weir_engine::{core::Now, record::ClockQuality};
use weir_plugin_api::time::{Clock, SECOND};

/// No wall clock can rightly be before this: 2026-01-01, when this program did not exist yet.
const BUILD_DATE: i64 = 1_767_225_600 * SECOND;
/// systemd-timesyncd touches this file once the clock is synchronised (systemd-timesyncd.service(8)).
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";
/// What tells this boot from all others.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often that file is looked for.
const LOOK_EVERY: i64 = 10 * SECOND;

/// Reads `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
#[derive(Debug, Default)]
pub struct SystemClock {
    looked_at: AtomicI64,
    synced: AtomicU8,
}

fn nanoseconds(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec * SECOND + time.tv_nsec
}

impl SystemClock {
    /// All clocks at once, as the core wants them.
    pub fn now(&self) -> Now {
        let (steady, wall) = (self.steady(), self.wall());
        Now { steady, wall, quality: self.quality(steady, wall) }
    }

    /// A number for this boot of the machine, of the kernel's random id (random(4)); 0 where there is none.
    pub fn boot(&self) -> u64 {
        let id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let digits = id.trim().replace('-', "");
        u128::from_str_radix(&digits, 16).map_or(0, |id| (id >> 64) as u64 ^ id as u64)
    }

    fn quality(&self, steady: i64, wall: i64) -> ClockQuality {
        if wall < BUILD_DATE {
            return ClockQuality::Unset;
        }
        let looked = self.looked_at.load(Ordering::Relaxed);
        if looked == 0 || steady - looked >= LOOK_EVERY {
            self.looked_at.store(steady, Ordering::Relaxed);
            self.synced.store(u8::from(Path::new(SYNCHRONIZED).exists()), Ordering::Relaxed);
        }
        if self.synced.load(Ordering::Relaxed) == 1 { ClockQuality::Synced } else { ClockQuality::Rtc }
    }
}

impl Clock for SystemClock {
    fn steady(&self) -> i64 {
        nanoseconds(ClockId::Boottime)
    }

    fn wall(&self) -> i64 {
        nanoseconds(ClockId::Realtime)
    }
}
