//! What time it is at the gateway: the device's end, from questions and answers as NTP's (RFC 5905, section 8).
//!
//! An answer bounds the error by half its round trip, and the bound grows with the drift of the device's clock. The offset with the
//! smallest bound is kept, so one answer that was held up on the line does no harm.

use crate::frame::TimeReply;

/// It is asked again after that long, microseconds.
const ASK_US: u64 = 60_000_000;
/// Without an answer it is asked again after that long, microseconds.
const RETRY_US: u64 = 2_000_000;
/// The longest wait for a lost answer, microseconds.
const RETRY_US_MAX: u64 = 32_000_000;
/// Two crystals drift apart by no more than that, parts per million.
const DRIFT_PPM: u64 = 100;

/// How the gateway's clock stands to the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Names the gateway's clock.
    pub clock: u32,
    /// Gateway minus device, microseconds.
    pub offset_us: i64,
    /// How long question and answer were on the line, microseconds.
    pub round_trip_us: u64,
    /// When it was measured, microseconds of the device's uptime.
    pub measured_us: u64,
}

impl Offset {
    /// The offset may be wrong by that much at `now_us`.
    pub fn error_us(&self, now_us: u64) -> u64 {
        self.round_trip_us / 2 + now_us.saturating_sub(self.measured_us) / 1_000_000 * DRIFT_PPM
    }

    /// A moment of the device's uptime in the gateway's clock; 0 for one before it began.
    pub fn at_gateway(&self, device_us: u64) -> u64 {
        device_us.saturating_add_signed(self.offset_us)
    }
}

/// Asks for the time and keeps the best answer.
#[derive(Clone, Debug)]
pub struct TimeSync {
    offset: Option<Offset>,
    /// When the question that waits for its answer was sent.
    asked_us: Option<u64>,
    due_us: u64,
    retry_us: u64,
    every_us: u64,
}

impl Default for TimeSync {
    fn default() -> Self {
        Self { offset: None, asked_us: None, due_us: 0, retry_us: RETRY_US, every_us: ASK_US }
    }
}

impl TimeSync {
    /// Asks every `every_us` microseconds instead of every minute; a second at least.
    pub fn every(every_us: u64) -> Self {
        Self { every_us: every_us.max(1_000_000), ..Self::default() }
    }

    /// Asks at once: the gateway may be another one.
    pub fn ask(&mut self) {
        self.due_us = 0;
        self.retry_us = RETRY_US;
    }

    /// Whether a question is due at `now_us`; it counts as sent then.
    pub fn is_due(&mut self, now_us: u64) -> bool {
        if now_us < self.due_us {
            return false;
        }
        self.asked_us = Some(now_us);
        self.due_us = now_us.saturating_add(self.retry_us);
        self.retry_us = (self.retry_us * 2).min(RETRY_US_MAX);
        true
    }

    /// When the next question is due, microseconds of the device's uptime.
    pub fn due_us(&self) -> u64 {
        self.due_us
    }

    /// Takes an answer that came at `now_us`; `false` for one to no question of ours, or from a clock that goes backwards.
    pub fn answer(&mut self, reply: &TimeReply, now_us: u64) -> bool {
        if self.asked_us != Some(reply.sent_us) {
            return false;
        }
        let Some(held_us) = reply.replied_us.checked_sub(reply.received_us) else { return false };
        let Some(round_trip_us) = now_us.checked_sub(reply.sent_us).and_then(|all| all.checked_sub(held_us)) else { return false };
        // The middle of the line's two ways, both taken for equally long.
        let middle_gateway = reply.received_us + held_us / 2;
        let middle_device = reply.sent_us + (now_us - reply.sent_us) / 2;
        let Ok(offset_us) = i64::try_from(i128::from(middle_gateway) - i128::from(middle_device)) else { return false };
        self.asked_us = None;
        self.retry_us = RETRY_US;
        self.due_us = now_us.saturating_add(self.every_us);
        let new = Offset { clock: reply.clock, offset_us, round_trip_us, measured_us: now_us };
        let is_better = self.offset.is_none_or(|old| old.clock != new.clock || new.error_us(now_us) <= old.error_us(now_us));
        if is_better {
            self.offset = Some(new);
        }
        true
    }

    /// The best offset, if there is one.
    pub fn offset(&self) -> Option<Offset> {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks at `sent`; the way there takes `there`, the way back `back`; the gateway's clock is `ahead` of ours.
    fn exchange(sync: &mut TimeSync, sent: u64, there: u64, back: u64, ahead: u64, clock: u32) -> bool {
        sync.ask();
        assert!(sync.is_due(sent));
        let received_us = sent + there + ahead;
        let reply = TimeReply { nonce: 1, sent_us: sent, clock, received_us, replied_us: received_us + 50 };
        sync.answer(&reply, sent + there + 50 + back)
    }

    #[test]
    fn ways_of_equal_length_give_the_offset_exactly() {
        let mut sync = TimeSync::default();
        assert!(exchange(&mut sync, 1_000_000, 400, 400, 77_000_000, 5));
        let offset = sync.offset().expect("an answer came");
        assert_eq!((offset.offset_us, offset.round_trip_us), (77_000_000, 800));
        assert_eq!(offset.at_gateway(2_000_000), 79_000_000);
    }

    #[test]
    fn an_answer_that_was_held_up_does_not_replace_a_better_one_until_that_is_old() {
        let mut sync = TimeSync::default();
        exchange(&mut sync, 0, 400, 400, 10_000_000, 5);
        exchange(&mut sync, 60_000_000, 400, 900_000, 10_000_000, 5);
        assert_eq!(sync.offset().map(|o| o.offset_us), Some(10_000_000));
        // 20,000 s at 100 ppm are two seconds.
        exchange(&mut sync, 20_000_000_000, 400, 900_000, 10_000_000, 5);
        assert_eq!(sync.offset().map(|o| o.round_trip_us), Some(900_400));
    }

    #[test]
    fn a_clock_that_began_anew_replaces_every_offset_of_the_old_one() {
        let mut sync = TimeSync::default();
        exchange(&mut sync, 0, 10, 10, 10_000_000, 5);
        exchange(&mut sync, 1_000_000, 400_000, 400_000, 0, 6);
        assert_eq!(sync.offset().map(|o| (o.clock, o.offset_us)), Some((6, 0)));
    }

    #[test]
    fn answers_to_other_questions_and_impossible_ones_are_refused() {
        let mut sync = TimeSync::default();
        assert!(sync.is_due(100));
        let reply = TimeReply { nonce: 1, sent_us: 100, clock: 5, received_us: 1_000, replied_us: 1_001 };
        assert!(!sync.answer(&TimeReply { sent_us: 99, ..reply }, 200));
        assert!(!sync.answer(&TimeReply { replied_us: 999, ..reply }, 200), "it went before it came");
        assert!(!sync.answer(&TimeReply { replied_us: 2_000, ..reply }, 200), "it was held longer than we waited");
        assert!(sync.answer(&reply, 200));
        assert!(!sync.answer(&reply, 300), "a second time");
    }

    #[test]
    fn an_answer_that_never_comes_is_asked_for_ever_more_slowly() {
        let mut sync = TimeSync::default();
        let asked: std::vec::Vec<u64> = (0..120).filter(|second| sync.is_due(second * 1_000_000)).collect();
        assert_eq!(asked, [0, 2, 6, 14, 30, 62, 94]);
    }
}
