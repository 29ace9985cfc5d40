//! One field of one point, in 24 bytes: the unit everything hot works on.

use crate::value::{Kind, Value};

/// One field of one point. Consecutive cells of one point share series and time; the first carries [`Cell::START`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Series id, local to whoever handed the cell over (an input's interner, the engine's table, a chunk).
    pub series: u32,
    /// Field id, local likewise.
    pub field: u16,
    /// A [`Kind`] as its number.
    pub kind: u8,
    /// [`Cell::START`], [`Cell::UNTIMED`].
    pub flags: u8,
    /// Event time, nanoseconds since 1970 UTC; with [`Cell::UNTIMED`] steady nanoseconds instead.
    pub time: i64,
    /// The value's bits; for text `offset << 32 | length` into the text area beside the cells.
    pub value: u64,
}

impl Cell {
    /// Flag: the first cell of its point.
    pub const START: u8 = 1;
    /// Flag: the point brought no time of its own; `time` is when it was read, on the steady axis.
    pub const UNTIMED: u8 = 2;

    /// Whether this cell opens a point.
    pub fn starts_point(&self) -> bool {
        self.flags & Self::START != 0
    }

    /// Whether its time is on the steady axis.
    pub fn is_untimed(&self) -> bool {
        self.flags & Self::UNTIMED != 0
    }

    /// The type of the value. Cells are made by collectors and decoders that check it, so an unknown number reads as a float.
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.kind).unwrap_or(Kind::Float)
    }

    /// The value as a number, if it is one.
    #[inline]
    pub fn as_f64(&self) -> Option<f64> {
        match self.kind {
            0 => Some(f64::from_bits(self.value)),
            1 => Some(self.value as i64 as f64),
            2 => Some(self.value as f64),
            _ => None,
        }
    }

    /// The value, its text taken from `text`. A range outside `text` reads as empty.
    pub fn value<'a>(&self, text: &'a [u8]) -> Value<'a> {
        match self.kind() {
            Kind::Float => Value::Float(f64::from_bits(self.value)),
            Kind::Int => Value::Int(self.value as i64),
            Kind::Uint => Value::Uint(self.value),
            Kind::Bool => Value::Bool(self.value != 0),
            Kind::Text => {
                let start = (self.value >> 32) as usize;
                let end = start + (self.value & 0xffff_ffff) as usize;
                Value::Text(text.get(start..end).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or(""))
            }
        }
    }

    /// The bits and kind that stand for `value`, its text appended to `text`.
    pub fn encode_value(value: Value<'_>, text: &mut Vec<u8>) -> (Kind, u64) {
        match value {
            Value::Float(v) => (Kind::Float, v.to_bits()),
            Value::Int(v) => (Kind::Int, v as u64),
            Value::Uint(v) => (Kind::Uint, v),
            Value::Bool(v) => (Kind::Bool, u64::from(v)),
            Value::Text(v) => {
                let offset = text.len() as u64;
                text.extend_from_slice(v.as_bytes());
                (Kind::Text, offset << 32 | v.len() as u64)
            }
        }
    }
}

const _: () = assert!(size_of::<Cell>() == 24);
