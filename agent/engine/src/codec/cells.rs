//! Cells column by column: shapes (which fields a point has), series, times, then each field of each shape as one column.
//!
//! ```text
//! points | shapes: n × (fields: n × (field, kind)) | runs: n × (shape, points) | untimed: n runs of points, timed first
//! series: delta per point | times: first, delta, then delta of delta per point
//! columns in order of shapes and their fields: mode byte, then values
//!   0..=9  whole numbers after × 10^mode, as deltas      16 raw bits, 8 bytes each      17 integers as deltas
//!   18     booleans, eight to a byte                     19 text, length and bytes
//! ```

use weir_plugin_api::{Cell, Kind};

use super::bytes::{Damaged, Reader, put_bytes, put_i64, put_u64};

/// Powers of ten tried for decimals. Within them a product with a 53-bit number stays exact enough to be verified by dividing again.
const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Whole numbers up to here are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;
const RAW: u8 = 16;
const INTEGERS: u8 = 17;
const BOOLEANS: u8 = 18;
const TEXT: u8 = 19;
/// Shapes kept apart in one run of cells; more are looked up the slow way and still written.
const POINTS_MAX: usize = 1 << 24;

#[derive(Default)]
struct Shape {
    /// Field, kind.
    fields: Vec<(u16, u8)>,
    columns: Vec<Vec<u64>>,
}

impl Shape {
    fn fits(&self, cells: &[Cell]) -> bool {
        self.fields.len() == cells.len()
            && self.fields.iter().zip(cells).all(|((field, kind), cell)| *field == cell.field && *kind == cell.kind)
    }
}

/// Memory that is used again from one encoding to the next.
#[derive(Default)]
pub struct CellEncoder {
    shapes: Vec<Shape>,
    used: usize,
    runs: Vec<(u32, u32)>,
    untimed: Vec<u32>,
    series: Vec<u32>,
    times: Vec<i64>,
    /// Mode that fitted the last decimal column: tried first.
    mode: usize,
}

impl CellEncoder {
    /// Appends `cells`; ids are mapped to those of the block's dictionaries.
    pub fn encode(&mut self, cells: &[Cell], text: &[u8], series: impl Fn(u32) -> u32, field: impl Fn(u16) -> u16, out: &mut Vec<u8>) {
        self.gather(cells);
        put_u64(out, self.times.len() as u64);
        put_u64(out, self.used as u64);
        for shape in &self.shapes[..self.used] {
            put_u64(out, shape.fields.len() as u64);
            for (id, kind) in &shape.fields {
                put_u64(out, u64::from(field(*id)));
                out.push(*kind);
            }
        }
        put_u64(out, self.runs.len() as u64);
        for (shape, points) in &self.runs {
            put_u64(out, u64::from(*shape));
            put_u64(out, u64::from(*points));
        }
        put_u64(out, self.untimed.len() as u64);
        self.untimed.iter().for_each(|run| put_u64(out, u64::from(*run)));
        let mut last = 0;
        for id in &self.series {
            let id = i64::from(series(*id));
            put_i64(out, id - last);
            last = id;
        }
        put_times(&self.times, out);
        for index in 0..self.used {
            let shape = &self.shapes[index];
            for ((_, kind), column) in shape.fields.iter().zip(&shape.columns) {
                put_column(*kind, column, text, &mut self.mode, out);
            }
        }
    }

    fn gather(&mut self, cells: &[Cell]) {
        self.used = 0;
        self.runs.clear();
        self.untimed.clear();
        self.series.clear();
        self.times.clear();
        let (mut at, mut current) = (0, usize::MAX);
        // Runs alternate: timed, untimed, timed …
        let (mut run, mut run_untimed) = (0, false);
        while at < cells.len() {
            let first = &cells[at];
            let mut end = at + 1;
            while end < cells.len() && !cells[end].starts_point() {
                end += 1;
            }
            let point = &cells[at..end];
            if current == usize::MAX || !self.shapes[current].fits(point) {
                current = self.shape(point);
            }
            match self.runs.last_mut() {
                Some((shape, points)) if *shape as usize == current => *points += 1,
                _ => self.runs.push((current as u32, 1)),
            }
            for (column, cell) in self.shapes[current].columns.iter_mut().zip(point) {
                column.push(cell.value);
            }
            if first.is_untimed() != run_untimed {
                self.untimed.push(run);
                (run, run_untimed) = (0, !run_untimed);
            }
            run += 1;
            self.series.push(first.series);
            self.times.push(first.time);
            at = end;
        }
        if run_untimed {
            self.untimed.push(run);
        }
    }

    fn shape(&mut self, point: &[Cell]) -> usize {
        if let Some(known) = self.shapes[..self.used].iter().position(|s| s.fits(point)) {
            return known;
        }
        if self.used == self.shapes.len() {
            self.shapes.push(Shape::default());
        }
        let shape = &mut self.shapes[self.used];
        shape.fields.clear();
        shape.fields.extend(point.iter().map(|c| (c.field, c.kind)));
        shape.columns.resize_with(point.len().max(shape.columns.len()), Vec::new);
        shape.columns.iter_mut().for_each(Vec::clear);
        self.used += 1;
        self.used - 1
    }
}

fn put_times(times: &[i64], out: &mut Vec<u8>) {
    let (mut last, mut delta) = (0i64, 0i64);
    for time in times {
        let next = time.wrapping_sub(last);
        put_i64(out, next.wrapping_sub(delta));
        (last, delta) = (*time, next);
    }
}

fn put_column(kind: u8, column: &[u64], text: &[u8], mode: &mut usize, out: &mut Vec<u8>) {
    match Kind::from_u8(kind) {
        Some(Kind::Float) | None => put_floats(column, mode, out),
        Some(Kind::Int | Kind::Uint) => {
            out.push(INTEGERS);
            let mut last = 0u64;
            for value in column {
                put_i64(out, value.wrapping_sub(last) as i64);
                last = *value;
            }
        }
        Some(Kind::Bool) => {
            out.push(BOOLEANS);
            for eight in column.chunks(8) {
                out.push(eight.iter().enumerate().fold(0, |byte, (bit, value)| byte | u8::from(*value != 0) << bit));
            }
        }
        Some(Kind::Text) => {
            out.push(TEXT);
            for value in column {
                let start = (value >> 32) as usize;
                put_bytes(out, text.get(start..start + (value & 0xffff_ffff) as usize).unwrap_or(b""));
            }
        }
    }
}

/// The number `value` is after × 10^mode, if dividing again gives the same bits.
#[inline]
fn scaled(value: u64, power: f64) -> Option<i64> {
    let value = f64::from_bits(value);
    let product = value * power;
    if !(-EXACT..=EXACT).contains(&product) {
        return None;
    }
    // Round half away from zero without the platform's library: a cast truncates.
    let whole = if product < 0.0 { product - 0.5 } else { product + 0.5 } as i64;
    ((whole as f64 / power).to_bits() == value.to_bits()).then_some(whole)
}

fn put_floats(column: &[u64], mode: &mut usize, out: &mut Vec<u8>) {
    let start = out.len();
    let fitting = (*mode..POWERS.len()).chain(0..*mode).find(|power| {
        out.truncate(start);
        out.push(*power as u8);
        let mut last = 0;
        column.iter().all(|value| {
            let Some(whole) = scaled(*value, POWERS[*power]) else { return false };
            put_i64(out, whole.wrapping_sub(last));
            last = whole;
            true
        })
    });
    let Some(power) = fitting else {
        out.truncate(start);
        out.push(RAW);
        column.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        return;
    };
    // The next column starts one lower when this one did not need the power it was tried with.
    *mode = if power > 0 && column.iter().all(|v| scaled(*v, POWERS[power - 1]).is_some()) { power - 1 } else { power };
}

struct Decoded {
    fields: Vec<(u16, u8)>,
    columns: Vec<Vec<u64>>,
    next: usize,
}

/// Reads what [`CellEncoder::encode`] wrote, appending to `cells` and `text`; returns the number of points. Ids are mapped by the
/// closures, which answer `None` for an index outside the dictionary.
///
/// # Errors
/// [`Damaged`]; `cells` and `text` then hold part of it.
pub fn decode(
    reader: &mut Reader<'_>,
    series: impl Fn(u32) -> Option<u32>,
    field: impl Fn(u16) -> Option<u16>,
    cells: &mut Vec<Cell>,
    text: &mut Vec<u8>,
) -> Result<u32, Damaged> {
    let points = reader.count()?;
    if points > POINTS_MAX {
        return Err(Damaged("too many points"));
    }
    let mut shapes = Vec::new();
    for _ in 0..reader.count()? {
        let mut fields = Vec::new();
        for _ in 0..reader.count()? {
            let id = field(reader.narrow()?).ok_or(Damaged("a field is not in the dictionary"))?;
            let kind = reader.u8()?;
            Kind::from_u8(kind).ok_or(Damaged("an unknown kind of value"))?;
            fields.push((id, kind));
        }
        if fields.is_empty() {
            return Err(Damaged("a shape without fields"));
        }
        shapes.push(Decoded { fields, columns: Vec::new(), next: 0 });
    }
    let mut order = Vec::with_capacity(points);
    for _ in 0..reader.count()? {
        let (shape, run): (usize, usize) = (reader.narrow()?, reader.narrow()?);
        if shape >= shapes.len() || run > points - order.len() {
            return Err(Damaged("a run of shapes is too long"));
        }
        shapes[shape].next += run;
        order.extend(std::iter::repeat_n(shape as u32, run));
    }
    if order.len() != points {
        return Err(Damaged("runs of shapes do not add up"));
    }
    let mut untimed = vec![false; points];
    let (mut at, mut flag) = (0, false);
    for _ in 0..reader.count()? {
        let run: usize = reader.narrow()?;
        let end = run.saturating_add(at);
        untimed.get_mut(at..end).ok_or(Damaged("a run of times is too long"))?.fill(flag);
        (at, flag) = (end, !flag);
    }
    let mut ids = Vec::with_capacity(points);
    let mut last = 0i64;
    for _ in 0..points {
        last = last.wrapping_add(reader.i64()?);
        let id = u32::try_from(last).ok().and_then(&series).ok_or(Damaged("a series is not in the dictionary"))?;
        ids.push(id);
    }
    let mut times = Vec::with_capacity(points);
    let (mut last, mut delta) = (0i64, 0i64);
    for _ in 0..points {
        delta = delta.wrapping_add(reader.i64()?);
        last = last.wrapping_add(delta);
        times.push(last);
    }
    for shape in &mut shapes {
        for _ in 0..shape.fields.len() {
            let column = column(reader, shape.next, text)?;
            shape.columns.push(column);
        }
        shape.next = 0;
    }
    for (point, shape) in order.iter().enumerate() {
        let shape = &mut shapes[*shape as usize];
        for (index, (id, kind)) in shape.fields.iter().enumerate() {
            let flags = if index == 0 { Cell::START } else { 0 } | if untimed[point] { Cell::UNTIMED } else { 0 };
            cells.push(Cell {
                series: ids[point],
                field: *id,
                kind: *kind,
                flags,
                time: times[point],
                value: shape.columns[index][shape.next],
            });
        }
        shape.next += 1;
    }
    Ok(points as u32)
}

fn column(reader: &mut Reader<'_>, length: usize, text: &mut Vec<u8>) -> Result<Vec<u64>, Damaged> {
    // Even booleans take a byte for eight: a longer column than this is a lie.
    if length > reader.left().saturating_mul(8) {
        return Err(Damaged("a column is longer than what is left"));
    }
    let mut values = Vec::with_capacity(length);
    match reader.u8()? {
        mode if usize::from(mode) < POWERS.len() => {
            let mut last = 0i64;
            for _ in 0..length {
                last = last.wrapping_add(reader.i64()?);
                values.push((last as f64 / POWERS[usize::from(mode)]).to_bits());
            }
        }
        RAW => {
            for eight in reader.take(length.saturating_mul(8))?.chunks_exact(8) {
                values.push(eight.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
            }
        }
        INTEGERS => {
            let mut last = 0u64;
            for _ in 0..length {
                last = last.wrapping_add(reader.i64()? as u64);
                values.push(last);
            }
        }
        BOOLEANS => {
            let bytes = reader.take(length.div_ceil(8))?;
            values.extend((0..length).map(|i| u64::from(bytes[i / 8] >> (i % 8) & 1)));
        }
        TEXT => {
            for _ in 0..length {
                let bytes = reader.text()?.as_bytes();
                values.push((text.len() as u64) << 32 | bytes.len() as u64);
                text.extend_from_slice(bytes);
            }
        }
        _ => return Err(Damaged("an unknown column coding")),
    }
    Ok(values)
}
