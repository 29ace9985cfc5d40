//! Accumulators: the few words per field and pane from which every aggregate is computed, laid out for what is asked.
//!
//! Variance is kept by Welford's update and merged after Chan, Golub and LeVeque ("Algorithms for computing the sample variance",
//! The American Statistician 37(3), 1983), so that it stays sound far from zero and across panes.

use crate::spec::Aggregate;

/// No such word.
const NONE: u8 = u8::MAX;

/// What a field's values are; the first value of a field in a group decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    Number = 0,
    Bool = 1,
    Text = 2,
}

impl Class {
    /// The class of a [`weir_plugin_api::Kind`]'s number.
    pub fn of(kind: u8) -> Self {
        match kind {
            3 => Self::Bool,
            4 => Self::Text,
            _ => Self::Number,
        }
    }

    pub fn from_u8(raw: u8) -> Option<Self> {
        [Self::Number, Self::Bool, Self::Text].into_iter().find(|c| *c as u8 == raw)
    }
}

/// Where each accumulator lies among the words of a field; [`NONE`] where no aggregate needs it. The first word is the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Words per field.
    pub stride: usize,
    sum: u8,
    min: u8,
    max: u8,
    /// Time, then value.
    first: u8,
    /// Time, then value.
    last: u8,
    /// Mean, then sum of squared deviations.
    moments: u8,
    /// Percentiles are asked: sketches are kept beside the words.
    pub sketches: bool,
    /// Something is asked that values without arithmetic have.
    pub non_numeric: bool,
}

impl Layout {
    pub fn new(aggregates: &[Aggregate]) -> Self {
        use Aggregate as A;
        let any = |wanted: &[A]| aggregates.iter().any(|a| wanted.contains(a));
        let mut stride = 1u8;
        let mut take = |wanted: bool, words: u8| {
            if !wanted {
                return NONE;
            }
            stride += words;
            stride - words
        };
        let sum = take(any(&[A::Sum, A::Mean]), 1);
        let min = take(any(&[A::Min, A::Range]), 1);
        let max = take(any(&[A::Max, A::Range]), 1);
        let first = take(any(&[A::First]), 2);
        let last = take(any(&[A::Last]), 2);
        let moments = take(any(&[A::Stddev, A::Variance]), 2);
        Self {
            stride: usize::from(stride),
            sum,
            min,
            max,
            first,
            last,
            moments,
            sketches: aggregates.iter().any(|a| matches!(a, A::Percentile(_))),
            non_numeric: any(&[A::Count, A::First, A::Last]),
        }
    }

    /// Adds a number to the words of one field.
    #[inline]
    pub fn add(&self, words: &mut [u64], value: f64, time: i64) {
        let n = words[0] + 1;
        words[0] = n;
        if n == 1 {
            return self.begin(words, value, time);
        }
        if self.sum != NONE {
            let sum = &mut words[usize::from(self.sum)];
            *sum = (f64::from_bits(*sum) + value).to_bits();
        }
        if self.min != NONE {
            let min = &mut words[usize::from(self.min)];
            if value < f64::from_bits(*min) {
                *min = value.to_bits();
            }
        }
        if self.max != NONE {
            let max = &mut words[usize::from(self.max)];
            if value > f64::from_bits(*max) {
                *max = value.to_bits();
            }
        }
        if self.first != NONE || self.last != NONE {
            self.ends(words, value.to_bits(), time);
        }
        if self.moments != NONE {
            let at = usize::from(self.moments);
            let mean = f64::from_bits(words[at]);
            let delta = value - mean;
            let moved = mean + delta / n as f64;
            words[at] = moved.to_bits();
            words[at + 1] = (f64::from_bits(words[at + 1]) + delta * (value - moved)).to_bits();
        }
    }

    fn begin(&self, words: &mut [u64], value: f64, time: i64) {
        let bits = value.to_bits();
        for at in [self.sum, self.min, self.max, self.moments] {
            if at != NONE {
                words[usize::from(at)] = bits;
            }
        }
        if self.moments != NONE {
            words[usize::from(self.moments) + 1] = 0;
        }
        self.begin_ends(words, bits, time);
    }

    fn begin_ends(&self, words: &mut [u64], bits: u64, time: i64) {
        for at in [self.first, self.last] {
            if at != NONE {
                words[usize::from(at)] = time as u64;
                words[usize::from(at) + 1] = bits;
            }
        }
    }

    #[inline]
    fn ends(&self, words: &mut [u64], bits: u64, time: i64) {
        if self.first != NONE {
            let at = usize::from(self.first);
            if time < words[at] as i64 {
                words[at] = time as u64;
                words[at + 1] = bits;
            }
        }
        if self.last != NONE {
            let at = usize::from(self.last);
            if time >= words[at] as i64 {
                words[at] = time as u64;
                words[at + 1] = bits;
            }
        }
    }

    /// Counts a value without arithmetic and keeps its bits as first and last.
    pub fn add_bits(&self, words: &mut [u64], bits: u64, time: i64) {
        words[0] += 1;
        if words[0] == 1 { self.begin_ends(words, bits, time) } else { self.ends(words, bits, time) }
    }

    /// Whether a text with this time would become first, and last.
    pub fn would_be_end(&self, words: &[u64], time: i64) -> (bool, bool) {
        let empty = words[0] == 0;
        (
            self.first != NONE && (empty || time < words[usize::from(self.first)] as i64),
            self.last != NONE && (empty || time >= words[usize::from(self.last)] as i64),
        )
    }

    /// Counts a text whose ends are kept elsewhere.
    pub fn add_text(&self, words: &mut [u64], time: i64) {
        words[0] += 1;
        if words[0] == 1 { self.begin_ends(words, 0, time) } else { self.ends(words, 0, time) }
    }
}

/// The accumulators of one field over the panes of one window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// Time, bits, and which pane.
    first: (i64, u64, usize),
    last: (i64, u64, usize),
    mean: f64,
    squares: f64,
}

impl Total {
    /// Adds the words of pane number `pane`.
    pub fn add(&mut self, layout: &Layout, words: &[u64], pane: usize) {
        let n = words[0];
        if n == 0 {
            return;
        }
        let word = |at: u8, more: usize| if at == NONE { 0 } else { words[usize::from(at) + more] };
        let float = |at: u8, more: usize| f64::from_bits(word(at, more));
        let (first, last) =
            ((word(layout.first, 0) as i64, word(layout.first, 1), pane), (word(layout.last, 0) as i64, word(layout.last, 1), pane));
        let (mean, squares) = (float(layout.moments, 0), float(layout.moments, 1));
        let (min, max) = (float(layout.min, 0), float(layout.max, 0));
        if self.count == 0 {
            *self = Self { count: n, sum: float(layout.sum, 0), min, max, first, last, mean, squares };
            return;
        }
        self.sum += float(layout.sum, 0);
        self.min = if min < self.min { min } else { self.min };
        self.max = if max > self.max { max } else { self.max };
        if first.0 < self.first.0 {
            self.first = first;
        }
        if last.0 >= self.last.0 {
            self.last = last;
        }
        let (a, b) = (self.count as f64, n as f64);
        let delta = mean - self.mean;
        self.mean += delta * b / (a + b);
        self.squares += squares + delta * delta * a * b / (a + b);
        self.count += n;
    }

    /// The aggregate of numbers; first and last are [`Total::end`]'s, count is [`Total::count`], percentiles the sketch's.
    pub fn number(&self, aggregate: Aggregate) -> Option<f64> {
        let variance = || (self.count > 1).then(|| self.squares / (self.count - 1) as f64);
        match aggregate {
            Aggregate::Sum => Some(self.sum),
            Aggregate::Mean => Some(self.sum / self.count as f64),
            Aggregate::Min => Some(self.min),
            Aggregate::Max => Some(self.max),
            Aggregate::Range => Some(self.max - self.min),
            Aggregate::Variance => variance(),
            Aggregate::Stddev => variance().map(libm::sqrt),
            Aggregate::Count | Aggregate::First | Aggregate::Last | Aggregate::Percentile(_) => None,
        }
    }

    /// Bits and pane of the first or last value.
    pub fn end(&self, last: bool) -> (u64, usize) {
        let end = if last { self.last } else { self.first };
        (end.1, end.2)
    }
}
