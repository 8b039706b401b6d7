//! Which schema a record was written with: the id before its value, or in a header.
//!
//! The bytes before a value, and those of the headers `__key_schema_id` and `__value_schema_id`, have one form: 0 and
//! an id of four bytes, or 1 and a GUID of sixteen. Behind that, a Protobuf value says which message of the file it
//! is, as a list of indexes: from the file down through nested messages.

use super::definition::Guid;

/// Headers that newer clients write instead of a prefix.
pub const KEY_HEADER: &str = "__key_schema_id";
pub const VALUE_HEADER: &str = "__value_schema_id";

/// Levels of nested messages that a list of indexes goes down.
const INDEXES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WrittenWith {
    /// Of the context that the reader is in.
    Id(i32),
    Guid(Guid),
}

/// The schema, and what stands behind it; `None` if `bytes` do not begin with one.
#[must_use]
pub fn written_with(bytes: &[u8]) -> Option<(WrittenWith, &[u8])> {
    let (form, rest) = bytes.split_first()?;
    match form {
        0 => {
            let (id, rest) = rest.split_first_chunk::<4>()?;
            Some((WrittenWith::Id(i32::from_be_bytes(*id)), rest)).filter(|_| i32::from_be_bytes(*id) >= 0)
        }
        1 => {
            let (guid, rest) = rest.split_first_chunk::<16>()?;
            Some((WrittenWith::Guid(Guid::from_bytes(*guid)), rest))
        }
        _ => None,
    }
}

/// The indexes of a Protobuf message, and the message; `None` if they are malformed. The first message of the file is
/// written as a single 0.
#[must_use]
pub fn message_indexes(bytes: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (count, mut rest) = zigzag(bytes)?;
    if count == 0 {
        return Some((vec![0], rest));
    }
    if count > INDEXES_MAX {
        return None;
    }
    let mut indexes = Vec::with_capacity(count);
    for _ in 0..count {
        let (index, behind) = zigzag(rest)?;
        indexes.push(index);
        rest = behind;
    }
    Some((indexes, rest))
}

/// A number that is not negative.
fn zigzag(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let whole = usize::try_from(value >> 1).ok().filter(|_| value & 1 == 0)?;
            return Some((whole, bytes.get(n + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(written_with(&[0, 0, 0, 1, 2, 9, 8]), Some((WrittenWith::Id(258), &[9, 8][..])));
        let guid = [1, 9, 0x5d, 0x71, 0xcf, 0x12, 0x55, 0x8b, 0x9d, 0x9e, 0x33, 0x0a, 0xd5, 0x75, 0xb3, 0xdf, 0x5d];
        let Some((WrittenWith::Guid(read), [])) = written_with(&guid) else { unreachable!("a GUID") };
        assert_eq!(read.to_string(), "095d71cf-1255-8b9d-9e33-0ad575b3df5d");
        for bad in [&[][..], &[0], &[0, 0, 0, 1], &[1, 2, 3], &[2, 0, 0, 0, 1], b"{}", &[0, 255, 0, 0, 1]] {
            assert_eq!(written_with(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn indexes_name_a_message() {
        assert_eq!(message_indexes(&[0, 7]), Some((vec![0], &[7][..])));
        assert_eq!(message_indexes(&[2, 2, 7]), Some((vec![1], &[7][..])));
        assert_eq!(message_indexes(&[4, 2, 0]), Some((vec![1, 0], &[][..])));
        for bad in [&[][..], &[1], &[4, 2], &[0x80, 0x80, 0x80, 0x80, 0x80], &[0xff, 1]] {
            assert_eq!(message_indexes(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (written_with(&bytes), message_indexes(&bytes));
        }
    }
}
