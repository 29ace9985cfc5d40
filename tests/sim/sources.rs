//! What inputs read from: sources that send again, in another order and twice, and lose acknowledgements; and the part of an input that
//! tells what is new.

use std::collections::{BTreeSet, VecDeque};

use weir_plugin_api::{Batch, InputCounts, Position, Resume};

use super::{
    plan::Bug,
    world::{self, BROKER_WINDOW, Kind, Random, Readings},
};

/// A batch that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its number, increasing.
    pub number: u64,
    /// The input.
    pub input: usize,
    /// Which of its items.
    pub item: usize,
    /// Whether it was new, as the input saw it; one that leaves it to `dedup` takes everything for new.
    pub fresh: bool,
    /// Points read.
    pub read: u64,
    /// The item the session or the boot began with that it was sent in.
    pub base: usize,
}

/// One source and the input that reads from it.
#[derive(Debug)]
pub struct Source {
    input: usize,
    kind: Kind,
    readings: Readings,
    /// Items there are.
    items: usize,
    /// The next one that was never sent.
    next: usize,
    /// Sent and, as far as the source knows, not taken.
    unacknowledged: BTreeSet<usize>,
    /// To be sent again.
    again: VecDeque<usize>,
    /// Acknowledgements the source has not seen yet.
    on_the_way: Vec<usize>,
    /// What the input has taken: dies with it and comes back from the core.
    known: Resume,
    announced: bool,
    /// The item this session of the broker, or this boot of the device, began with.
    base: usize,
    /// Items that went with a session or a boot: nobody has them any more.
    pub lost: BTreeSet<usize>,
    /// Takes a redelivery for something new, or a new session for the old one: planted bugs.
    bug: Option<Bug>,
}

impl Source {
    /// A source with this many items.
    pub fn new(input: usize, readings: Readings, items: usize, bug: Option<Bug>) -> Self {
        Self {
            input,
            kind: world::kind(input),
            readings,
            items,
            next: 0,
            unacknowledged: BTreeSet::new(),
            again: VecDeque::new(),
            on_the_way: Vec::new(),
            known: Resume::default(),
            announced: false,
            base: 0,
            lost: BTreeSet::new(),
            bug,
        }
    }

    /// Whether every item was sent and taken at least once.
    pub fn is_exhausted(&self) -> bool {
        match self.kind {
            Kind::File => self.file_offset() >= self.items,
            Kind::Log => (0..self.items).all(|item| self.is_known(item)),
            Kind::Polled => self.next >= self.items,
            Kind::Broker | Kind::Frames | Kind::Keyed => self.next >= self.items && self.unacknowledged.is_empty(),
        }
    }

    /// The agent starts, and this is where it stood.
    pub fn restart(&mut self, resume: &Resume, random: &mut Random) {
        self.known = resume.clone();
        self.announced = false;
        self.reconnect(random);
    }

    /// The broker has forgotten the session, or the device restarts: what was not acknowledged is gone, and numbers begin anew.
    pub fn forget(&mut self, random: &mut Random) {
        if !matches!(self.kind, Kind::Broker | Kind::Frames) {
            return;
        }
        self.lost.extend(&self.unacknowledged);
        self.unacknowledged.clear();
        self.base = self.next;
        self.reconnect(random);
    }

    /// The connection breaks: acknowledgements on their way are lost, what was not acknowledged is sent again.
    pub fn reconnect(&mut self, random: &mut Random) {
        self.on_the_way.clear();
        let session = world::session(self.readings.seed, self.base);
        if self.kind == Kind::Broker && self.known.session != session && self.bug != Some(Bug::SessionKept) {
            // The broker says that it knows of no session.
            self.known.messages.clear();
        }
        self.again = self.unacknowledged.iter().copied().collect();
        // A broker keeps the order; clients each ask for themselves, and a bad line mixes frames up.
        let mixes = matches!(self.kind, Kind::Keyed | Kind::Frames);
        if mixes && self.again.len() > 1 && random.once_in(2) {
            let (a, b) = (random.below(self.again.len() as u64) as usize, random.below(self.again.len() as u64) as usize);
            self.again.swap(a, b);
        }
    }

    /// The source has been told of what is on its way.
    pub fn arrive(&mut self) {
        for item in self.on_the_way.drain(..) {
            self.unacknowledged.remove(&item);
        }
    }

    /// The core says that an item is safe.
    pub fn acknowledge(&mut self, item: usize) {
        if self.unacknowledged.contains(&item) {
            self.on_the_way.push(item);
        }
    }

    /// What the input makes of what comes next, if anything does.
    pub fn take(&mut self, number: u64, steady: i64, random: &mut Random) -> Option<(Taken, Batch)> {
        let (item, again) = self.send(random)?;
        let mut batch = world::batch(self.readings, self.input, item, self.base, steady);
        let read = batch.counts.read;
        let leaves = self.readings.leaves_to_dedup(self.input);
        let known = (again || self.bug == Some(Bug::SessionKept)) && self.is_known(item) && !leaves;
        if self.kind == Kind::Frames && !known && !self.is_next_frame(item) {
            // The device will send it again in its turn.
            return None;
        }
        let fresh = !known || self.bug == Some(Bug::RedeliveryCounted);
        if fresh {
            self.known.apply(&batch.position);
            if !std::mem::replace(&mut self.announced, true) {
                world::names(self.input, &mut batch);
            }
        } else {
            batch = Batch {
                position: Position::None,
                counts: InputCounts { read, duplicate: read, ..InputCounts::default() },
                ..Batch::default()
            };
        }
        batch.number = number;
        Some((Taken { number, input: self.input, item, fresh, read, base: self.base }, batch))
    }

    /// The next item on the wire, and whether it may have been there before.
    fn send(&mut self, random: &mut Random) -> Option<(usize, bool)> {
        let window = match self.kind {
            Kind::File => return Some((self.file_offset(), false)).filter(|(item, _)| *item < self.items),
            Kind::Polled => {
                if self.readings.leaves_to_dedup(self.input) && self.next > 0 && random.once_in(3) {
                    // Once more, of late or of long ago.
                    let said = self.next.min(self.items);
                    let back = [8, said as u64][random.below(2) as usize].min(said as u64);
                    return Some((said - 1 - random.below(back) as usize, false));
                }
                self.next += 1;
                return Some((self.next - 1, false)).filter(|(item, _)| *item < self.items);
            }
            Kind::Log => {
                let partition = random.below(2) as usize;
                let item = (0..self.items).skip(partition).step_by(2).find(|item| !self.is_known(*item))?;
                return Some((item, false));
            }
            Kind::Broker => BROKER_WINDOW,
            Kind::Frames => 6,
            Kind::Keyed => 4,
        };
        if let Some(item) = self.again.pop_front() {
            if self.kind == Kind::Frames && random.once_in(8) {
                // Twice, perhaps late.
                self.again.push_back(item);
            }
            return Some((item, true));
        }
        let fresh = self.next < self.items && self.unacknowledged.len() < window;
        if fresh {
            self.next += 1;
            self.unacknowledged.insert(self.next - 1);
            // What a bad line loses is sent again like the rest.
            return if self.kind == Kind::Frames && random.once_in(10) { None } else { Some((self.next - 1, self.kind == Kind::Frames)) };
        }
        if self.kind != Kind::Broker && random.once_in(20) {
            // Waited long enough.
            self.reconnect(random);
        }
        None
    }

    fn file_offset(&self) -> usize {
        self.known.files.values().next().map_or(0, |f| f.offset as usize)
    }

    /// Whether nothing is missing before it that the device could still send: after damage something may be.
    fn is_next_frame(&self, item: usize) -> bool {
        self.last_sequence() == (item - self.base) as u64 || self.unacknowledged.first() == Some(&item)
    }

    /// The last frame of this boot of the device that is known, from 1 on.
    fn last_sequence(&self) -> u64 {
        let nonce = world::epoch(self.readings.seed, self.base);
        self.known.sequence.filter(|(n, _)| *n == nonce).map_or(0, |(_, sequence)| sequence)
    }

    /// Whether the input recognises an item that may have been sent before.
    fn is_known(&self, item: usize) -> bool {
        match self.kind {
            Kind::Broker => {
                let message = world::message(item, self.base);
                self.known.messages.get(message.id) == Some(message.hash)
            }
            Kind::Frames => ((item - self.base) as u64) < self.last_sequence(),
            Kind::Keyed => self.known.keys.contains(&world::key(item)),
            Kind::Log => {
                let (partition, offset) = world::offset(item);
                self.known.offsets.get(&partition).is_some_and(|next| *next > offset)
            }
            Kind::File | Kind::Polled => false,
        }
    }
}
