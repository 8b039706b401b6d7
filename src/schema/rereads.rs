//! Registered schemas that were read before: a transitive level compares a new schema with every earlier version, and
//! reading them takes longer than comparing them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::canonical::Parsed;
use super::definition::Fingerprint;
use super::subject::Context;

/// Bytes of text of all schemas that are kept, what they refer to included; one more and all are forgotten. Read they
/// take about ten times as much memory.
const BYTES_MAX: usize = 4 << 20;

/// See the header. Empty in a clone.
#[derive(Default)]
pub(super) struct Rereads {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    read: BTreeMap<(Context, Fingerprint), Arc<Parsed>>,
    bytes: usize,
}

impl Clone for Rereads {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Rereads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rereads({})", self.kept().read.len())
    }
}

impl Rereads {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, context: &Context, print: Fingerprint) -> Option<Arc<Parsed>> {
        self.kept().read.get(&(context.clone(), print)).cloned()
    }

    /// Keeps a schema whose text has so many bytes with all that it refers to.
    pub(super) fn keep(&self, context: &Context, print: Fingerprint, parsed: &Arc<Parsed>, bytes: usize) {
        let mut kept = self.kept();
        if bytes > BYTES_MAX {
            return;
        }
        if kept.bytes + bytes > BYTES_MAX {
            *kept = Kept::default();
        }
        if kept.read.insert((context.clone(), print), Arc::clone(parsed)).is_none() {
            kept.bytes += bytes;
        }
    }

    /// A schema that others refer to may be gone.
    pub(super) fn forget(&self) {
        *self.kept() = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::canonical::Strictness;
    use super::super::definition::{Definition, SchemaKind};
    use super::*;

    #[test]
    fn a_bounded_number_of_bytes_is_kept() {
        let parsed = Parsed::parse(SchemaKind::Avro, "\"int\"", &[], Strictness::Known).expect("a schema");
        let (parsed, rereads) = (Arc::new(parsed), Rereads::default());
        let print = |n: usize| Definition { text: n.to_string(), ..Definition::default() }.fingerprint();
        let context = Context::default();
        for n in 0..9 {
            rereads.keep(&context, print(n), &parsed, 1 << 20);
        }
        let held = |n| rereads.get(&context, print(n)).is_some();
        assert_eq!((0..9).filter(|n| held(*n)).collect::<Vec<_>>(), [8], "four at a time, twice forgotten");
        rereads.keep(&context, print(10), &parsed, BYTES_MAX + 1);
        assert!(!held(10) && held(8));
        rereads.forget();
        assert!(!held(8));
    }
}
