//! Flattens one JSON value while it is being parsed: names and text go into reused buffers, no tree is built.

use std::{fmt, ops::Range};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A flattened value; text by its range in [`Leaves::text`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaf {
    Number(f64),
    /// A whole number that a float may not hold exactly: as a time it counts to the last digit.
    Large(i64),
    Bool(bool),
    Text(Range<usize>),
}

/// Everything one object holds, flattened.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaves {
    /// Range of the name in `text`, value.
    pub(super) list: Vec<(Range<usize>, Leaf)>,
    pub(super) text: String,
    path: String,
}

/// Values one object may flatten to.
const LEAVES_MAX: usize = 65_535;

impl Leaves {
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.text.clear();
        self.path.clear();
    }

    pub(super) fn text(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or("")
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.list.iter().rposition(|(n, _)| self.text(n) == name)
    }

    fn push(&mut self, leaf: Leaf) {
        let start = self.text.len();
        self.text.push_str(self.path.trim_matches('_'));
        self.list.push((start..self.text.len(), leaf));
    }
}

/// Where an object stands: what may be there and where its leaves go.
pub(super) struct Object<'l>(pub(super) &'l mut Leaves);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.clear();
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Inner(self.0).visit_map(map)
    }
}

struct Inner<'l>(&'l mut Leaves);

impl<'de> DeserializeSeed<'de> for Inner<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.0.push(Leaf::Bool(v));
        Ok(())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        if v.unsigned_abs() < 1 << f64::MANTISSA_DIGITS {
            return self.visit_f64(v as f64);
        }
        self.0.push(Leaf::Large(v));
        Ok(())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => self.visit_f64(v as f64),
        }
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.0.push(Leaf::Number(v));
        Ok(())
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        let start = self.0.text.len();
        self.0.text.push_str(v);
        let range = start..self.0.text.len();
        self.0.push(Leaf::Text(range));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let length = enter(&mut self.0.path);
        let mut index = 0_usize;
        loop {
            self.0.path.truncate(length);
            self.0.path.push_str(itoa::Buffer::new().format(index));
            if seq.next_element_seed(Inner(self.0))?.is_none() {
                break;
            }
            too_many(self.0)?;
            index += 1;
        }
        self.0.path.truncate(length.saturating_sub(1));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let length = enter(&mut self.0.path);
        while map.next_key_seed(Key(&mut self.0.path))?.is_some() {
            map.next_value_seed(Inner(self.0))?;
            self.0.path.truncate(length);
            too_many(self.0)?;
        }
        self.0.path.truncate(length.saturating_sub(1));
        Ok(())
    }
}

/// Makes the path a prefix; as in Telegraf an underscore at either end of what stands before the joint goes.
fn enter(path: &mut String) -> usize {
    if path.starts_with('_') || path.ends_with('_') {
        *path = path.trim_matches('_').to_owned();
    }
    if !path.is_empty() {
        path.push('_');
    }
    path.len()
}

fn too_many<E: Error>(leaves: &Leaves) -> Result<(), E> {
    if leaves.list.len() > LEAVES_MAX { Err(E::custom(format_args!("an object of more than {LEAVES_MAX} values"))) } else { Ok(()) }
}

struct Key<'p>(&'p mut String);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.0.push_str(v);
        Ok(())
    }
}
