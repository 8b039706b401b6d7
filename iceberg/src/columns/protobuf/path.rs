//! [`MessagePath`]: which message of a file a value is, as Confluent's serializers write it behind the schema's id.
//!
//! A count and so many indexes, zigzag varints all: of a message in the file, then of one declared in that, and so on.
//! A single 0 is the file's first message. Messages that stand for the entries of maps are not counted: they are not in
//! the text.

use std::fmt;

use prost_reflect::{FileDescriptor, MessageDescriptor};

use super::decode::wire::Reader;

/// Messages declared inside each other at the most.
const INDEXES_MAX: usize = 8;

/// Indexes of messages, from the file inwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessagePath {
    indexes: [u32; INDEXES_MAX],
    len: usize,
}

impl MessagePath {
    /// The file's first message.
    pub const FIRST: Self = Self { indexes: [0; INDEXES_MAX], len: 1 };

    /// Reads the path that `bytes` begin with; returns it and what follows.
    #[must_use]
    pub fn split_from(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader::new(bytes);
        let mut number = || {
            let zigzag = reader.varint().ok()?;
            (zigzag & 1 == 0).then_some(zigzag >> 1)
        };
        let len = usize::try_from(number()?).ok().filter(|len| *len <= INDEXES_MAX)?;
        if len == 0 {
            return Some((Self::FIRST, reader.rest()));
        }
        let mut indexes = [0; INDEXES_MAX];
        for index in indexes.iter_mut().take(len) {
            *index = u32::try_from(number()?).ok()?;
        }
        Some((Self { indexes, len }, reader.rest()))
    }

    fn indexes(&self) -> impl Iterator<Item = usize> {
        self.indexes.iter().take(self.len).map(|index| *index as usize)
    }

    /// The message that it leads to.
    #[must_use]
    pub fn find(&self, file: &FileDescriptor) -> Option<MessageDescriptor> {
        let mut indexes = self.indexes();
        let mut found = file.messages().nth(indexes.next()?)?;
        for index in indexes {
            let nth = found.child_messages().filter(|message| !message.is_map_entry()).nth(index)?;
            found = nth;
        }
        Some(found)
    }
}

impl fmt::Display for MessagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, index) in self.indexes().enumerate() {
            let point = if at > 0 { "." } else { "" };
            write!(f, "{point}{index}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MessagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessagePath({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(bytes: &[u8]) -> Option<(String, &[u8])> {
        MessagePath::split_from(bytes).map(|(path, rest)| (path.to_string(), rest))
    }

    #[test]
    fn indexes_are_zigzag_and_a_single_zero_is_the_first_message() {
        assert_eq!(path(&[0, 9]), Some(("0".to_owned(), &[9][..])));
        assert_eq!(path(&[2, 0, 9]), Some(("0".to_owned(), &[9][..])));
        assert_eq!(MessagePath::split_from(&[2, 0]).map(|(path, _)| path), Some(MessagePath::FIRST));
        assert_eq!(path(&[4, 2, 0x80, 2]), Some(("1.128".to_owned(), &[][..])));
        for bad in [&[][..], &[2], &[1], &[3, 0], &[2, 1], &[18, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0xff; 11]] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = MessagePath::split_from(&bytes);
        }
    }
}
