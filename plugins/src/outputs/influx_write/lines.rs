//! Points as the lines of one write to InfluxDB, with the way back from a line to its point.
//!
//! More than the codec's encoder because a write must know which bytes are which point (to leave a refused one out) and may move a time.

use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use weir_plugin_api::PointView;

use crate::codecs::influx::InfluxEncoder;

/// How points become lines.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LineOptions {
    /// Write unsigned integers as such (`5u`), which InfluxDB 1.x takes only where it was built for it.
    pub unsigned: bool,
    /// Move the time of a point that would overwrite another of the same write, nanosecond by nanosecond.
    pub unique_time: bool,
}

/// Lines of one body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    /// All lines, each with its newline.
    pub bytes: Bytes,
    /// Where each line begins, and the end of the last.
    starts: Vec<u32>,
    /// The number of each line's point in the write.
    points: Vec<u32>,
    /// Whether a text value has a newline, so that a server's line numbers can't be trusted.
    pub broken_numbers: bool,
    /// Points that had the series and time of an earlier one.
    pub collapsed: u64,
    /// Their lines, ascending: each must stay above what it writes over.
    pub over: Vec<u32>,
}

impl Lines {
    /// Number of lines.
    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    /// Line `index` with its newline.
    pub(crate) fn line(&self, index: usize) -> &[u8] {
        &self.bytes[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// Number of the point of line `index`.
    pub(crate) fn point(&self, index: usize) -> usize {
        self.points[index] as usize
    }

    /// Only the lines `which`, ascending, as a body.
    pub(crate) fn body(&self, which: &[u32]) -> Bytes {
        if which.len() == self.len() {
            return self.bytes.clone();
        }
        if let (Some(first), Some(last)) = (which.first(), which.last())
            && (last - first) as usize == which.len() - 1
        {
            return self.bytes.slice(self.starts[*first as usize] as usize..self.starts[*last as usize + 1] as usize);
        }
        which.iter().flat_map(|i| self.line(*i as usize)).copied().collect::<Vec<u8>>().into()
    }
}

struct Seen {
    hash: u64,
    line: u32,
    time: i64,
}

/// Collects lines.
pub(crate) struct LineWriter<'p> {
    options: LineOptions,
    encoder: InfluxEncoder,
    bytes: Vec<u8>,
    lines: Lines,
    hasher: FixedState,
    seen: HashTable<Seen>,
    series: Vec<&'p str>,
}

impl<'p> LineWriter<'p> {
    /// A writer for about `points` points and `bytes` bytes.
    pub(crate) fn new(options: LineOptions, points: usize, bytes: usize) -> Self {
        Self {
            options,
            encoder: InfluxEncoder::with_unsigned(options.unsigned),
            bytes: Vec::with_capacity(bytes),
            lines: Lines { starts: Vec::with_capacity(points + 1), points: Vec::with_capacity(points), ..Lines::default() },
            hasher: FixedState::default(),
            seen: HashTable::with_capacity(points),
            series: Vec::with_capacity(points),
        }
    }

    /// Adds the point numbered `index`.
    pub(crate) fn push(&mut self, index: usize, point: PointView<'p>) {
        let series = point.series().line();
        let time = self.place(series, point.time());
        let start = self.bytes.len();
        self.lines.starts.push(start as u32);
        self.lines.points.push(index as u32);
        self.encoder.encode_at(point, time, &mut self.bytes);
        let before_end = self.bytes.len() - 1;
        self.lines.broken_numbers |= memchr::memchr(b'\n', &self.bytes[start..before_end]).is_some();
    }

    /// The time to write, and the count of those that were there before.
    fn place(&mut self, series: &'p str, time: i64) -> i64 {
        let mut time = time;
        let series_hash = self.hasher.hash_one(series);
        loop {
            let hash = series_hash ^ (time as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let known = &self.series;
            let found = self.seen.find(hash, |seen| seen.hash == hash && seen.time == time && known[seen.line as usize] == series);
            if found.is_none() {
                self.seen.insert_unique(hash, Seen { hash, line: known.len() as u32, time }, |seen| seen.hash);
                break;
            }
            if !self.options.unique_time || time == i64::MAX {
                self.lines.collapsed += 1;
                self.lines.over.push(self.series.len() as u32);
                break;
            }
            time += 1;
        }
        self.series.push(series);
        time
    }

    /// The lines.
    pub(crate) fn finish(mut self) -> Lines {
        self.lines.starts.push(self.bytes.len() as u32);
        self.lines.bytes = self.bytes.into();
        self.lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weir_plugin_api::{Points, Value};

    use super::*;
    use crate::outputs::testing::{Sample, points};

    fn lines(points: &Points, options: LineOptions) -> Lines {
        let mut writer = LineWriter::new(options, 4, 100);
        points.iter().enumerate().for_each(|(i, p)| writer.push(i, p));
        writer.finish()
    }

    #[test]
    fn every_type_is_written_as_influxdb_reads_it() {
        let all = points(&[(
            "my room",
            &[("a", "x y")],
            &[
                ("f", Value::Float(1.5)),
                ("whole", Value::Float(-3.0)),
                ("big", Value::Float(1e20)),
                ("i", Value::Int(-5)),
                ("u", Value::Uint(u64::MAX)),
                ("b", Value::Bool(true)),
                ("a field", Value::Text("say \"hi\" \\")),
            ],
            7,
        )]);
        let written = lines(&all, LineOptions::default());
        let expected = "my\\ room,a=x\\ y f=1.5,whole=-3,big=100000000000000000000,i=-5i,u=9223372036854775807i,b=true,a\\ field=\"say \\\"hi\\\" \\\\\" 7\n";
        assert_eq!(std::str::from_utf8(&written.bytes).unwrap(), expected);
        let unsigned = lines(&all, LineOptions { unsigned: true, ..LineOptions::default() });
        assert!(std::str::from_utf8(&unsigned.bytes).unwrap().contains("u=18446744073709551615u"));
    }

    const V: &[(&str, Value<'_>)] = &[("v", Value::Int(1))];

    #[test]
    fn points_of_one_series_and_time_are_counted_or_moved_apart() {
        let samples: [Sample<'_>; 5] = [("m", &[], V, 1), ("m", &[], V, 1), ("m", &[], V, 2), ("m", &[("a", "b")], V, 1), ("m", &[], V, 1)];
        let all = points(&samples);
        let counted = lines(&all, LineOptions::default());
        assert_eq!((counted.collapsed, counted.over.as_slice()), (2, [1, 4].as_slice()));
        let moved = lines(&all, LineOptions { unique_time: true, ..LineOptions::default() });
        assert_eq!(moved.collapsed, 0);
        let text = std::str::from_utf8(&moved.bytes).unwrap();
        assert_eq!(text, "m v=1i 1\nm v=1i 2\nm v=1i 3\nm,a=b v=1i 1\nm v=1i 4\n");
    }

    #[test]
    fn a_body_of_some_lines_leaves_the_others_out() {
        let all = points(&[("a", &[], V, 1), ("b", &[], V, 2), ("c", &[], V, 3)]);
        let written = lines(&all, LineOptions::default());
        assert_eq!(written.body(&[0, 2]), "a v=1i 1\nc v=1i 3\n");
        assert_eq!(written.body(&[1, 2]), "b v=1i 2\nc v=1i 3\n");
        assert_eq!(written.line(1), b"b v=1i 2\n");
    }
}
