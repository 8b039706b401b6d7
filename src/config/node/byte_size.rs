//! A number of bytes as a setting spells it.

use serde::Deserialize;

use super::ConfigError;

/// A number of bytes: plain, or with KiB, MiB, GiB, TiB, or one letter for the same; KB, MB, GB, TB are powers of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "ByteSizeText")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum ByteSizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<ByteSizeText> for ByteSize {
    type Error = ConfigError;

    fn try_from(text: ByteSizeText) -> Result<Self, Self::Error> {
        match text {
            ByteSizeText::Number(n) => Ok(Self(n)),
            ByteSizeText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ConfigError::ByteSize(text.to_owned());
        let mut spelled = text.trim().replace('_', "");
        // The crate reads `10G` as ten powers of ten; here one letter has always been a power of two.
        if spelled.ends_with(|c: char| matches!(c.to_ascii_lowercase(), 'k' | 'm' | 'g' | 't')) {
            spelled.push_str("iB");
        }
        let parsed: bytesize::ByteSize = spelled.parse().map_err(|_| bad())?;
        // What does not fit in 64 bits is read as the largest number.
        if parsed.as_u64() == u64::MAX { Err(bad()) } else { Ok(Self(parsed.as_u64())) }
    }
}
