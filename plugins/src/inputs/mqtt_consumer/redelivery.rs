//! Which messages the broker may send again, and which of them were recorded already.
//!
//! After a reconnection the broker repeats what it has no acknowledgement for, marked DUP. The rule is: DUP, packet id known, and the
//! hash of topic and payload equal ⇒ a duplicate. Packet ids come round after 65 535 messages, so an id must be forgotten in time or a
//! new message with the same payload would look like an old one: only the newest ids are kept, and every [`RENEW_AFTER`] messages the
//! position starts a new session number that carries just them, which empties the table that is kept with the journal.

use std::collections::{HashMap, VecDeque};

use weir_plugin_api::position::{MessageId, Position, Resume};

/// Messages remembered at least; the broker has fewer of them unacknowledged.
const REMEMBERED_MIN: usize = 4096;
/// Messages after which the table is started anew. With the remembered ones far below 65 536.
const RENEW_AFTER: usize = 32_768;

/// The table of one input.
pub struct Redelivery {
    session: u64,
    remembered_max: usize,
    recent: VecDeque<MessageId>,
    /// What a broker that resumes our session may repeat, as of the last connection.
    known: HashMap<u16, u32>,
    since_renewal: usize,
}

impl Redelivery {
    /// The table as it was recorded; `window` is how many messages the broker may have unacknowledged.
    pub fn new(resume: &Resume, window: usize) -> Self {
        Self {
            session: resume.session,
            remembered_max: window.max(REMEMBERED_MIN),
            recent: VecDeque::new(),
            known: resume.messages.iter().map(|(id, hash)| (*id, *hash)).collect(),
            since_renewal: resume.messages.len(),
        }
    }

    /// A connection stands; the broker does or does not remember our session. The position is what the journal must hold before anything
    /// of a new session may come: its ids begin anew, and after a crash a message could be taken for one of the old session.
    pub fn connected(&mut self, session_present: bool) -> Position {
        if session_present {
            self.known.extend(self.recent.iter().map(|m| (m.id, m.hash)));
            return Position::None;
        }
        let knew = !self.known.is_empty() || !self.recent.is_empty();
        self.session += 1;
        self.known.clear();
        self.recent.clear();
        self.since_renewal = 0;
        if knew { Position::Messages { session: self.session, ids: Vec::new() } } else { Position::None }
    }

    /// Whether a message marked DUP is one that was taken already. The broker has no acknowledgement of it, so it is one of the newest
    /// again: it may be repeated once more after a table that has started anew meanwhile.
    pub fn recognise(&mut self, message: MessageId) -> bool {
        if self.known.get(&message.id) != Some(&message.hash) {
            return self.recent.iter().rev().any(|m| *m == message);
        }
        self.known.remove(&message.id);
        self.keep(message);
        true
    }

    fn keep(&mut self, message: MessageId) {
        if self.recent.len() >= self.remembered_max {
            self.recent.pop_front();
        }
        self.recent.push_back(message);
    }

    /// A message was taken.
    #[inline]
    pub fn remember(&mut self, message: MessageId) {
        self.keep(message);
        self.since_renewal += 1;
        if !self.known.is_empty() {
            // Its id has come round: the old one is acknowledged.
            self.known.remove(&message.id);
        }
    }

    /// The position of a batch that holds `messages`, all of them remembered before.
    pub fn position(&mut self, messages: Vec<MessageId>) -> Position {
        if messages.is_empty() {
            return Position::None;
        }
        if self.since_renewal < RENEW_AFTER {
            return Position::Messages { session: self.session, ids: messages };
        }
        self.session += 1;
        self.since_renewal = self.recent.len();
        self.known.clear();
        Position::Messages { session: self.session, ids: self.recent.iter().copied().collect() }
    }
}

/// Hash of topic and payload: the same on every machine.
#[inline]
pub fn hash(topic: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(topic), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u16, hash: u32) -> MessageId {
        MessageId { id, hash }
    }

    fn take(table: &mut Redelivery, messages: &[MessageId]) -> Position {
        messages.iter().for_each(|m| table.remember(*m));
        table.position(messages.to_vec())
    }

    #[test]
    fn a_recorded_message_is_known_after_a_restart() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(false);
        resume.apply(&take(&mut table, &[message(1, 10), message(2, 20)]));
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(true);
        assert!(table.recognise(message(2, 20)));
        assert!(!table.recognise(message(2, 21)), "another payload under the same id");
        assert!(!table.recognise(message(3, 10)));
    }

    #[test]
    fn a_session_the_broker_has_forgotten_empties_the_table() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(false);
        resume.apply(&take(&mut table, &[message(1, 10)]));
        table.connected(false);
        assert!(!table.recognise(message(1, 10)));
        resume.apply(&take(&mut table, &[message(7, 70)]));
        assert_eq!(resume.messages.len(), 1);
    }

    #[test]
    fn a_new_session_is_told_before_its_first_message() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume, 1000);
        assert_eq!(table.connected(false), Position::None, "there is nothing to forget");
        resume.apply(&take(&mut table, &[message(1, 10)]));
        assert_eq!(table.connected(true), Position::None);
        resume.apply(&table.connected(false));
        // A crash before anything of the new session is recorded: the broker repeats its first message, the same as the old one.
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(true);
        assert!(!table.recognise(message(1, 10)));
    }

    #[test]
    fn ids_that_come_round_are_not_taken_for_old_ones() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(false);
        // The same payload under ids 1..=60 000, recorded in batches.
        for start in (1..60_000_u32).step_by(100) {
            let batch: Vec<_> = (start..start + 100).map(|id| message(id as u16, 42)).collect();
            resume.apply(&take(&mut table, &batch));
        }
        let mut restarted = Redelivery::new(&resume, 1000);
        restarted.connected(true);
        for id in 59_001..=60_000 {
            assert!(restarted.recognise(message(id, 42)), "{id} is in the last window");
        }
        assert!(!restarted.recognise(message(1, 42)), "an id about to be used again is forgotten");
        assert!(resume.messages.len() <= RENEW_AFTER + 4096 + 100);
    }

    #[test]
    fn a_repeated_message_is_known_still_when_the_table_starts_anew_before_its_acknowledgement_arrives() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(false);
        for start in (1..RENEW_AFTER as u32 - 100).step_by(100) {
            let batch: Vec<_> = (start..start + 100).map(|id| message(id as u16, id)).collect();
            resume.apply(&take(&mut table, &batch));
        }
        let last = resume.messages.len() as u32;
        let repeated: Vec<_> = (last - 99..=last).map(|id| message(id as u16, id)).collect();
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(true);
        assert!(repeated.iter().all(|m| table.recognise(*m)));
        let new: Vec<_> = (last + 1..=last + 200).map(|id| message(id as u16, id)).collect();
        let session = resume.session;
        resume.apply(&take(&mut table, &new));
        assert_ne!(resume.session, session, "the table has started anew");
        let again = |table: &mut Redelivery| repeated.iter().chain(&new).all(|m| table.recognise(*m));
        table.connected(true);
        assert!(again(&mut table), "after the connection broke");
        let mut table = Redelivery::new(&resume, 1000);
        table.connected(true);
        assert!(again(&mut table), "after a crash");
    }

    /// A broker with a window of [`WINDOW`], and an agent that dies now and then; numbers are drawn from a seed.
    struct World {
        seed: u64,
        resume: Resume,
        /// Number and id of what the broker has no acknowledgement for.
        in_flight: VecDeque<(u32, u16)>,
        next: u32,
        /// How often each number was recorded.
        recorded: Vec<u8>,
    }

    const WINDOW: usize = 1000;

    /// What is recorded with a batch, its position, and what is acknowledged with it.
    type Taken = (Vec<u32>, Position, Vec<u16>);

    impl World {
        fn below(&mut self, end: u64) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33) % end
        }

        /// One life: takes about so many messages, of which some are durable at its end, and of those some acknowledged.
        fn live(&mut self, messages: u64) {
            let mut table = Redelivery::new(&self.resume, WINDOW);
            table.connected(true);
            let mut repeated: VecDeque<(u32, u16)> = self.in_flight.clone();
            let mut taken = 0;
            let mut batches: VecDeque<Taken> = VecDeque::new();
            while taken < messages {
                let (mut numbers, mut positions, mut ids) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..=self.below(250) {
                    let (number, id, dup) = match repeated.pop_front() {
                        Some((number, id)) => (number, id, true),
                        None if self.in_flight.len() < WINDOW => {
                            let (number, id) = (self.next, (self.next % 65_535 + 1) as u16);
                            self.next += 1;
                            self.in_flight.push_back((number, id));
                            (number, id, false)
                        }
                        None => break,
                    };
                    taken += 1;
                    let message = message(id, number % 7);
                    ids.push(id);
                    if dup && table.recognise(message) {
                        continue;
                    }
                    table.remember(message);
                    numbers.push(number);
                    positions.push(message);
                }
                batches.push_back((numbers, table.position(positions), ids));
                let waiting = self.below(4) as usize;
                while batches.len() > waiting {
                    let acknowledged = self.durable(&mut batches);
                    self.in_flight.retain(|(_, id)| !acknowledged.contains(id));
                }
            }
            // The last ones are durable, and their acknowledgements go under with the agent.
            for _ in 0..self.below(4) {
                if !batches.is_empty() {
                    self.durable(&mut batches);
                }
            }
        }

        fn durable(&mut self, batches: &mut VecDeque<Taken>) -> Vec<u16> {
            let (numbers, position, ids) = batches.pop_front().expect("one waits");
            self.resume.apply(&position);
            self.recorded.resize(self.next as usize, 0);
            numbers.iter().for_each(|n| self.recorded[*n as usize] += 1);
            ids
        }
    }

    #[test]
    fn every_message_is_recorded_once_through_many_lives_and_rounds_of_ids() {
        for seed in 0..4 {
            let resume = Resume::default();
            let mut world = World { seed, resume, in_flight: VecDeque::new(), next: 0, recorded: Vec::new() };
            for life in 0..100 {
                let messages = world.below(4000);
                world.live(messages);
                let last = world.in_flight.iter().map(|(number, _)| *number).min().unwrap_or(world.next) as usize;
                assert!(world.recorded.iter().take(last).all(|times| *times == 1), "seed {seed}, life {life}");
                assert!(world.recorded.iter().all(|times| *times <= 1), "seed {seed}, life {life}");
            }
        }
    }
}
