//! `quick`: data objects are listed instead of read.
//!
//! What must be there is in the order of keys within a folder, so each folder is listed once from the first name to the
//! last, a thousand at a time, in slices side by side. An object that a listing does not have is asked for by itself
//! before it counts as missing.

use futures::StreamExt as _;
use futures::stream;

use super::Run;
use super::doubt::Doubt;
use super::named::{At, Named, Wanted};
use crate::format::TRAILER_LEN;
use crate::keys::ObjectName;
use crate::store::{Listed, StoreError};

/// Keys of a LIST.
const LIST_MAX: usize = 1000;
/// Objects that are listed one LIST after the other. The last LIST of a slice gives keys of the next slice, which are
/// listed twice: with more objects, that happens less often.
const SLICE_OBJECTS: usize = 5_000;
/// Slices listed at once.
const LISTS_AT_ONCE: usize = 32;

/// Objects of one folder, by name.
type Slice = Vec<(ObjectName, Wanted)>;

impl Run<'_> {
    /// Lists all objects; those that are not there, or of another size.
    pub(super) async fn list(&self, named: Named) -> Vec<Doubt> {
        let listed = stream::iter(slices(named)).map(|slice| self.list_slice(slice));
        let doubts: Vec<Vec<Doubt>> = listed.buffered(LISTS_AT_ONCE).collect().await;
        doubts.into_iter().flatten().collect()
    }

    async fn list_slice(&self, slice: Slice) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        // After which key the next listing begins; `None` once there are no more.
        let mut after = slice.first().map(|(object, _)| before(&object.to_string()));
        let mut listed: Vec<Listed> = Vec::new();
        let mut left = slice.into_iter();
        while let Some((object, wanted)) = left.next() {
            let key = object.to_string();
            let mut at = listed.partition_point(|listed| listed.key.as_str() < key.as_str());
            while let (true, Some(last)) = (at == listed.len(), after.clone()) {
                let from = last.max(before(&key));
                match self.store.list(&folder(&key), Some(&from), LIST_MAX).await {
                    Ok(more) => {
                        after =
                            (more.len() == LIST_MAX).then(|| more.last().map(|last| last.key.to_string())).flatten();
                        listed = more;
                        at = listed.partition_point(|listed| listed.key.as_str() < key.as_str());
                    }
                    Err(error) => {
                        let reason = format!("{error}; nor were {} objects after it looked at", left.len());
                        self.unread(&object, &reason);
                        return doubts;
                    }
                }
            }
            let found = listed.get(at).filter(|listed| listed.key.as_str() == key).map(|listed| listed.size);
            doubts.extend(self.judge(object, wanted, found).await);
        }
        doubts
    }

    async fn judge(&self, object: ObjectName, wanted: Wanted, listed: Option<u64>) -> Option<Doubt> {
        self.advance(|progress| progress.objects += 1);
        let size = match listed {
            Some(size) => size,
            None => match self.store.head(&object.key()).await {
                Ok(head) => head.size,
                Err(StoreError::NotFound { .. }) => return Some(Doubt::missing(object, object, wanted)),
                Err(error) => {
                    self.unread(&object, &error);
                    return None;
                }
            },
        };
        let least = TRAILER_LEN as u64;
        let expected = match wanted.at {
            At::Index(index) => Some(index.end().saturating_add(least)).filter(|expected| *expected != size),
            At::Bundle | At::Part | At::Page => Some(least).filter(|least| size < *least),
        }?;
        Some(Doubt::size(object, wanted, format!("it has {size} bytes, not {expected}")))
    }
}

/// Objects of one home and kind lie in one folder, and their names sort as their keys.
fn slices(named: Named) -> Vec<Slice> {
    let mut slices: Vec<Slice> = Vec::new();
    let of = |object: &ObjectName| (object.home, std::mem::discriminant(&object.kind));
    for (object, wanted) in named.into_objects() {
        match slices.last_mut() {
            Some(slice)
                if slice.len() < SLICE_OBJECTS && slice.last().is_some_and(|(last, _)| of(last) == of(&object)) =>
            {
                slice.push((object, wanted));
            }
            _ => slices.push(vec![(object, wanted)]),
        }
    }
    slices
}

/// A string that sorts before `key` and after most of what does.
fn before(key: &str) -> String {
    key.chars().take(key.len().saturating_sub(1)).collect()
}

/// Cluster, epoch and kind: the folder within which names and keys sort alike.
fn folder(key: &str) -> String {
    let mut end = 0;
    for _ in 0..3 {
        end += key.get(end..).and_then(|rest| rest.find('/')).map_or(0, |slash| slash + 1);
    }
    key.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{LaneId, Offset, PartitionId, Term};

    use super::*;
    use crate::format::IndexRef;
    use crate::keys::{ClusterId, Home, LineageEpoch, Nonce, ObjectKind, Sequence};

    #[test]
    fn slices_hold_every_object_once_in_the_order_of_the_keys_of_one_folder() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let mut named = Named::new(None, usize::MAX, false);
        let segment = |n: u64| ObjectKind::Segment {
            partition: PartitionId::default(),
            base: Offset::new(n * 37 % 100_003),
            term: Term(1),
            nonce: Nonce(n),
        };
        for n in 0..12_000 {
            let at = At::Index(IndexRef { offset: 1, len: 1, crc: 1 });
            named.add(LaneId(1), home.name(segment(n)), at, None);
        }
        (1..=300).for_each(|n| named.add(LaneId(1), home.bundle(LaneId(1), Sequence(n)), At::Bundle, None));
        let slices = slices(named);
        let sizes: Vec<usize> = slices.iter().map(Vec::len).collect();
        assert_eq!(sizes, [300, SLICE_OBJECTS, SLICE_OBJECTS, 2_000]);
        for slice in &slices {
            let keys: Vec<String> = slice.iter().map(|(object, _)| object.to_string()).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "names of one kind sort as their keys");
            assert!(keys.iter().all(|key| key.starts_with(&folder(key)) && folder(key) == folder(&keys[0])));
        }
    }
}
