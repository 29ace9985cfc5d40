//! Where a batch came from, so that a source can go on exactly there after a crash, and what all recorded batches add up to.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// One MQTT message as the broker may send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId {
    /// Packet id.
    pub id: u16,
    /// Hash of topic and payload.
    pub hash: u32,
}

/// What a record says of its source, kept in the journal with the readings themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// The source cannot repeat itself.
    #[default]
    None,
    /// MQTT QoS 1 messages of this batch.
    Messages {
        /// In the upper half the number of the broker session, counted by the input: another one, or a position without messages, clears
        /// the table, as the broker has forgotten ours. In the lower half that of the table's generation: see [`MessageTable`].
        session: u64,
        /// Messages of this batch.
        ids: Vec<MessageId>,
    },
    /// Byte offsets after the last whole record of each file that this batch read from.
    Files(Vec<FilePosition>),
    /// Frames of the microcontroller protocol: everything up to `sequence` since its boot `nonce`, per device.
    Sequence {
        /// Random number the device drew at its boot.
        nonce: u64,
        /// Last sequence number in the batch.
        sequence: u64,
    },
    /// Kafka offsets to resume at: (topic/partition, next offset).
    Offsets(Vec<(String, u64)>),
    /// Idempotency keys of requests in this batch.
    Keys(Vec<String>),
}

/// How far one file has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// Path as configured or matched.
    pub path: String,
    /// Device and inode, so that a rotated file is recognised.
    pub file: (u64, u64),
    /// Bytes consumed.
    pub offset: u64,
    /// CRC-32C of up to the first 1024 bytes consumed: a recycled inode with other content is another file.
    pub head: u32,
}

/// All positions of one input folded together: what it is told at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Broker session the table belongs to, and the newest generation in it.
    pub session: u64,
    /// Messages the broker may repeat.
    pub messages: MessageTable,
    /// Device and inode → how far it was read.
    pub files: BTreeMap<(u64, u64), FilePosition>,
    /// The same files, the one longest untouched first.
    pub touched: VecDeque<(u64, u64)>,
    /// Boot nonce and last sequence of a microcontroller.
    pub sequence: Option<(u64, u64)>,
    /// Kafka topic/partition → next offset.
    pub offsets: BTreeMap<String, u64>,
    /// The newest idempotency keys, oldest first.
    pub keys: Vec<String>,
}

/// Generations of messages that are kept.
pub const MESSAGE_GENERATIONS: usize = 4;

/// Messages that were recorded, in generations: when another begins, the oldest is forgotten. So ids that come round are forgotten in time,
/// and nothing has to be written again for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageTable {
    /// Packet id → hash of the last message recorded under it, the newest generation last.
    generations: VecDeque<BTreeMap<u16, u32>>,
}

impl MessageTable {
    /// Hash of the last message recorded under this id.
    pub fn get(&self, id: u16) -> Option<u32> {
        self.generations.iter().rev().find_map(|generation| generation.get(&id)).copied()
    }

    /// A message was recorded.
    pub fn insert(&mut self, message: MessageId) {
        if self.generations.is_empty() {
            self.begin();
        }
        if let Some(newest) = self.generations.back_mut() {
            newest.insert(message.id, message.hash);
        }
    }

    /// Another generation begins.
    pub fn begin(&mut self) {
        if self.generations.len() >= MESSAGE_GENERATIONS {
            self.generations.pop_front();
        }
        self.generations.push_back(BTreeMap::new());
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.generations.clear();
    }

    /// Messages of each generation, the oldest first; an id may be in several.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = &BTreeMap<u16, u32>> {
        self.generations.iter()
    }

    /// Messages of the newest generation.
    pub fn newest(&self) -> usize {
        self.generations.back().map_or(0, BTreeMap::len)
    }

    /// Messages of all generations.
    pub fn len(&self) -> usize {
        self.generations.iter().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Idempotency keys remembered per input.
pub const KEYS_MAX: usize = 4096;
/// Files remembered per input, more than one can follow: those that were rotated away are among them. The one longest untouched goes first.
pub const FILES_MAX: usize = 8192;

impl Resume {
    /// Files in the order they were touched, the oldest first: in which they are to be given to [`Resume::touch`] again.
    pub fn files_by_touch(&self) -> impl Iterator<Item = &FilePosition> {
        self.touched.iter().filter_map(|file| self.files.get(file))
    }

    /// A file is read that was not known: what was known of it on another device, as which its file system was mounted before, is forgotten.
    /// It may be that device again one day, and the position would be an old one.
    fn forget_other_devices(&mut self, file: &FilePosition) {
        if self.files.contains_key(&file.file) {
            return;
        }
        let mut next = self.files.keys().next().copied();
        while let Some((device, _)) = next {
            let same = (device, file.file.1);
            if self.files.get(&same).is_some_and(|known| known.path == file.path) {
                self.files.remove(&same);
                self.touched.retain(|id| *id != same);
            }
            next = self.files.range((Bound::Excluded((device, u64::MAX)), Bound::Unbounded)).next().map(|(id, _)| *id);
        }
    }

    /// A file was read up to a new position.
    pub fn touch(&mut self, file: FilePosition) {
        if self.touched.back() != Some(&file.file) {
            if self.files.contains_key(&file.file) {
                self.touched.retain(|known| *known != file.file);
            }
            self.touched.push_back(file.file);
        }
        self.files.insert(file.file, file);
        if self.touched.len() > FILES_MAX
            && let Some(oldest) = self.touched.pop_front()
        {
            self.files.remove(&oldest);
        }
    }

    /// Folds one record's position in.
    pub fn apply(&mut self, position: &Position) {
        match position {
            Position::None => {}
            Position::Messages { session, ids } => {
                if ids.is_empty() || *session >> 32 != self.session >> 32 {
                    self.messages.clear();
                } else if *session != self.session {
                    self.messages.begin();
                }
                self.session = *session;
                ids.iter().for_each(|message| self.messages.insert(*message));
            }
            Position::Files(files) => {
                for file in files {
                    self.forget_other_devices(file);
                    self.touch(file.clone());
                }
            }
            Position::Sequence { nonce, sequence } => self.sequence = Some((*nonce, *sequence)),
            Position::Offsets(offsets) => self.offsets.extend(offsets.iter().cloned()),
            Position::Keys(keys) => {
                self.keys.extend(keys.iter().cloned());
                let surplus = self.keys.len().saturating_sub(KEYS_MAX);
                self.keys.drain(..surplus);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_forgotten_by_generations_and_with_their_session() {
        let mut resume = Resume::default();
        let take =
            |resume: &mut Resume, session, id| resume.apply(&Position::Messages { session, ids: vec![MessageId { id, hash: id.into() }] });
        for generation in 1..=5 {
            take(&mut resume, 1 << 32 | u64::from(generation), generation);
        }
        let known: Vec<_> = (1..=5).filter(|id| resume.messages.get(*id).is_some()).collect();
        assert_eq!(known, [2, 3, 4, 5], "the oldest of more than {MESSAGE_GENERATIONS} is gone");
        let mut told = resume.clone();
        told.apply(&Position::Messages { session: 2 << 32, ids: Vec::new() });
        assert!(told.messages.is_empty(), "the broker has forgotten the session");
        take(&mut resume, 2 << 32, 9);
        assert_eq!(resume.messages.len(), 1, "the same, told with its first message");
    }

    #[test]
    fn a_file_whose_device_has_another_number_is_known_once() {
        let file = |device, offset| FilePosition { path: "log".into(), file: (device, 9), offset, head: 0 };
        let mut resume = Resume::default();
        for (device, offset) in [(1, 10), (2, 20), (1, 30)] {
            resume.apply(&Position::Files(vec![file(device, offset)]));
        }
        assert_eq!(resume.files.into_values().collect::<Vec<_>>(), [file(1, 30)]);
        assert_eq!(resume.touched, [(1, 9)]);
    }

    #[test]
    fn the_file_that_is_read_is_never_the_one_that_is_forgotten() {
        let file = |inode, offset| FilePosition { path: "log".into(), file: (1, inode), offset, head: 0 };
        let mut resume = Resume::default();
        // The lowest inode of all belongs to the file that goes on growing while others come and are rotated away.
        for n in 0..3 * FILES_MAX as u64 {
            resume.apply(&Position::Files(vec![file(1, n), file(2 + n, 5)]));
        }
        assert_eq!(resume.files.len(), FILES_MAX);
        assert_eq!(resume.files[&(1, 1)].offset, 3 * FILES_MAX as u64 - 1);
        let newest: Vec<u64> = resume.files_by_touch().map(|f| f.file.1).collect();
        assert_eq!((newest.len(), newest[FILES_MAX - 1]), (FILES_MAX, 3 * FILES_MAX as u64 + 1));
        let mut again = Resume::default();
        resume.files_by_touch().for_each(|file| again.touch(file.clone()));
        assert_eq!(again, resume, "the order survives a checkpoint");
    }
}
