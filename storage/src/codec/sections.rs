//! Sections: a body that later versions add to without a new version of the format. Pure.

use super::{CodecError, Decoder, Encoder};

impl Encoder {
    /// A section of [`Sections`]: `var` tag, a flag that says whether a reader must know it, `var` length, body.
    pub fn section(&mut self, tag: u64, must_know: bool, body: impl FnOnce(&mut Self)) {
        assert!(tag > self.section, "section {tag} follows section {}: tags ascend", self.section);
        self.section = tag;
        let mut inner = Self::new();
        body(&mut inner);
        self.var(tag);
        self.flag(must_know);
        self.bytes(&inner.out);
    }
}

/// A body that later versions add to: sections with strictly ascending tags. Each says whether a reader that does not
/// know its tag must refuse the body or may skip the section.
#[derive(Debug)]
pub struct Sections<'a> {
    decoder: Decoder<'a>,
    last: u64,
}

impl<'a> Sections<'a> {
    #[must_use]
    pub const fn new(what: &'static str, body: &'a [u8]) -> Self {
        Self { decoder: Decoder::new(what, body), last: 0 }
    }

    /// The next section whose tag is in `known`; unknown ones that may be skipped are skipped.
    ///
    /// # Errors
    /// [`CodecError::MustKnow`]; malformed sections.
    pub fn next(&mut self, known: &[u64]) -> Result<Option<(u64, Decoder<'a>)>, CodecError> {
        while self.decoder.left() > 0 {
            let tag = self.decoder.var()?;
            let must_know = self.decoder.flag()?;
            let body = self.decoder.bytes()?;
            if tag <= self.last {
                return Err(self.decoder.bad("section order"));
            }
            self.last = tag;
            if known.contains(&tag) {
                return Ok(Some((tag, Decoder::new(self.decoder.what(), body))));
            }
            if must_know {
                return Err(CodecError::MustKnow { what: self.decoder.what(), tag });
            }
        }
        Ok(None)
    }

    /// The value of a section that must be there.
    ///
    /// # Errors
    /// [`CodecError::Missing`] without one.
    pub fn required<T>(&self, tag: u64, value: Option<T>) -> Result<T, CodecError> {
        value.ok_or(CodecError::Missing { what: self.decoder.what(), tag })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_unknown_section_is_skipped_or_refused_as_its_flag_says() {
        let body = |must_know| {
            let mut out = Encoder::new();
            out.section(1, true, |out| out.u8(7));
            out.section(4, must_know, |out| out.u64(9));
            out.section(5, true, |out| out.text("known"));
            out.finish()
        };
        let read = |body: &Bytes| -> Result<Vec<u64>, CodecError> {
            let mut sections = Sections::new("test", body);
            let mut found = Vec::new();
            while let Some((tag, _)) = sections.next(&[1, 5])? {
                found.push(tag);
            }
            Ok(found)
        };
        assert_eq!(read(&body(false)), Ok(vec![1, 5]));
        let refused = read(&body(true)).expect_err("a reader must know section 4");
        assert_eq!(refused, CodecError::MustKnow { what: "test", tag: 4 });
        assert!(refused.is_newer() && refused.to_string().ends_with("start the newer version that wrote it"));
    }

    #[test]
    fn sections_out_of_order_are_refused() {
        let mut bytes = Encoder::new();
        for tag in [2, 2] {
            bytes.raw(&[tag, 1, 0]);
        }
        let bytes = bytes.finish();
        let mut sections = Sections::new("test", &bytes);
        assert!(sections.next(&[2]).is_ok_and(|found| found.is_some()));
        assert!(matches!(sections.next(&[2]), Err(CodecError::Field { field: "section order", .. })));
    }

    #[test]
    #[should_panic(expected = "tags ascend")]
    fn sections_out_of_order_are_not_written() {
        let mut out = Encoder::new();
        out.section(2, true, |_| ());
        out.section(1, true, |_| ());
    }
}
