//! Percentiles: every value up to 32 of them, then a DDSketch.
//!
//! Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12(12), 2019. Values
//! fall into buckets `(γ^(i−1), γ^i]` with `γ = (1 + α) / (1 − α)`, α = 1 %; a bucket answers with `2γ^i / (γ + 1)`, at most α away from
//! any value in it. Logarithms are libm's, so buckets are the same everywhere.

/// Values kept exactly.
pub(crate) const EXACT_MAX: usize = 32;
/// Buckets per sign; past it the two of least magnitude merge, as in the paper's section 2.2.
const BUCKETS_MAX: usize = 2048;
/// Bytes one takes at most: both signs, and room for as many again in each while it grows.
pub(crate) const BYTES_MAX: usize =
    2 * size_of::<Sketch>() + size_of::<Buckets>() + 2 * (2 * BUCKETS_MAX + FEWEST) * size_of::<(i32, u64)>();
/// Room a list has at least.
const FEWEST: usize = 4;
/// Relative error.
const ALPHA: f64 = 0.01;
const GAMMA: f64 = (1.0 + ALPHA) / (1.0 - ALPHA);
/// ln γ.
const LN_GAMMA: f64 = 0.020_000_666_706_669_435;
/// Magnitudes below this count as zero.
const TINY: f64 = 1e-300;

/// A mergeable summary of values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sketch {
    /// All of them, in order of arrival.
    Exact(Vec<f64>),
    /// How many fell where.
    Buckets(Box<Buckets>),
}

/// The sketch proper.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets {
    pub zero: u64,
    /// Bucket index and count, ascending by index.
    pub positive: Vec<(i32, u64)>,
    /// The same of the magnitudes of negative values.
    pub negative: Vec<(i32, u64)>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self::Exact(Vec::new())
    }
}

impl Sketch {
    pub fn add(&mut self, value: f64) {
        match self {
            Self::Exact(values) if values.len() < EXACT_MAX => values.push(value),
            Self::Exact(values) => {
                let mut buckets = Box::<Buckets>::default();
                values.iter().for_each(|v| buckets.add(*v, 1));
                buckets.add(value, 1);
                *self = Self::Buckets(buckets);
            }
            Self::Buckets(buckets) => buckets.add(value, 1),
        }
    }

    /// Bytes it counts for: while it is exact as if it were full, else with room for as many buckets again.
    pub fn cost(&self) -> usize {
        2 * size_of::<Self>()
            + match self {
                Self::Exact(_) => EXACT_MAX * size_of::<f64>(),
                Self::Buckets(buckets) => {
                    let all = buckets.positive.len() + buckets.negative.len();
                    size_of::<Buckets>() + (2 * all + 2 * FEWEST) * size_of::<(i32, u64)>()
                }
            }
    }

    /// Whether it would take more memory with this value.
    pub fn would_grow(&self, value: f64) -> bool {
        match self {
            Self::Exact(values) => values.len() >= EXACT_MAX,
            Self::Buckets(buckets) => buckets.would_grow(value),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        match other {
            Self::Exact(values) => values.iter().for_each(|v| self.add(*v)),
            Self::Buckets(more) => {
                let mut buckets = match std::mem::take(self) {
                    Self::Buckets(buckets) => buckets,
                    Self::Exact(values) => {
                        let mut buckets = Box::<Buckets>::default();
                        values.iter().for_each(|v| buckets.add(*v, 1));
                        buckets
                    }
                };
                buckets.zero += more.zero;
                more.positive.iter().for_each(|(i, n)| insert(&mut buckets.positive, *i, *n));
                more.negative.iter().for_each(|(i, n)| insert(&mut buckets.negative, *i, *n));
                *self = Self::Buckets(buckets);
            }
        }
    }

    /// The value of nearest rank: the ⌈p·n⌉-th smallest, `tenths` being p in tenths of a percent.
    pub fn percentile(&self, tenths: u16) -> Option<f64> {
        let rank = |n: u64| (n * u64::from(tenths.min(1000))).div_ceil(1000).max(1);
        match self {
            Self::Exact(values) => {
                let mut sorted = [0.0; EXACT_MAX];
                let sorted = sorted.get_mut(..values.len())?;
                sorted.copy_from_slice(values);
                sorted.sort_unstable_by(f64::total_cmp);
                sorted.get(rank(sorted.len() as u64) as usize - 1).copied()
            }
            Self::Buckets(buckets) => buckets.at(rank(buckets.count())),
        }
    }
}

impl Buckets {
    fn add(&mut self, value: f64, n: u64) {
        if libm::fabs(value) < TINY {
            self.zero += n;
        } else if value > 0.0 {
            insert(&mut self.positive, index(value), n);
        } else {
            insert(&mut self.negative, index(-value), n);
        }
    }

    fn would_grow(&self, value: f64) -> bool {
        let list = if value > 0.0 { &self.positive } else { &self.negative };
        let known = || list.binary_search_by_key(&index(libm::fabs(value)), |(i, _)| *i).is_ok();
        libm::fabs(value) >= TINY && list.len() < BUCKETS_MAX && !known()
    }

    fn count(&self) -> u64 {
        self.zero + self.positive.iter().chain(&self.negative).map(|(_, n)| n).sum::<u64>()
    }

    fn at(&self, rank: u64) -> Option<f64> {
        let mut seen = 0;
        for (index, n) in self.negative.iter().rev() {
            seen += n;
            if seen >= rank {
                return Some(-middle(*index));
            }
        }
        seen += self.zero;
        if seen >= rank && self.zero > 0 {
            return Some(0.0);
        }
        for (index, n) in &self.positive {
            seen += n;
            if seen >= rank {
                return Some(middle(*index));
            }
        }
        None
    }
}

fn index(magnitude: f64) -> i32 {
    libm::ceil(libm::log(magnitude) / LN_GAMMA) as i32
}

fn middle(index: i32) -> f64 {
    2.0 * libm::exp(f64::from(index) * LN_GAMMA) / (GAMMA + 1.0)
}

fn insert(buckets: &mut Vec<(i32, u64)>, index: i32, n: u64) {
    match buckets.binary_search_by_key(&index, |(i, _)| *i) {
        Ok(at) => buckets[at].1 += n,
        Err(at) => {
            buckets.insert(at, (index, n));
            if buckets.len() > BUCKETS_MAX {
                buckets[1].1 += buckets[0].1;
                buckets.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_values_are_answered_exactly_by_nearest_rank() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.percentile(500), None);
        (1..=10).rev().for_each(|v| sketch.add(f64::from(v)));
        assert_eq!(sketch.percentile(500), Some(5.0));
        assert_eq!(sketch.percentile(950), Some(10.0));
        assert_eq!(sketch.percentile(10), Some(1.0));
        assert_eq!(sketch.percentile(1000), Some(10.0));
    }

    #[test]
    fn the_base_of_buckets_is_what_it_says() {
        assert_eq!(libm::log(GAMMA), LN_GAMMA);
    }

    proptest! {
        #[test]
        fn many_values_are_answered_within_one_percent(
            values in prop::collection::vec(prop_oneof![-1e6..1e6f64, -1.0..1.0f64, Just(0.0)], 33..400), cut in 0usize..400
        ) {
            let (mut left, mut right) = (Sketch::default(), Sketch::default());
            for (i, v) in values.iter().enumerate() {
                if i < cut { left.add(*v) } else { right.add(*v) }
            }
            left.merge(&right);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for tenths in [1u16, 50, 500, 950, 999, 1000] {
                let exact = sorted[(sorted.len() * tenths as usize).div_ceil(1000) - 1];
                let answer = left.percentile(tenths).unwrap();
                prop_assert!((answer - exact).abs() <= 0.010_000_1 * exact.abs() + 1e-290, "p{tenths}: {answer} for {exact}");
            }
        }
    }
}
