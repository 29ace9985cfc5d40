//! Bytes written and read: varints, zig-zag, checked lengths.

/// The bytes do not hold what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encoded data is damaged: {0}")]
pub struct Damaged(pub &'static str);

/// Appends a varint.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed varint.
#[inline]
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends length and bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Damaged`] at the end.
    pub fn u8(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.rest.split_first().ok_or(Damaged("it ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// A varint.
    ///
    /// # Errors
    /// [`Damaged`] at the end or past 64 bits.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Damaged("a number is too large"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(Damaged("a number is too large"));
            }
        }
    }

    /// A signed varint.
    ///
    /// # Errors
    /// As [`Reader::u64`].
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Damaged> {
        let raw = self.u64()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A varint that fits `T`.
    ///
    /// # Errors
    /// As [`Reader::u64`], or when it does not fit.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, Damaged> {
        T::try_from(self.u64()?).map_err(|_| Damaged("a number is too large"))
    }

    /// A count of things of which each takes at least one byte.
    ///
    /// # Errors
    /// [`Damaged`] when fewer bytes are left than that.
    pub fn count(&mut self) -> Result<usize, Damaged> {
        let count: usize = self.narrow()?;
        if count > self.rest.len() { Err(Damaged("a count is larger than what is left")) } else { Ok(count) }
    }

    /// `length` bytes.
    ///
    /// # Errors
    /// [`Damaged`] when they are not there.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        if length > self.rest.len() {
            return Err(Damaged("it ends early"));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// Length and bytes.
    ///
    /// # Errors
    /// [`Damaged`] when they are not there.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.count()?;
        self.take(length)
    }

    /// Length and text.
    ///
    /// # Errors
    /// [`Damaged`] when it is not there or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged("text is not UTF-8"))
    }
}
