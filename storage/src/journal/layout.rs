//! The layout file: which files are the journal. Replaced atomically; files it does not name are not read.
//!
//! Owns: its bytes (`FORMAT.md`). A file is named with its generation before the first commit of that generation is
//! written into it, so recovery knows what to expect where, and stale commits in a recycled file are told apart.

use super::format::{Fields, FormatError, VERSION};

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
        let mut out = Vec::with_capacity(FIXED_LEN + self.files.len() * ROW_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.journal.to_be_bytes());
        out.extend_from_slice(&self.next_generation.to_be_bytes());
        out.extend_from_slice(&self.durable.to_be_bytes());
        out.extend_from_slice(&super::format::u32_of(self.files.len()).to_be_bytes());
        for file in &self.files {
            for field in [file.number, file.generation, file.bytes, file.first_sequence] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads and checks a layout.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "layout";
        let mut fields = Fields::new(what, bytes);
        if fields.array::<4>()? != MAGIC {
            return Err(FormatError::Magic { what });
        }
        let [version, ..] = fields.array::<4>()?;
        if version != VERSION {
            return Err(FormatError::Version { what, found: version });
        }
        let (journal, next_generation, durable) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let count = fields.u32()? as usize;
        let need = count.saturating_mul(ROW_LEN).saturating_add(FIXED_LEN);
        if bytes.len() != need {
            return Err(FormatError::Short { what, have: bytes.len(), need });
        }
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            let (number, generation) = (fields.u64()?, fields.u64()?);
            files.push(LayoutFile { number, generation, bytes: fields.u64()?, first_sequence: fields.u64()? });
        }
        let expected = fields.u32()?;
        let found = crc32c::crc32c(bytes.get(..need - 4).unwrap_or_default());
        if found != expected {
            return Err(FormatError::Crc { what, expected, found });
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
        fn round_trips(journal: u64, next_generation: u64, durable: u64, rows in proptest::collection::vec(any::<[u64; 4]>(), 0..9)) {
            let file = |[number, generation, bytes, first_sequence]: [u64; 4]| LayoutFile { number, generation, bytes, first_sequence };
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
