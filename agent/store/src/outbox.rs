//! The outbox: results that could not be delivered yet, in append-only segments of one lane each.

use crate::{
    FoundBlock, Identity, OutboxBlock, OutboxPlace,
    error::StoreError,
    files::Files,
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
}

fn name(lane: usize, segment: u64) -> String {
    format!("outbox-{lane}-{segment:08}")
}

/// Lane and segment of a file of the outbox.
pub fn parse(name: &str) -> Option<(usize, u64)> {
    let (lane, segment) = name.strip_prefix("outbox-")?.split_once('-')?;
    let lane: usize = lane.parse().ok().filter(|l| *l < 2)?;
    Some((lane, segment.parse().ok()?))
}

impl Outbox {
    /// Cuts each lane at what the checkpoint knows and lists what is left.
    ///
    /// # Errors
    /// When files can't be read, cut or removed.
    pub fn open<F: Files>(files: &mut F, store: u64, mut ends: Ends) -> Result<(Self, Vec<FoundBlock>, u64), StoreError> {
        let (mut found, mut damaged) = (Vec::new(), 0);
        let names = files.list()?;
        for (lane, (last, end)) in ends.iter_mut().enumerate() {
            if *end > 0 && !names.contains(&name(lane, *last)) {
                // It was removed after the checkpoint: a block behind its old end would leave a hole.
                (*last, *end) = (*last + 1, 0);
            }
        }
        for file in names {
            let Some((lane, segment)) = parse(&file) else { continue };
            let (last, end) = ends[lane];
            if segment > last || end == 0 && segment == last {
                files.remove(&file)?;
                continue;
            }
            if segment == last {
                files.truncate(&file, end)?;
            }
            let content = files.read(&file)?;
            let mut at = 0;
            while at + HEADER <= content.len() {
                let Some(header) = Header::read(OUTBOX, store, &content[at..]) else {
                    // Without a header the next one has to be looked for.
                    damaged += 1;
                    let next = (at + 1..content.len()).find(|i| Header::read(OUTBOX, store, &content[*i..]).is_some());
                    at = next.unwrap_or(content.len());
                    continue;
                };
                let place = OutboxPlace { segment, offset: at as u64, bytes: header.length() as u32 };
                let first = Identity { record: header.first, ordinal: header.third as u32 };
                found.push(FoundBlock { lane: lane as u8, place, first });
                at += header.length();
            }
        }
        Ok((Self { store, ends }, found, damaged))
    }

    /// Appends blocks and makes them durable.
    ///
    /// # Errors
    /// The operating system's; what was written is cut off at the next try.
    pub fn append<F: Files>(&mut self, files: &mut F, blocks: &[OutboxBlock]) -> Result<(Vec<OutboxPlace>, Ends, u64), StoreError> {
        let (mut ends, mut places, mut written) = (self.ends, Vec::with_capacity(blocks.len()), 0);
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
            let file = name(lane, segment);
            files.write_at(&file, offset, &bytes)?;
            if !touched.contains(&file) {
                touched.push(file);
            }
            places.push(OutboxPlace { segment, offset, bytes: bytes.len() as u32 });
            ends[lane].1 += bytes.len() as u64;
            written += bytes.len() as u64;
        }
        for file in &touched {
            files.sync(file)?;
        }
        if !touched.is_empty() {
            files.sync_names()?;
        }
        Ok((places, ends, written))
    }

    /// The checkpoint that knows these ends is durable.
    pub fn commit(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// Nobody knows whether the checkpoint that knows these ends is durable: lanes that have grown go on in a new segment.
    pub fn leave(&mut self, ends: Ends) {
        for (own, end) in self.ends.iter_mut().zip(ends) {
            *own = if *own == end { end } else { (end.0 + 1, 0) };
        }
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
        let bytes = files.read_at(&name(usize::from(lane), place.segment), place.offset, place.bytes as usize)?;
        Ok(Header::read(OUTBOX, self.store, &bytes).and_then(|h| h.payload(&bytes)))
    }
}
