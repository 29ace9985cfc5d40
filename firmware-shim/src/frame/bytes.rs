//! Writing and reading the numbers and texts of a body, within a slice.

/// Appends to a slice; remembers when something did not fit.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0, overflow: false }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.bytes(&[value as u8]);
    }

    pub(crate) fn zigzag(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn text(&mut self, text: &str) {
        match u8::try_from(text.len()) {
            Ok(len) => {
                self.bytes(&[len]);
                self.bytes(text.as_bytes());
            }
            Err(_) => self.overflow = true,
        }
    }

    /// Bytes written so far; `None` when something did not fit.
    pub(crate) fn finish(self) -> Option<usize> {
        (!self.overflow).then_some(self.len)
    }

    /// Where it stands, to come back to with [`Writer::truncate`].
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes back what was written after `len`, and with it that it did not fit.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = len;
        self.overflow = false;
    }

    pub(crate) fn is_overflown(&self) -> bool {
        self.overflow
    }
}

/// Takes from a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn zigzag(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.u8()?;
        core::str::from_utf8(self.bytes(usize::from(len))?).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_edges_come_back() {
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let mut buffer = [0; 10];
            let mut writer = Writer::new(&mut buffer);
            writer.zigzag(value);
            let len = writer.finish().expect("ten bytes are enough");
            let mut reader = Reader { rest: &buffer[..len] };
            assert_eq!(reader.zigzag(), Some(value));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_number_past_64_bits_or_without_an_end_is_refused() {
        assert_eq!(Reader { rest: &[0xff; 11] }.varint(), None);
        assert_eq!(Reader { rest: &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02] }.varint(), None);
        assert_eq!(Reader { rest: &[0x80] }.varint(), None);
    }
}
