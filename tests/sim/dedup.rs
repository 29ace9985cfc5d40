//! What `dedup` is to recognise, once more and as plainly as it can be: a list of the points that were recorded, each with when that was. One
//! that is on it, young enough and with few enough behind it, is not recorded again; one that is not on it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_engine::{
    record::{BatchRecord, Record},
    series::SeriesTable,
    spec::{DedupSpec, EngineSpec},
};
use weir_plugin_api::{Batch, Cell};

use super::{
    oracle::Committed,
    plan::DEDUPS,
    sources::Taken,
    world::{self, Kind, Readings},
};

/// A point: its words, and whether it has a time of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    words: String,
    timed: bool,
}

/// Points on the list.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it was recorded, observed axis.
    observed: i64,
    /// How many were before it.
    place: u64,
    /// It may have been forgotten: for how long exactly is not promised.
    doubtful: bool,
}

/// The list of one input.
#[derive(Debug, Default)]
struct Remembered {
    entries: BTreeMap<Said, Entry>,
    recorded: u64,
    /// The longest span there was: those of an eighth of it are forgotten together.
    longest: i64,
    /// Everything that was ever on it.
    ever: BTreeSet<Said>,
}

impl Remembered {
    /// What is too old, or has too many behind it, is taken off. It is remembered for the span at least, and for an eighth more at most.
    fn expire(&mut self, spec: &DedupSpec, observed: i64) {
        let recorded = self.recorded;
        self.longest = self.longest.max(spec.within);
        let longest = self.longest;
        self.entries.retain(|_, entry| {
            entry.doubtful |= observed - entry.observed >= spec.within;
            recorded - entry.place <= spec.entries_max as u64 && observed - entry.observed < spec.within + longest / 8
        });
    }

    fn edit(&mut self, spec: Option<&DedupSpec>) {
        let recorded = self.recorded;
        self.entries.retain(|_, entry| spec.is_some_and(|spec| recorded - entry.place <= spec.entries_max as u64));
    }

    /// A batch in which this was sent, and that was recorded.
    fn batch(
        &mut self,
        spec: Option<&DedupSpec>,
        observed: i64,
        sent: Vec<Said>,
        recorded: &[Said],
        knew_more: bool,
    ) -> Result<u64, String> {
        let (mut left, mut recognised) = (recorded.iter().peekable(), 0);
        if let Some(spec) = spec {
            self.expire(spec, observed);
        }
        for said in sent {
            let is_recorded = left.next_if(|r| **r == said).is_some();
            let known = self.entries.get(&said).filter(|_| said.timed).copied();
            match known {
                Some(entry) if is_recorded && !entry.doubtful && !knew_more => {
                    return Err(format!("{said:?} was recorded before, and is again"));
                }
                None if !is_recorded && !knew_more => {
                    return Err(format!("{said:?} was never recorded, or is forgotten, and was taken for known"));
                }
                _ => {}
            }
            recognised += u64::from(!is_recorded);
            if is_recorded && said.timed {
                self.ever.insert(said.clone());
            }
            // One that had been forgotten when it was recorded again, by what is lost now, is remembered as of its first time.
            let Some(spec) = spec.filter(|_| is_recorded && said.timed && known.is_none_or(|entry| entry.doubtful)) else { continue };
            self.entries.insert(said, Entry { observed, place: self.recorded, doubtful: false });
            self.recorded += 1;
            let recorded = self.recorded;
            self.entries.retain(|_, entry| recorded - entry.place <= spec.entries_max as u64);
        }
        match left.next() {
            Some(said) => Err(format!("{said:?} is recorded and was not sent")),
            None => Ok(recognised),
        }
    }
}

impl Committed {
    /// What inputs with `dedup` have recorded is what a plain list of what came before lets them, and none of what their sources have told
    /// is missing but for what is `gone`. How many points were recognised.
    ///
    /// # Errors
    /// The first point that was recorded twice, or not at all.
    pub fn check_dedup(
        &self,
        first: &Arc<EngineSpec>,
        readings: Readings,
        items: usize,
        gone: &[Taken],
        disturbed: &[(u64, u64)],
    ) -> Result<u64, String> {
        let (began, _) = self.beginning(first);
        let remembers = |spec: &EngineSpec, input| {
            let name = world::input_name(input);
            spec.inputs.iter().find(|i| i.name == name).and_then(|i| i.dedup.clone())
        };
        let mut lists: BTreeMap<usize, (Option<DedupSpec>, Remembered)> =
            DEDUPS.into_iter().map(|input| (input, (remembers(&began, input), Remembered::default()))).collect();
        let (mut taken, mut recognised, mut wrong) = (self.taken(), 0, None);
        self.each(first, |sequence, stamp, record, table| match record {
            Record::Config { spec } => {
                let edited = EngineSpec::from_bytes(spec).expect("results() reads it too");
                for (input, (spec, list)) in &mut lists {
                    *spec = remembers(&edited, *input);
                    list.edit(spec.as_ref());
                }
            }
            Record::Batch(batch) => {
                let (input, item) = (usize::from(batch.input), taken.next());
                let Some((spec, list)) = lists.get_mut(&input).filter(|_| readings.leaves_to_dedup(input)) else { return };
                let sent = item.map(|t| sent(&world::batch(readings, input, t.item, t.base, batch.read_at), input)).unwrap_or_default();
                // It was made when records that are lost by now were there.
                let knew_more = disturbed.iter().any(|(first, last)| (*first..=*last).contains(&sequence));
                let known = list.batch(spec.as_ref(), stamp.observed, sent, &recorded(batch, table), knew_more);
                match known {
                    Ok(known) if known == batch.counts.duplicate => recognised += known,
                    Ok(known) => {
                        wrong.get_or_insert(format!("record {sequence}: {known} are missing, {} are counted", batch.counts.duplicate));
                    }
                    Err(error) => {
                        wrong.get_or_insert(format!("record {sequence} of input {input}: {error}"));
                    }
                }
            }
            _ => {}
        })?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        for (input, (_, list)) in lists.iter().filter(|(input, _)| readings.leaves_to_dedup(**input) && world::kind(**input) == Kind::Keyed)
        {
            for item in (0..items).filter(|item| !gone.iter().any(|t| (t.input, t.item) == (*input, *item))) {
                let said = sent(&world::batch(readings, *input, item, 0, 0), *input);
                if let Some(missing) = said.iter().find(|s| s.timed && !list.ever.contains(*s)) {
                    return Err(format!("{missing:?} of item {item} of input {input} was never recorded"));
                }
            }
        }
        Ok(recognised)
    }
}

/// The points of a batch as a source sends it.
fn sent(batch: &Batch, input: usize) -> Vec<Said> {
    let mut named = Batch::default();
    world::names(input, &mut named);
    said(
        &batch.cells,
        &batch.text,
        |series| named.new_series[series as usize].line().to_owned(),
        |field| named.new_fields[field].to_string(),
    )
}

/// Those of a record.
fn recorded(batch: &BatchRecord<'_>, table: &SeriesTable) -> Vec<Said> {
    said(batch.cells, batch.text, |series| table.series(series).line().to_owned(), |field| table.fields()[field].to_string())
}

fn said(cells: &[Cell], text: &[u8], series: impl Fn(u32) -> String, field: impl Fn(usize) -> String) -> Vec<Said> {
    let mut all: Vec<Said> = Vec::new();
    for cell in cells {
        if cell.starts_point() {
            all.push(Said { words: format!("{} {}", series(cell.series), cell.time), timed: !cell.is_untimed() });
        }
        if let Some(said) = all.last_mut() {
            said.words.push_str(&format!(" {}={:?}", field(usize::from(cell.field)), cell.value(text)));
        }
    }
    all
}
