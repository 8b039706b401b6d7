//! The topics a member of a `consumer` group subscribes to: the front of `ConsumerProtocolSubscription` (any version).

use bytes::{Buf, Bytes};

/// Topics of a member's metadata; `None` when the bytes are not a subscription.
pub(super) fn topics(metadata: &Bytes) -> Option<Vec<String>> {
    let mut bytes = metadata.clone();
    bytes.try_get_i16().ok().filter(|version| *version >= 0)?;
    let count = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    // A topic takes at least its two length bytes.
    let mut topics = Vec::with_capacity(count.min(bytes.len() / 2));
    for _ in 0..count {
        let len = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        if len > bytes.len() {
            return None;
        }
        topics.push(String::from_utf8(bytes.split_to(len).into()).ok()?);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_lies_are_seen() {
        let good = Bytes::from_static(&[0, 1, 0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', 0xff]);
        assert_eq!(topics(&good), Some(vec!["a".to_owned(), "bc".to_owned()]));
        assert_eq!(topics(&Bytes::from_static(&[0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0])), None);
        assert_eq!(topics(&Bytes::new()), None);
    }
}
