//! What a snapshot keeps of a window.

use std::sync::Arc;

use super::{
    WindowOperator,
    aggregate::Class,
    ended::{Floor, Tombstone},
    group::{Emitted, Group, Slot},
    pane::{Ends, Pane},
    sketch::{Buckets, EXACT_MAX, Sketch},
};
use crate::operators::{
    route,
    snapshot::{Reader, SnapshotError, Writer, meaning},
    time::Partitions,
};
use crate::spec::{EngineSpec, WindowSpec};

/// Hash of everything that makes its panes and groups what they are, and of when its results are dated. Lateness and what else results look
/// like may change freely.
pub(in crate::operators) fn window_meaning(w: &WindowSpec, spec: &EngineSpec) -> u64 {
    let text =
        format!("{:?}", (w.every, w.period, w.align, &w.by, &w.fields, &w.filter, &w.aggregates, &w.name_override, &spec.global_tags));
    if w.time_is_end { meaning(&(text + " end")) } else { meaning(&text) }
}

impl WindowOperator {
    /// See [`window_meaning`].
    pub fn meaning(&self) -> u64 {
        window_meaning(self.window(), &self.spec)
    }

    /// What [`WindowOperator::write`] will take, roughly.
    pub fn bytes_about(&self) -> usize {
        const GROUP: usize = 192;
        const PANE: usize = 32;
        const FIELDS: usize = 3;
        GROUP * self.groups.len() + (PANE + FIELDS * 8 * self.layout.stride) * self.panes
    }

    pub fn write(&self, w: &mut Writer<'_>, partitions: &Partitions) {
        self.counts.fields().iter().for_each(|(_, v)| w.u64(*v));
        w.u32(self.groups.len() - self.free.len());
        for (number, group) in self.live() {
            // Numbers decide in which order results leave: they stay.
            w.u32(number as usize);
            w.series(&group.series);
            // Not past what is due and not done yet.
            let watermark = group.watermark(partitions, self.grid.lateness);
            w.i64(if watermark < group.due { watermark } else { group.watermark });
            w.i64(group.floor);
            w.moment(group.observed);
            w.partitions(&group.partitions);
            w.u32(group.fields.len());
            for slot in group.fields.iter() {
                w.field(slot.field);
                w.u8(slot.class as u8);
            }
            w.u32(group.panes.len());
            group.panes.iter().for_each(|pane| write_pane(pane, w));
            w.u32(group.emitted.len());
            for emitted in &group.emitted {
                w.i64(emitted.start);
                w.option(emitted.revision.map(i64::from));
                w.u64(emitted.points);
                w.moment(emitted.observed);
                w.u8(u8::from(emitted.dirty));
            }
        }
        self.write_ended(w);
    }

    pub fn read(&mut self, r: &mut Reader<'_>, partitions: &Partitions) -> Result<(), SnapshotError> {
        self.counts = r.counts()?;
        self.restored = true;
        for _ in 0..r.count()? {
            if r.has_ended() {
                self.read_number(r)?;
            }
            self.read_group(r, partitions)?;
        }
        if r.has_ended() {
            self.read_ended(r)?;
        }
        Ok(())
    }

    /// The number of the next group; those between are free. Where fewer groups are allowed now, it may get a lower one.
    fn read_number(&mut self, r: &mut Reader<'_>) -> Result<(), SnapshotError> {
        let number = r.place()?;
        if number < self.groups.len() {
            return r.damaged();
        }
        while self.groups.len() < number && number < self.spec.limits.groups_max {
            self.free.insert(self.groups.len() as u32);
            self.groups.push(Group::new(Arc::clone(&self.nobody), 0));
        }
        Ok(())
    }

    fn write_ended(&self, w: &mut Writer<'_>) {
        write_floor(self.ended.common, w);
        w.u32(self.ended.len());
        for (series, stone) in self.ended.iter() {
            w.series(series);
            write_floor(stone.floor, w);
            w.moment(stone.observed);
        }
    }

    fn read_ended(&mut self, r: &mut Reader<'_>) -> Result<(), SnapshotError> {
        self.ended.common = read_floor(r)?;
        for _ in 0..r.count()? {
            let series = r.series()?;
            let stone = Tombstone { floor: read_floor(r)?, observed: r.i64()? };
            self.counts.forgotten += self.ended.add(&series, stone, self.spec.limits.groups_max);
        }
        Ok(())
    }

    fn read_group(&mut self, r: &mut Reader<'_>, partitions: &Partitions) -> Result<(), SnapshotError> {
        let series = r.series()?;
        let id = self.groups.len() as u32;
        let route = route::results_route(&self.spec, &series);
        self.keys.insert(Arc::clone(&series), id);
        let mut group = Group {
            watermark: r.i64()?,
            floor: if r.has_ended() { r.i64()? } else { i64::MIN },
            observed: r.i64()?,
            partitions: r.partitions()?,
            ..Group::new(series, route)
        };
        self.expiry = self.expiry.min(group.observed.saturating_add(self.spec.time.group_ttl));
        // A field the table has no room for keeps its slot, so that the words of the others stay where they are.
        let stride = self.layout.stride;
        for _ in 0..r.count()? {
            let field = r.field()?.unwrap_or(u16::MAX);
            let Some(class) = Class::from_u8(r.u8()?) else { return r.damaged() };
            if field != u16::MAX {
                self.takes_field(field, r.table);
            }
            group.fields.push(Slot { field, class });
        }
        for _ in 0..r.count()? {
            let pane = read_pane(r)?;
            let fits = pane.words.len().is_multiple_of(stride) && pane.words.len() / stride <= group.fields.len();
            if !fits || group.panes.last().is_some_and(|last| last.start >= pane.start) {
                return r.damaged();
            }
            self.pane_bytes += pane.bytes;
            group.panes.push(pane);
            self.panes += 1;
        }
        for _ in 0..r.count()? {
            group.emitted.push(Emitted {
                start: r.i64()?,
                revision: r.option()?.map(|v| v as u32),
                points: r.u64()?,
                observed: r.i64()?,
                dirty: r.u8()? != 0,
            });
        }
        group.listed = group.emitted.iter().any(|e| e.dirty);
        if group.listed {
            self.reopened.push(id);
            // Looked at with the next record, which finds out when they are really due.
            self.reemit = i64::MIN;
        }
        for partition in &group.partitions {
            let slot = *partition as usize;
            if self.fed.len() <= slot {
                self.fed.resize(slot + 1, Vec::new());
                self.due.resize(slot + 1, i64::MAX);
            }
            self.fed[slot].push(id);
        }
        self.groups.push(group);
        self.arm(id, partitions);
        Ok(())
    }
}

fn write_floor(floor: Floor, w: &mut Writer<'_>) {
    w.i64(floor.watermark);
    w.i64(floor.start);
}

fn read_floor(r: &mut Reader<'_>) -> Result<Floor, SnapshotError> {
    Ok(Floor { watermark: r.i64()?, start: r.i64()? })
}

fn write_pane(pane: &Pane, w: &mut Writer<'_>) {
    w.i64(pane.start);
    w.u64(pane.points);
    w.u32(pane.words.len());
    pane.words.iter().for_each(|v| w.u64(*v));
    w.u32(pane.sketches.len());
    pane.sketches.iter().for_each(|s| write_sketch(s, w));
    w.u32(pane.texts.len());
    for ends in &pane.texts {
        w.text(&ends.first);
        w.text(&ends.last);
    }
}

fn read_pane(r: &mut Reader<'_>) -> Result<Pane, SnapshotError> {
    let mut pane = Pane { start: r.i64()?, points: r.u64()?, ..Pane::default() };
    for _ in 0..r.count()? {
        pane.words.push(r.u64()?);
    }
    for _ in 0..r.count()? {
        pane.sketches.push(read_sketch(r)?);
    }
    for _ in 0..r.count()? {
        pane.texts.push(Ends { first: r.text()?, last: r.text()? });
    }
    pane.bytes = pane.cost();
    Ok(pane)
}

fn write_sketch(sketch: &Sketch, w: &mut Writer<'_>) {
    match sketch {
        Sketch::Exact(values) => {
            w.u8(0);
            w.u32(values.len());
            values.iter().for_each(|v| w.u64(v.to_bits()));
        }
        Sketch::Buckets(buckets) => {
            w.u8(1);
            w.u64(buckets.zero);
            for list in [&buckets.positive, &buckets.negative] {
                w.u32(list.len());
                for (index, n) in list {
                    w.i64(i64::from(*index));
                    w.u64(*n);
                }
            }
        }
    }
}

fn read_sketch(r: &mut Reader<'_>) -> Result<Sketch, SnapshotError> {
    if r.u8()? == 0 {
        let n = r.count()?;
        if n > EXACT_MAX {
            return r.damaged();
        }
        let mut values = Vec::with_capacity(n);
        for _ in 0..n {
            values.push(f64::from_bits(r.u64()?));
        }
        return Ok(Sketch::Exact(values));
    }
    let mut buckets = Box::new(Buckets { zero: r.u64()?, ..Buckets::default() });
    for positive in [true, false] {
        let mut list = Vec::new();
        for _ in 0..r.count()? {
            list.push((r.i64()? as i32, r.u64()?));
        }
        if !list.is_sorted_by(|a: &(i32, u64), b| a.0 < b.0) {
            return r.damaged();
        }
        if positive {
            buckets.positive = list;
        } else {
            buckets.negative = list;
        }
    }
    Ok(Sketch::Buckets(buckets))
}
