//! Tagged sections: a body that later versions add to. A tag says whether a reader that does not know it may go on.

use super::{FormatError, Reader};

/// The sections of a body, known tags handed out one after the other.
#[derive(Debug)]
pub struct Sections<'a> {
    reader: Reader<'a>,
}

impl<'a> Sections<'a> {
    /// Over a body that consists of sections.
    #[must_use]
    pub fn new(what: &'static str, body: &'a [u8]) -> Self {
        Self { reader: Reader::new(what, body) }
    }

    /// The next section whose tag is in `known`; skips unknown ones that may be skipped. Tags ascend strictly.
    ///
    /// # Errors
    /// [`FormatError::MustKnow`]; malformed sections.
    pub fn next(&mut self, known: &[u64], last: &mut u64) -> Result<Option<(u64, Reader<'a>)>, FormatError> {
        while self.reader.left() > 0 {
            let tag = self.reader.var()?;
            let must_know = self.reader.flag()?;
            let body = self.reader.bytes()?;
            if tag <= *last {
                return Err(self.reader.bad("section order"));
            }
            *last = tag;
            if known.contains(&tag) {
                return Ok(Some((tag, Reader::new(self.reader.what(), body))));
            }
            if must_know {
                return Err(FormatError::MustKnow { what: self.reader.what(), tag });
            }
        }
        Ok(None)
    }
}
