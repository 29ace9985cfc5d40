//! One field's value, by type: what a codec reads and an output writes.

/// The type of a value, as stored in a [`crate::Cell`]. The numbers are part of the disk formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// IEEE 754 double.
    Float = 0,
    /// Signed 64-bit integer.
    Int = 1,
    /// Unsigned 64-bit integer.
    Uint = 2,
    /// Boolean.
    Bool = 3,
    /// UTF-8 text, kept in the batch's text area.
    Text = 4,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Float,
            1 => Self::Int,
            2 => Self::Uint,
            3 => Self::Bool,
            4 => Self::Text,
            _ => return None,
        })
    }

    /// Whether arithmetic makes sense on it (booleans count, as 0 and 1, in Telegraf's basicstats they do not; here neither).
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Float | Self::Int | Self::Uint)
    }
}

/// A value borrowed from where it was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A finite double: a collector refuses NaN and infinities.
    Float(f64),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A boolean.
    Bool(bool),
    /// Text.
    Text(&'a str),
}

impl Value<'_> {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Float(_) => Kind::Float,
            Self::Int(_) => Kind::Int,
            Self::Uint(_) => Kind::Uint,
            Self::Bool(_) => Kind::Bool,
            Self::Text(_) => Kind::Text,
        }
    }

    /// The number it is, if it is one; integers past 2⁵³ lose precision.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(v) => Some(v),
            Self::Int(v) => Some(v as f64),
            Self::Uint(v) => Some(v as f64),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

impl From<f64> for Value<'_> {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}

impl From<i64> for Value<'_> {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<u64> for Value<'_> {
    fn from(v: u64) -> Self {
        Self::Uint(v)
    }
}

impl From<bool> for Value<'_> {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(v: &'a str) -> Self {
        Self::Text(v)
    }
}
