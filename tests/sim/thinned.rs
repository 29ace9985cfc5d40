//! What of a full outbox stays: of each series every second point, first and last of a block in any case, and what is left out goes to nobody
//! who has not had it.

use std::collections::{BTreeMap, BTreeSet};

use weir_engine::{codec::chunk, core::OutboxBlock, record::Record};
use weir_plugin_api::{Identity, Lane};

use super::{oracle::Made, simulator::Simulator};

/// Of one record: what stays, and how many points are left out for each output.
struct Thinned {
    sequence: u64,
    kept: Vec<(Identity, u32)>,
    points: Vec<(usize, u64)>,
}

/// Series, names of its fields, and time of a point as text.
fn parts(content: &str) -> (String, &str) {
    let (rest, time) = content.rsplit_once(' ').unwrap_or((content, ""));
    let mut words = rest.splitn(3, ' ').skip(1);
    let (series, fields) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let names: Vec<&str> = fields.split(',').filter_map(|field| Some(field.split_once('=')?.0)).collect();
    (format!("{series} {}", names.join(",")), time)
}

impl Simulator {
    /// Every record of a thinned block left out what it said, evenly, and nothing of that came later.
    ///
    /// # Errors
    /// The first that did not.
    pub fn check_thinned(&self, results: &Made) -> Result<(), String> {
        let mut all = Vec::new();
        self.committed.day_by_day(&self.first, |sequence, record, order| {
            if let Record::Thinned { kept, points } = record {
                let points = points.iter().map(|(output, points)| (order.sink(*output), *points)).collect();
                all.push(Thinned { sequence, kept: kept.to_vec(), points });
            }
        })?;
        all.iter().try_for_each(|thinned| {
            self.check_one(thinned, results).map_err(|e| format!("record {}, {:?}: {e}", thinned.sequence, thinned.kept))
        })
    }

    fn check_one(&self, thinned: &Thinned, results: &Made) -> Result<(), String> {
        let runs = thinned.kept.iter().copied();
        let kept: BTreeSet<Identity> =
            runs.flat_map(|(first, length)| (0..length).map(move |more| Identity { ordinal: first.ordinal + more, ..first })).collect();
        let (Some(first), Some(last)) = (kept.first(), kept.last()) else { return Err("nothing stays".into()) };
        let versions = self.blocks.get(first).into_iter().flatten().filter(|block| block.last() == Some(last));
        // Which of its versions it was nobody says.
        let mut wrong = "there was no such block".to_owned();
        for block in versions {
            match self.check_version(thinned, block, &kept, results) {
                Ok(()) => return Ok(()),
                Err(error) => wrong = error,
            }
        }
        Err(wrong)
    }

    fn check_version(&self, thinned: &Thinned, block: &[Identity], kept: &BTreeSet<Identity>, results: &Made) -> Result<(), String> {
        if let Some(unknown) = kept.iter().find(|identity| block.binary_search(identity).is_err()) {
            return Err(format!("{unknown:?} stays and was not there"));
        }
        let place = |identity: &Identity| (Lane::Results, *identity);
        let block: Vec<_> = block.iter().filter_map(|identity| Some((*identity, results.get(&place(identity))?))).collect();
        for (output, points) in &thinned.points {
            let its: Vec<_> = block.iter().filter(|(_, result)| result.1 >> output & 1 == 1).collect();
            let gone: Vec<Identity> = its.iter().map(|(identity, _)| *identity).filter(|identity| !kept.contains(identity)).collect();
            if gone.len() as u64 != *points {
                return Err(format!("{} points are left out for output {output}, {points} are counted", gone.len()));
            }
            let sink = &self.sinks[*output];
            if let Some(again) = gone.iter().find(|identity| sink.arrived_at.get(*identity) >= Some(&thinned.sequence)) {
                return Err(format!("{again:?} was left out for output {output}, and came all the same"));
            }
            // The time of the last point that was left out, where none that stays has come since.
            let mut last_gone: BTreeMap<String, &str> = BTreeMap::new();
            for (identity, result) in its {
                let (series, time) = parts(&result.0);
                if kept.contains(identity) {
                    last_gone.remove(&series);
                } else if last_gone.insert(series, time).is_some_and(|before| before != time) {
                    return Err(format!("{identity:?} is left out, and so is the one before it: {}", result.0));
                }
            }
        }
        Ok(())
    }

    /// Blocks are on their way to the outbox.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn note_blocks(&mut self, outbox: &[OutboxBlock]) -> Result<(), String> {
        for block in outbox.iter().filter(|block| block.lane == Lane::Results as u8) {
            let chunk = chunk::decode(&block.bytes, &[]).map_err(|e| format!("a block for the outbox: {e}"))?;
            let identities = (0..chunk.len()).map(|index| chunk.identity(index)).collect();
            let versions = self.blocks.entry(block.first).or_default();
            if !versions.contains(&identities) {
                versions.push(identities);
            }
        }
        Ok(())
    }
}
