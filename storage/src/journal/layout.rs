//! The layout file: which files are the journal. Replaced atomically; files it does not name are not read.
//!
//! Owns: its bytes (`FORMAT.md`). A file is named with its generation before the first commit of that generation is
//! written into it, so recovery knows what to expect where, and stale commits in a recycled file are recognised.

use super::format::{FormatError, VERSION};
use crate::codec::{Decoder, Encoder};

/// Name of the layout file in the journal's directory.
pub const LAYOUT_FILE: &str = "layout";
const MAGIC: [u8; 4] = *b"TWJL";
const FIXED_LEN: usize = 40;
const ROW_LEN: usize = 32;

/// One file of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutFile {
    /// Its number, which makes its name.
    pub number: u64,
    /// Which use of the file counts; 0: it is spare, none does.
    pub generation: u64,
    /// Its length. Bytes.
    pub bytes: u64,
    /// Sequence of its first commit; 0: not known when the layout was written.
    pub first_sequence: u64,
}

/// The whole layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which journal: random, in every commit.
    pub journal: u64,
    /// The next use of a file gets this generation.
    pub next_generation: u64,
    /// Last commit that was durable when the layout was written: recovery must reach it.
    pub durable: u64,
    /// Files, live ones in the order of their generations, spare ones anywhere.
    pub files: Vec<LayoutFile>,
}

/// A journal file's name.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:08}.journal")
}

impl Layout {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let used = self.files.iter().all(|file| file.generation < self.next_generation);
        assert!(used, "the next generation is that of a file: {self:?}");
        let mut out = Encoder::with_capacity(FIXED_LEN + self.files.len() * ROW_LEN);
        out.raw(&MAGIC);
        out.raw(&[VERSION, 0, 0, 0]);
        out.u64(self.journal);
        out.u64(self.next_generation);
        out.u64(self.durable);
        out.len32(self.files.len());
        for file in &self.files {
            for field in [file.number, file.generation, file.bytes, file.first_sequence] {
                out.u64(field);
            }
        }
        out.u32(crc32c::crc32c(out.as_slice()));
        out.into_vec()
    }

    /// Reads and checks a layout.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "layout";
        let mut fields = Decoder::new(what, bytes);
        if fields.array::<4>()? != MAGIC {
            return Err(FormatError::Magic { what });
        }
        let [version, ..] = fields.array::<4>()?;
        if version != VERSION {
            return Err(FormatError::Version { what, found: version });
        }
        let (journal, next_generation, durable) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let files = fields.list32(ROW_LEN, |fields| {
            let (number, generation) = (fields.u64()?, fields.u64()?);
            Ok(LayoutFile { number, generation, bytes: fields.u64()?, first_sequence: fields.u64()? })
        })?;
        let checked = fields.position();
        let expected = fields.u32()?;
        fields.end()?;
        let found = crc32c::crc32c(bytes.get(..checked).unwrap_or_default());
        if found != expected {
            return Err(FormatError::Crc { what, expected, found });
        }
        if let Some(file) = files.iter().find(|file| file.generation >= next_generation) {
            return Err(FormatError::Field { field: "generation", value: file.generation });
        }
        Ok(Self { journal, next_generation, durable, files })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(journal: u64, next_generation in 1u64.., durable: u64, rows in proptest::collection::vec(any::<[u64; 4]>(), 0..9)) {
            let file = |[number, generation, bytes, first_sequence]: [u64; 4]| LayoutFile { number, generation: generation % next_generation, bytes, first_sequence };
            let layout = Layout { journal, next_generation, durable, files: rows.into_iter().map(file).collect() };
            prop_assert_eq!(Layout::decode(&layout.encode()), Ok(layout));
        }

        #[test]
        fn hostile_bytes_are_errors(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), plausible: bool) {
            if plausible && bytes.len() >= 8 {
                bytes[..5].copy_from_slice(b"TWJL\x01");
            }
            prop_assert!(Layout::decode(&bytes).is_err());
        }
    }
}
