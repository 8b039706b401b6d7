//! Every batch was sent, appears once, and each producer's come in the order it sent them.

use std::collections::BTreeMap;

use crate::history::{Past, body};

pub(crate) fn check(partition: i32, past: &Past) {
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (base, seen) in &past.seen {
        let Some(sent) = past.sent.get(&body(&seen.bytes)) else {
            panic!("p{partition}: no producer sent the batch at {base}");
        };
        if let Some(before) = places.insert((sent.writer, sent.n), *base) {
            panic!("p{partition}: {sent:?} lies at {before} and again at {base}");
        }
        if sent.producer.is_some()
            && let Some(before) = last.insert(sent.writer, sent.n)
        {
            assert!(before < sent.n, "p{partition}: {sent:?} at {base} comes after batch {before} of its producer");
        }
    }
}
