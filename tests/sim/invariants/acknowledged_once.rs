//! Every acknowledged batch lies where the answer said, once.

use crate::history::{Past, body};

pub(crate) fn check(partition: i32, past: &Past) {
    for (bytes, sent) in &past.sent {
        let Some(base) = sent.acked.filter(|base| *base >= past.log_start) else { continue };
        let Some(seen) = past.seen.get(&base) else {
            panic!("p{partition}: {sent:?} was acknowledged and is not there");
        };
        assert!(body(&seen.bytes) == *bytes, "p{partition}: another batch lies where {sent:?} was acknowledged");
    }
}
