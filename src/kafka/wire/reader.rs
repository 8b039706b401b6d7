//! A cursor over bytes from outside: every read says whether the bytes are there.

/// The bytes of a request make no sense at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request is malformed at byte {at}: {what}")]
pub struct Malformed {
    /// Where, counted from the start of what was read.
    pub at: usize,
    /// What was expected there.
    pub what: &'static str,
}

/// Reads big-endian fields one after another.
#[derive(Clone, Debug)]
pub struct FieldReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> FieldReader<'a> {
    /// From the first byte on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The error for the present place.
    #[must_use]
    pub fn bad(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(n).ok_or(self.bad(what))?;
        let taken = self.bytes.get(self.at..end).ok_or(self.bad(what))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let at = self.at;
        self.take(N, what)?.try_into().map_err(|_| Malformed { at, what })
    }

    /// One signed byte.
    ///
    /// # Errors
    /// None is left.
    pub fn i8(&mut self, what: &'static str) -> Result<i8, Malformed> {
        Ok(i8::from_be_bytes(self.array(what)?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i16(&mut self, what: &'static str) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array(what)?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn uuid(&mut self, what: &'static str) -> Result<uuid::Uuid, Malformed> {
        Ok(uuid::Uuid::from_bytes(self.array(what)?))
    }

    /// An unsigned varint of at most five bytes.
    ///
    /// # Errors
    /// It is cut short or does not fit 32 bits.
    pub fn uvarint(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let mut value = 0u64;
        for shift in [0u32, 7, 14, 21, 28] {
            let [byte] = self.array(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| self.bad(what));
            }
        }
        Err(self.bad(what))
    }

    /// The length of a string: `None` is null. `compact` is the encoding of flexible versions.
    ///
    /// # Errors
    /// Negative, or more than is left.
    pub fn text_len(&mut self, compact: bool, what: &'static str) -> Result<Option<usize>, Malformed> {
        let len = if compact { i64::from(self.uvarint(what)?) - 1 } else { i64::from(self.i16(what)?) };
        self.checked_len(len, what)
    }

    /// The length of a run of bytes; as [`FieldReader::text_len`].
    ///
    /// # Errors
    /// Negative, or more than is left.
    pub fn blob_len(&mut self, compact: bool, what: &'static str) -> Result<Option<usize>, Malformed> {
        let len = if compact { i64::from(self.uvarint(what)?) - 1 } else { i64::from(self.i32(what)?) };
        self.checked_len(len, what)
    }

    /// The number of elements of an array, each of at least `element_min` bytes; `None` is null.
    ///
    /// # Errors
    /// Negative, or more elements than the bytes that are left can hold.
    pub fn list_len(
        &mut self,
        compact: bool,
        element_min: usize,
        what: &'static str,
    ) -> Result<Option<usize>, Malformed> {
        let len = if compact { i64::from(self.uvarint(what)?) - 1 } else { i64::from(self.i32(what)?) };
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| self.bad(what))?;
        match len.checked_mul(element_min.max(1)) {
            Some(bytes) if bytes <= self.remaining() => Ok(Some(len)),
            _ => Err(self.bad(what)),
        }
    }

    /// A string that may not be null.
    ///
    /// # Errors
    /// Null, cut short, or not UTF-8.
    pub fn text(&mut self, compact: bool, what: &'static str) -> Result<&'a str, Malformed> {
        self.text_or_null(compact, what)?.ok_or(self.bad(what))
    }

    /// A string or null.
    ///
    /// # Errors
    /// Cut short, or not UTF-8.
    pub fn text_or_null(&mut self, compact: bool, what: &'static str) -> Result<Option<&'a str>, Malformed> {
        let Some(len) = self.text_len(compact, what)? else { return Ok(None) };
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.bad(what))
    }

    /// Skips tagged fields; `flexible` says whether there are any.
    ///
    /// # Errors
    /// They are cut short, or more than `tags_max`.
    pub fn skip_tags(&mut self, flexible: bool, tags_max: u32) -> Result<(), Malformed> {
        if !flexible {
            return Ok(());
        }
        let count = self.uvarint("number of tagged fields")?;
        if count > tags_max {
            return Err(self.bad("number of tagged fields"));
        }
        for _ in 0..count {
            self.uvarint("tag")?;
            let size = self.uvarint("size of tagged field")?;
            self.take(size as usize, "tagged field")?;
        }
        Ok(())
    }

    fn checked_len(&self, len: i64, what: &'static str) -> Result<Option<usize>, Malformed> {
        if len == -1 {
            return Ok(None);
        }
        match usize::try_from(len) {
            Ok(len) if len <= self.remaining() => Ok(Some(len)),
            _ => Err(self.bad(what)),
        }
    }
}
