//! The outbox: results that could not be delivered yet, in append-only segments of one lane each.
//!
//! A segment that an attempt to append has failed in is closed: what the attempt left is cut off before anything else is written, and the
//! next block begins another. So no checkpoint is ever made beside a segment with a torn end, and no sync is believed after one that failed.

use crate::{
    FoundBlock, Identity, OutboxBlock, OutboxPlace,
    error::StoreError,
    files::{self, Files},
    format::{self, HEADER, Header, OUTBOX},
};

/// Bytes after which a segment is closed: what a full disk costs at a time.
const SEGMENT_BYTES: u64 = 1 << 20;

/// The end of each lane, as a checkpoint knows it: segment number and bytes in it.
pub type Ends = [(u64, u64); 2];

/// The outbox of a store.
#[derive(Debug)]
pub struct Outbox {
    store: u64,
    ends: Ends,
    /// Lane, segment and the length it is to be cut to; 0 goes as a whole.
    torn: Vec<(usize, u64, u64)>,
}

fn name(lane: usize, segment: u64) -> String {
    format!("outbox-{lane}-{segment:08}")
}

/// Lane and segment of a file of the outbox.
pub fn parse(name: &str) -> Option<(usize, u64)> {
    let (lane, segment) = name.strip_prefix("outbox-")?.split_once('-')?;
    let lane: usize = lane.parse().ok().filter(|l| *l < 2)?;
    // Another number follows each of ours.
    Some((lane, segment.parse::<u64>().ok().filter(|n| *n < u64::MAX)?))
}

/// Ends behind every segment there is.
fn behind_all(names: &[String]) -> Ends {
    let mut ends = [(0, 0); 2];
    for (lane, segment) in names.iter().filter_map(|name| parse(name)) {
        ends[lane].0 = ends[lane].0.max(segment + 1);
    }
    ends
}

impl Outbox {
    /// Cuts each lane at what the checkpoint knows and lists what is left. `None`: every checkpoint is lost, and all is kept.
    ///
    /// # Errors
    /// When files can't be listed, cut or removed.
    pub fn open<F: Files>(files: &mut F, store: u64, ends: Option<Ends>) -> Result<(Self, Vec<FoundBlock>, u64), StoreError> {
        let ends = match ends {
            Some(ends) => ends,
            None => {
                // A process killed between writing and syncing them leaves blocks that a power cut would take back, when a state relies on them.
                for file in files.list()?.iter().filter(|name| parse(name).is_some()) {
                    files.sync(file)?;
                }
                behind_all(&files.list()?)
            }
        };
        let mut outbox = Self { store, ends, torn: Vec::new() };
        let (mut found, mut damaged) = (Vec::new(), 0);
        let mut whole = ends.map(|(_, end)| end == 0);
        for file in files.list()? {
            let Some((lane, segment)) = parse(&file) else { continue };
            let (last, end) = ends[lane];
            if segment > last || end == 0 && segment == last {
                files.remove(&file)?;
                continue;
            }
            let (mut content, mut readable) = files::read_what_can_be(files, &file);
            if segment == last {
                whole[lane] = content.len() as u64 >= end;
                if content.len() as u64 > end {
                    files.truncate(&file, end)?;
                    files.sync(&file)?;
                    (content, readable) = files::read_what_can_be(files, &file);
                }
            }
            damaged += u64::from(!readable);
            damaged += outbox.scan(lane, segment, &content, &mut found);
        }
        for (lane, whole) in whole.into_iter().enumerate() {
            if !whole {
                // Removed or cut after the checkpoint: a block behind its old end would leave a hole.
                outbox.ends[lane] = (ends[lane].0 + 1, 0);
            }
        }
        Ok((outbox, found, damaged))
    }

    fn scan(&self, lane: usize, segment: u64, content: &[u8], found: &mut Vec<FoundBlock>) -> u64 {
        let (mut at, mut damaged) = (0, 0);
        while at + HEADER <= content.len() {
            let Some(header) = Header::read(OUTBOX, self.store, &content[at..]) else {
                // Without a header the next one has to be looked for.
                damaged += 1;
                let next = (at + 1..content.len()).find(|i| Header::read(OUTBOX, self.store, &content[*i..]).is_some());
                at = next.unwrap_or(content.len());
                continue;
            };
            let place = OutboxPlace { segment, offset: at as u64, bytes: header.length() as u32 };
            let first = Identity { record: header.first, ordinal: header.third as u32 };
            found.push(FoundBlock { lane: lane as u8, place, first, points: header.points });
            at += header.length();
        }
        damaged
    }

    /// Appends blocks and makes them durable. They count once a checkpoint knows of them: then [`Outbox::commit`], else
    /// [`Outbox::withdraw`].
    ///
    /// # Errors
    /// The operating system's; what was written is withdrawn.
    pub fn append<F: Files>(&mut self, files: &mut F, blocks: &[OutboxBlock]) -> Result<(Vec<OutboxPlace>, Ends), StoreError> {
        self.cut(files)?;
        let mut appended = (Vec::with_capacity(blocks.len()), self.ends);
        match self.write(files, blocks, &mut appended) {
            Ok(()) => Ok(appended),
            Err(error) => {
                self.withdraw(files, appended.1);
                Err(error)
            }
        }
    }

    fn write<F: Files>(
        &self,
        files: &mut F,
        blocks: &[OutboxBlock],
        (places, ends): &mut (Vec<OutboxPlace>, Ends),
    ) -> Result<(), StoreError> {
        let mut touched: Vec<String> = Vec::new();
        for block in blocks {
            let lane = usize::from(block.lane.min(1));
            let header = Header {
                lane: block.lane,
                store: self.store,
                first: block.first.record,
                second: block.last.record,
                third: u64::from(block.first.ordinal) | u64::from(block.last.ordinal) << 32,
                points: block.points,
                times: block.times,
                ..Header::default()
            };
            let bytes = format::encode(OUTBOX, header, &block.bytes);
            if ends[lane].1 >= SEGMENT_BYTES {
                ends[lane] = (ends[lane].0 + 1, 0);
            }
            let (segment, offset) = ends[lane];
            // Before it is written: a part of it may be there if that fails.
            ends[lane].1 += bytes.len() as u64;
            let file = name(lane, segment);
            files.write_at(&file, offset, &bytes)?;
            if !touched.contains(&file) {
                touched.push(file);
            }
            places.push(OutboxPlace { segment, offset, bytes: bytes.len() as u32 });
        }
        for file in &touched {
            files.sync(file)?;
        }
        if !touched.is_empty() {
            files.sync_names()?;
        }
        Ok(())
    }

    /// A checkpoint that knows these ends may be found by the next start.
    pub fn commit(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// What was appended up to these ends belongs to no checkpoint, and none will be found that knows of it.
    pub fn withdraw<F: Files>(&mut self, files: &mut F, ends: Ends) {
        for (lane, (last, end)) in ends.into_iter().enumerate() {
            let (first, kept) = self.ends[lane];
            if (last, end) == (first, kept) {
                continue;
            }
            self.torn.extend((first..=last).map(|segment| (lane, segment, if segment == first { kept } else { 0 })));
            self.ends[lane] = (last + 1, 0);
        }
        // At once, for its room; what fails is tried again before the next block is written.
        let _ = self.cut(files);
    }

    fn cut<F: Files>(&mut self, files: &mut F) -> Result<(), StoreError> {
        if self.torn.is_empty() {
            return Ok(());
        }
        for (lane, segment, length) in &self.torn {
            let file = name(*lane, *segment);
            if *length == 0 {
                files.remove(&file)?;
            } else {
                files.truncate(&file, *length)?;
                files.sync(&file)?;
            }
        }
        files.sync_names()?;
        self.torn.clear();
        Ok(())
    }

    /// Removes segments below these numbers; the one being written stays.
    ///
    /// # Errors
    /// The operating system's.
    pub fn free<F: Files>(&mut self, files: &mut F, below: [u64; 2]) -> Result<(), StoreError> {
        for file in files.list()? {
            let Some((lane, segment)) = parse(&file) else { continue };
            if segment < below[lane] && segment < self.ends[lane].0 {
                files.remove(&file)?;
                self.torn.retain(|(l, s, _)| (*l, *s) != (lane, segment));
            } else if segment == self.ends[lane].0 && below[lane] == u64::MAX && self.ends[lane].1 > 0 {
                // Nothing in it is needed: the next block begins a new one.
                files.remove(&file)?;
                self.ends[lane] = (segment + 1, 0);
            }
        }
        Ok(())
    }

    /// The payload of a block, `None` when it is damaged or gone.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read<F: Files>(&self, files: &mut F, lane: u8, place: OutboxPlace) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = match files.read_at(&name(usize::from(lane), place.segment), place.offset, place.bytes as usize) {
            Err(error) if error.is_not_found() => return Ok(None),
            bytes => bytes?,
        };
        Ok(Header::read(OUTBOX, self.store, &bytes).and_then(|h| h.payload(&bytes)))
    }
}
