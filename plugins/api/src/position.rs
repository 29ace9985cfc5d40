//! Where a batch came from, so that a source can go on exactly there after a crash, and what all recorded batches add up to.

use std::collections::{BTreeMap, VecDeque};

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
    /// MQTT QoS 1 messages of this batch; `session` changes when the broker has forgotten ours, which clears the table.
    Messages {
        /// Number of the broker session, counted by the input.
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
    /// Broker session the table belongs to.
    pub session: u64,
    /// Packet id → hash of the last message recorded under it.
    pub messages: BTreeMap<u16, u32>,
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

/// Idempotency keys remembered per input.
pub const KEYS_MAX: usize = 4096;
/// Files remembered per input, more than one can follow: those that were rotated away are among them. The one longest untouched goes first.
pub const FILES_MAX: usize = 8192;

impl Resume {
    /// Files in the order they were touched, the oldest first: in which they are to be given to [`Resume::touch`] again.
    pub fn files_by_touch(&self) -> impl Iterator<Item = &FilePosition> {
        self.touched.iter().filter_map(|file| self.files.get(file))
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
                if *session != self.session {
                    self.session = *session;
                    self.messages.clear();
                }
                self.messages.extend(ids.iter().map(|m| (m.id, m.hash)));
            }
            Position::Files(files) => {
                files.iter().for_each(|file| self.touch(file.clone()));
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
