//! Which messages the broker may send again, and which of them were recorded already.
//!
//! After a reconnection the broker repeats what it has no acknowledgement for, marked DUP. The rule is: DUP, packet id known, and the
//! hash of topic and payload equal ⇒ a duplicate.
//!
//! How much it may repeat does not follow from the window it was given: a broker may send far more than that (mosquitto before 2.0.13 sends
//! a window more for each acknowledgement while messages wait), and acknowledgements that it has not read when the connection breaks, it
//! never reads. So it is bounded here: pings, which are answered in their turn, tell which acknowledgements it has read, and when
//! [`UNREAD_MAX`] are in doubt nothing more is taken on that connection. All of those are remembered.
//!
//! Packet ids come round after 65 535 messages, so an id must be forgotten in time or a new message with the same payload would look like an
//! old one: messages are remembered in generations, the position says when another begins, and only the first [`REPEATED_MAX`] messages of
//! a connection can be repeated ones, as a broker keeps their order.

use weir_plugin_api::position::{MESSAGE_GENERATIONS, MessageId, Position, Resume};

/// Messages of a generation.
const GENERATION: u32 = 8192;
/// Messages at the beginning of a connection among which there may be repeated ones: so many are remembered at least.
const REPEATED_MAX: u32 = GENERATION * (MESSAGE_GENERATIONS as u32 - 1);
/// And so many at most.
const REMEMBERED_MAX: u32 = GENERATION * MESSAGE_GENERATIONS as u32;
/// Messages taken whose acknowledgement the broker may not have read, at most.
pub const UNREAD_MAX: u64 = REPEATED_MAX as u64 - 512;
/// The largest window for which a broker that keeps to it never gets there.
pub const WINDOW_MAX: u16 = GENERATION as u16;
/// Packet ids, with the one that is none.
const IDS: usize = 1 << 16;

/// The last message under an id.
#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// Number of the message among all that were taken; 0: there was none.
    number: u32,
}

/// The table of one input.
pub struct Redelivery {
    session: u64,
    slots: Vec<Slot>,
    /// Number of the newest message; it may come round.
    number: u32,
    /// Messages of the newest generation.
    newest: u32,
    /// Messages of this connection, the repeated ones too.
    connection: u32,
}

impl Redelivery {
    /// The table as it was recorded.
    pub fn new(resume: &Resume) -> Self {
        let newest = resume.messages.newest() as u32;
        let mut table = Self { session: resume.session, slots: vec![Slot::default(); IDS], number: 0, newest, connection: 0 };
        for (id, hash) in resume.messages.generations().flatten() {
            table.keep(MessageId { id: *id, hash: *hash });
        }
        table
    }

    /// A connection stands; the broker does or does not remember our session. The position is what the journal must hold before anything
    /// of a new session may come: its ids begin anew, and after a crash a message could be taken for one of the old session.
    pub fn connected(&mut self, session_present: bool) -> Position {
        self.connection = 0;
        if session_present {
            return Position::None;
        }
        let knew = self.number > 0;
        self.session = ((self.session >> 32) + 1) << 32;
        self.slots.fill(Slot::default());
        (self.number, self.newest) = (0, 0);
        if knew { Position::Messages { session: self.session, ids: Vec::new() } } else { Position::None }
    }

    /// Whether a message marked DUP is one that was taken already.
    pub fn recognise(&mut self, message: MessageId) -> bool {
        let Slot { hash, number } = self.slots[usize::from(message.id)];
        let remembered = number > 0 && self.number.wrapping_sub(number) < REMEMBERED_MAX;
        let known = remembered && hash == message.hash && self.connection < REPEATED_MAX;
        self.connection += u32::from(known);
        known
    }

    /// A message was taken.
    #[inline]
    pub fn remember(&mut self, message: MessageId) {
        self.keep(message);
        self.newest = self.newest.saturating_add(1);
        self.connection = self.connection.saturating_add(1);
    }

    #[inline]
    fn keep(&mut self, message: MessageId) {
        self.number = self.number.wrapping_add(1).max(1);
        self.slots[usize::from(message.id)] = Slot { hash: message.hash, number: self.number };
    }

    /// The position of a batch that holds `messages`, all of them remembered before.
    pub fn position(&mut self, messages: Vec<MessageId>) -> Position {
        if messages.is_empty() {
            return Position::None;
        }
        if self.newest >= GENERATION {
            // They are the first of another one.
            self.session += 1;
            self.newest = messages.len() as u32;
        }
        Position::Messages { session: self.session, ids: messages }
    }
}

/// Hash of topic and payload: the same on every machine.
#[inline]
pub fn hash(topic: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(topic), payload)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

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
        let mut table = Redelivery::new(&resume);
        table.connected(false);
        resume.apply(&take(&mut table, &[message(1, 10), message(2, 20)]));
        let mut table = Redelivery::new(&resume);
        table.connected(true);
        assert!(table.recognise(message(2, 20)));
        assert!(!table.recognise(message(2, 21)), "another payload under the same id");
        assert!(!table.recognise(message(3, 10)));
    }

    #[test]
    fn a_session_the_broker_has_forgotten_empties_the_table() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume);
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
        let mut table = Redelivery::new(&resume);
        assert_eq!(table.connected(false), Position::None, "there is nothing to forget");
        resume.apply(&take(&mut table, &[message(1, 10)]));
        assert_eq!(table.connected(true), Position::None);
        resume.apply(&table.connected(false));
        // A crash before anything of the new session is recorded: the broker repeats its first message, the same as the old one.
        let mut table = Redelivery::new(&resume);
        table.connected(true);
        assert!(!table.recognise(message(1, 10)));
    }

    #[test]
    fn ids_that_come_round_are_not_taken_for_old_ones() {
        let mut resume = Resume::default();
        let mut table = Redelivery::new(&resume);
        table.connected(false);
        // The same payload under ids 1..=60 000, recorded in batches.
        for start in (1..60_000_u32).step_by(100) {
            let batch: Vec<_> = (start..start + 100).map(|id| message(id as u16, 42)).collect();
            resume.apply(&take(&mut table, &batch));
        }
        let mut restarted = Redelivery::new(&resume);
        restarted.connected(true);
        for id in 59_001..=60_000 {
            assert!(restarted.recognise(message(id, 42)), "{id} is in the last window");
        }
        assert!(!restarted.recognise(message(1, 42)), "an id about to be used again is forgotten");
        assert!(resume.messages.len() as u32 <= REMEMBERED_MAX + 400);
    }

    /// A broker that sends far ahead of what is acknowledged and reads acknowledgements late, and an agent that dies now and then; numbers
    /// are drawn from a seed.
    struct World {
        seed: u64,
        resume: Resume,
        /// Number and id of what the broker has read no acknowledgement for, and how many of them it has sent before.
        in_flight: VecDeque<(u32, u16)>,
        sent: usize,
        next: u32,
        /// How often each number was recorded.
        recorded: Vec<u8>,
    }

    /// Messages the broker has on their way at once, at most: as many as it has ids for, nearly.
    const AHEAD: usize = 65_000;

    /// An agent with a connection.
    struct Life {
        table: Redelivery,
        /// What was handed over and is not durable: numbers, position, messages to acknowledge.
        batches: VecDeque<(Vec<u32>, Position, u64)>,
        /// Of this connection.
        taken: u64,
        read: u64,
        /// Acknowledgements written and not read.
        unread: u64,
    }

    impl World {
        fn below(&mut self, end: u64) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33) % end
        }

        /// One life: takes about so many messages, of which some are durable at its end, and of those some acknowledged.
        fn live(&mut self, messages: u64) {
            let table = Redelivery::new(&self.resume);
            let mut life = Life { table, batches: VecDeque::new(), taken: 0, read: 0, unread: 0 };
            self.connect(&mut life);
            let mut left = messages;
            while left > 0 {
                if life.taken - life.read >= UNREAD_MAX {
                    // It begins anew when everything is durable, and every acknowledgement read.
                    while !life.batches.is_empty() {
                        self.durable(&mut life);
                    }
                    self.read(&mut life, u64::MAX);
                    self.connect(&mut life);
                }
                left = left.saturating_sub(self.batch(&mut life));
                let waiting = self.below(4) as usize;
                while life.batches.len() > waiting {
                    self.durable(&mut life);
                }
                if self.below(40) == 0 {
                    let some = self.below(1500);
                    self.read(&mut life, some);
                }
            }
            // The last ones are durable, and their acknowledgements go under with the agent.
            for _ in 0..self.below(4) {
                if !life.batches.is_empty() {
                    self.durable(&mut life);
                }
            }
        }

        fn connect(&mut self, life: &mut Life) {
            life.table.connected(true);
            self.sent = self.in_flight.len();
            (life.taken, life.read, life.unread) = (0, 0, 0);
        }

        /// Takes up to 250 messages; how many.
        fn batch(&mut self, life: &mut Life) -> u64 {
            let (mut numbers, mut positions) = (Vec::new(), Vec::new());
            let most = (1 + self.below(250)).min(UNREAD_MAX - (life.taken - life.read));
            for _ in 0..most {
                let at = (life.taken - life.read) as usize;
                if at == self.in_flight.len() {
                    self.in_flight.push_back((self.next, (self.next % 65_535 + 1) as u16));
                    self.next += 1;
                }
                let ((number, id), dup) = (self.in_flight[at], at < self.sent);
                life.taken += 1;
                let message = message(id, number % 7);
                if dup && life.table.recognise(message) {
                    continue;
                }
                life.table.remember(message);
                numbers.push(number);
                positions.push(message);
            }
            // The broker has sent far more than was taken.
            while self.in_flight.len() < AHEAD {
                self.in_flight.push_back((self.next, (self.next % 65_535 + 1) as u16));
                self.next += 1;
            }
            life.batches.push_back((numbers, life.table.position(positions), most));
            most
        }

        fn durable(&mut self, life: &mut Life) {
            let (numbers, position, taken) = life.batches.pop_front().expect("one waits");
            self.resume.apply(&position);
            self.recorded.resize(self.next as usize, 0);
            numbers.iter().for_each(|n| self.recorded[*n as usize] += 1);
            life.unread += taken;
        }

        fn read(&mut self, life: &mut Life, most: u64) {
            let read = life.unread.min(most);
            life.unread -= read;
            life.read += read;
            self.in_flight.drain(..read as usize);
            self.sent = self.sent.saturating_sub(read as usize);
        }
    }

    #[test]
    fn every_message_is_recorded_once_through_many_lives_and_rounds_of_ids() {
        for seed in 0..4 {
            let mut world = World { seed, resume: Resume::default(), in_flight: VecDeque::new(), sent: 0, next: 0, recorded: Vec::new() };
            for life in 0..60 {
                let most = if world.below(4) == 0 { 100_000 } else { 4000 };
                let messages = world.below(most);
                world.live(messages);
                let last = world.in_flight.front().map_or(world.next, |(number, _)| *number) as usize;
                assert!(world.recorded.iter().take(last).all(|times| *times == 1), "seed {seed}, life {life}");
                assert!(world.recorded.iter().all(|times| *times <= 1), "seed {seed}, life {life}");
            }
            assert!(world.next > 3 * 65_535, "ids have come round: {}", world.next);
        }
    }
}
