//! What of a full outbox stays: of each series every second point, first and last of a block in any case, and what is left out goes to nobody
//! who has not had it.

use std::collections::{BTreeMap, BTreeSet};

use weir_engine::record::Record;
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
        let mut left_out = BTreeSet::new();
        all.iter().try_for_each(|thinned| {
            self.check_one(thinned, results, &mut left_out).map_err(|e| format!("record {}, {:?}: {e}", thinned.sequence, thinned.kept))
        })
    }

    fn check_one(&self, thinned: &Thinned, results: &Made, left_out: &mut BTreeSet<Identity>) -> Result<(), String> {
        let runs = thinned.kept.iter().copied();
        let kept: BTreeSet<Identity> =
            runs.flat_map(|(first, length)| (0..length).map(move |more| Identity { ordinal: first.ordinal + more, ..first })).collect();
        let (Some(first), Some(last)) = (kept.first().copied(), kept.last().copied()) else { return Err("nothing stays".into()) };
        if let Some(unknown) =
            kept.iter().find(|identity| !results.contains_key(&(Lane::Results, **identity)) || left_out.contains(*identity))
        {
            return Err(format!("{unknown:?} stays and was not there"));
        }
        let block: Vec<_> =
            results.range((Lane::Results, first)..=(Lane::Results, last)).filter(|(p, _)| !left_out.contains(&p.1)).collect();
        for (output, points) in &thinned.points {
            let bit = 1u64 << output;
            let its: Vec<_> = block.iter().filter(|(_, result)| result.1 & bit != 0).collect();
            let gone: Vec<Identity> = its.iter().map(|(place, _)| place.1).filter(|identity| !kept.contains(identity)).collect();
            if gone.len() as u64 != *points {
                return Err(format!("{} points are left out for output {output}, {points} are counted", gone.len()));
            }
            if let Some(again) = gone.iter().find(|identity| self.sinks[*output].arrived_at.get(*identity) >= Some(&thinned.sequence)) {
                return Err(format!("{again:?} was left out for output {output}, and came all the same"));
            }
            // The time of the last point that was left out, where none that stays has come since.
            let mut last_gone: BTreeMap<String, &str> = BTreeMap::new();
            for (place, result) in its {
                let (series, time) = parts(&result.0);
                if kept.contains(&place.1) {
                    last_gone.remove(&series);
                } else if last_gone.insert(series, time).is_some_and(|before| before != time) {
                    return Err(format!("{:?} is left out, and so is the one before it: {}", place.1, result.0));
                }
            }
        }
        left_out.extend(block.iter().map(|(place, _)| place.1).filter(|identity| !kept.contains(identity)));
        Ok(())
    }
}
