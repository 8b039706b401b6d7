//! `quick`: data objects are listed instead of read.
//!
//! What must be there is in the order of keys within a folder, so each folder is listed once from the first name to the
//! last, a thousand at a time. An object that a listing does not have is asked for by itself before it counts as
//! missing.

use std::collections::BTreeMap;

use super::Run;
use super::damage::{Damage, DamageKind};
use super::lanes::MissingObject;
use super::named::{At, Named, Wanted};
use crate::format::TRAILER_LEN;
use crate::keys::ObjectName;
use crate::store::{Listed, StoreError};

/// Keys of a LIST.
const LIST_MAX: usize = 1000;

impl Run<'_> {
    /// Lists the folders of all objects; those that are not there.
    pub(super) async fn list(&self, named: Named) -> Vec<MissingObject> {
        let mut folders: BTreeMap<String, Vec<(String, ObjectName, Wanted)>> = BTreeMap::new();
        for (object, wanted) in named.into_objects() {
            let key = object.to_string();
            folders.entry(folder(&key)).or_default().push((key, object, wanted));
        }
        let mut missing = Vec::new();
        for (folder, objects) in folders {
            self.list_folder(&folder, objects, &mut missing).await;
        }
        missing
    }

    async fn list_folder(
        &self,
        folder: &str,
        objects: Vec<(String, ObjectName, Wanted)>,
        missing: &mut Vec<MissingObject>,
    ) {
        debug_assert!(objects.is_sorted_by(|(a, ..), (b, ..)| a < b), "names of one kind sort as their keys");
        // After which key the next listing begins; `None` once there are no more.
        let mut after = objects.first().map(|(key, ..)| before(key));
        let mut listed: Vec<Listed> = Vec::new();
        for (key, object, wanted) in objects {
            let mut at = listed.partition_point(|listed| listed.key.as_str() < key.as_str());
            while let (true, Some(last)) = (at == listed.len(), after.clone()) {
                let from = last.max(before(&key));
                match self.store.list(folder, Some(&from), LIST_MAX).await {
                    Ok(more) => {
                        after =
                            (more.len() == LIST_MAX).then(|| more.last().map(|last| last.key.to_string())).flatten();
                        listed = more;
                        at = listed.partition_point(|listed| listed.key.as_str() < key.as_str());
                    }
                    Err(error) => {
                        self.unread(&object, &error);
                        return;
                    }
                }
            }
            let found = listed.get(at).filter(|listed| listed.key.as_str() == key).map(|listed| listed.size);
            self.judge(object, wanted, found, missing).await;
        }
    }

    async fn judge(&self, object: ObjectName, wanted: Wanted, listed: Option<u64>, missing: &mut Vec<MissingObject>) {
        self.advance(|progress| progress.objects += 1);
        let size = match listed {
            Some(size) => size,
            None => match self.store.head(&object.key()).await {
                Ok(head) => head.size,
                Err(StoreError::NotFound { .. }) => {
                    missing.push(MissingObject { object, named: object, wanted });
                    return;
                }
                Err(error) => return self.unread(&object, &error),
            },
        };
        let least = TRAILER_LEN as u64;
        let wrong = match wanted.at {
            At::Index(index) if index.end().saturating_add(least) != size => Some(index.end().saturating_add(least)),
            At::Bundle | At::Part if size < least => Some(least),
            _ => None,
        };
        if let Some(expected) = wrong {
            let reason = format!("it has {size} bytes, not {expected}");
            self.find(Damage::new(DamageKind::Size, &object, reason).of(wanted.ranges));
        }
    }
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
