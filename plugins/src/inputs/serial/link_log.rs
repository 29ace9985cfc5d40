//! What the log hears of a device: who it is, that it began anew, and what keeps all of its readings out.
//!
//! Apart because a device in trouble says the same thing many times a second, and the log must not.

use weir_firmware_shim::frame::{Hello, VERSION};
use weir_plugin_api::time::SECOND;

/// A device that boots over and over is told of this often, nanoseconds.
const BOOTS_EVERY: i64 = 60 * SECOND;
/// Readings that can't be taken for this long are told of, nanoseconds: the link mends what a line damages sooner.
const EARLY_MAX: i64 = 10 * SECOND;

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Nonce and resets of the hello before.
    row: Option<(u32, u64)>,
    /// When a boot was told of, and how many were not since.
    boot_told: Option<i64>,
    boots_untold: u64,
    /// Versions other than ours, of this connection.
    versions: Vec<u8>,
    /// Since when no reading could be taken, and whether that was told.
    early: Option<i64>,
    early_told: bool,
}

impl Log {
    /// The row of this nonce was read in an earlier life of ours.
    pub(super) fn resumed(&mut self, nonce: Option<u32>) {
        self.row = nonce.map(|nonce| (nonce, u64::MAX));
    }

    /// Another device may be on the line now.
    pub(super) fn reopened(&mut self) {
        self.versions.clear();
        self.in_order();
    }

    /// A device introduced itself.
    pub(super) fn hello(&mut self, hello: &Hello<'_>, new_boot: bool, now: i64, input: &str) {
        let (device, nonce, resets, dropped) = (hello.device, hello.nonce, hello.resets, hello.dropped);
        let (held_back, refused) = (hello.held_back, hello.refused);
        tracing::debug!(%input, device, nonce, resets, dropped, held_back, refused, new_boot, "hello");
        let before = self.row.replace((nonce, resets));
        let is_reset = before.is_some_and(|(_, before)| before < resets);
        if before.is_none() || !(new_boot || is_reset) {
            return;
        }
        let Some(more_since_last) = self.boot_is_due(now) else { return };
        if !new_boot {
            tracing::info!(%input, device, resets, more_since_last, "the device was reset");
        } else if before.is_some_and(|(before, _)| before == nonce) {
            tracing::warn!(
                input,
                device,
                nonce,
                more_since_last,
                "the device numbers its readings anew under the nonce of its life before: its firmware draws it from nothing random, and readings can be taken for repeated ones"
            );
        } else {
            tracing::warn!(
                input,
                device,
                more_since_last,
                "the device numbers its readings anew: those it had not sent before are lost, nobody can tell how many"
            );
        }
    }

    /// A frame of another version of the protocol came.
    pub(super) fn version(&mut self, theirs: u8, input: &str) {
        if self.is_new(theirs) {
            tracing::warn!(
                input,
                theirs,
                ours = VERSION,
                "the device speaks another version of the frame protocol: nothing it sends can be taken until its firmware or this agent is updated"
            );
        }
    }

    /// Readings came that could be taken.
    pub(super) fn in_order(&mut self) {
        (self.early, self.early_told) = (None, false);
    }

    /// Readings came that can't be taken yet.
    pub(super) fn early(&mut self, has_hello: bool, now: i64, input: &str) {
        if !self.early_is_due(now) {
            return;
        }
        let reason = if has_hello {
            "the device does not send again what is missing before them, or its hello is of another row"
        } else {
            "no hello says what they are"
        };
        tracing::warn!(%input, reason, "readings come and none of them can be taken");
    }

    /// Whether a boot is told of now, and how many were not since the last that was.
    fn boot_is_due(&mut self, now: i64) -> Option<u64> {
        if self.boot_told.is_some_and(|at| now - at < BOOTS_EVERY) {
            self.boots_untold += 1;
            return None;
        }
        self.boot_told = Some(now);
        Some(std::mem::take(&mut self.boots_untold))
    }

    /// Whether this version was not told of; there are no more than 255 of them.
    fn is_new(&mut self, theirs: u8) -> bool {
        let is_new = !self.versions.contains(&theirs);
        if is_new {
            self.versions.push(theirs);
        }
        is_new
    }

    /// Whether it is told now, and not again, that nothing can be taken.
    fn early_is_due(&mut self, now: i64) -> bool {
        let since = *self.early.get_or_insert(now);
        now - since >= EARLY_MAX && !std::mem::replace(&mut self.early_told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_boots_ten_times_a_second_is_told_of_once_a_minute() {
        let mut log = Log::default();
        let told: Vec<u64> = (0..1300).filter_map(|tenth| log.boot_is_due(tenth * SECOND / 10)).collect();
        assert_eq!(told, [0, 599, 599]);
    }

    #[test]
    fn a_version_is_told_once_a_connection_and_others_between_do_not_matter() {
        let mut log = Log::default();
        assert_eq!([1, 3, 1, 3].map(|version| log.is_new(version)), [true, true, false, false]);
        log.reopened();
        assert!(log.is_new(1));
    }

    #[test]
    fn readings_nobody_can_take_are_told_of_after_a_while_and_anew_after_good_ones() {
        let mut log = Log::default();
        let told = |log: &mut Log, from: i64| (from..from + 30).filter(|second| log.early_is_due(second * SECOND)).collect::<Vec<_>>();
        assert_eq!(told(&mut log, 0), [10]);
        log.in_order();
        assert_eq!(told(&mut log, 100), [110]);
    }
}
