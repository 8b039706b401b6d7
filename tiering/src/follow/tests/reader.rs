//! Follows the writer's bucket as a driver would, without time.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{Offset, PartitionId};

use super::writer::{Bucket, LANE, Writer};
use crate::follow::{FollowError, FollowedLane, FollowedRoot, Next, Purpose, ReadPages, RootStep};
use crate::keys::{ClusterName, Home, ObjectName};
use crate::manifest::{PublishedLane, check_partition, decode_objects, decode_page};
use crate::store::ETag;

pub(super) struct Reader {
    pub(super) root: FollowedRoot,
    pub(super) lane: FollowedLane,
    /// Not for a restore, which reads one home.
    reads: bool,
    /// Pages that are not there yet.
    pub(super) hidden: BTreeSet<ObjectName>,
    /// Pages that were read.
    pub(super) pages_read: usize,
    /// Ends and log starts that were answered in this home.
    shown: BTreeMap<PartitionId, (Offset, Offset)>,
}

/// How a poll ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// The next bundle is not there.
    NotYet,
    /// It cannot go on.
    Stuck(FollowError),
    /// A page is not there.
    NoPage,
    /// The lane is sealed and nothing has switched.
    Sealed,
}

impl Reader {
    pub(super) fn new(home: Home, purpose: Purpose) -> Self {
        Self {
            root: FollowedRoot::at(ClusterName::new("tidewater").expect("legal"), home),
            lane: FollowedLane::new(home, LANE, purpose),
            reads: purpose == Purpose::Read,
            hidden: BTreeSet::new(),
            pages_read: 0,
            shown: BTreeMap::new(),
        }
    }

    /// Follows until the next bundle is missing or nothing helps. Looks at the manifest after a bundle that does not
    /// count, and first of all if `look` says so.
    pub(super) fn poll(&mut self, bucket: &Bucket, look: bool) -> Polled {
        if look {
            self.lane.look_at_manifest();
        }
        let mut stuck: Option<FollowError> = None;
        loop {
            let done = match self.lane.next() {
                Next::Manifest(object) => match bucket.manifests.get(&object) {
                    None => self.lane.on_no_manifest().map(|()| false),
                    Some((_, version)) if self.lane.base_version() == Some(&etag(*version)) => {
                        self.lane.on_same_manifest();
                        Ok(false)
                    }
                    Some((body, version)) => {
                        let published = PublishedLane::decode(body).expect("as written");
                        self.lane.on_manifest(published, etag(*version)).map(|_| true)
                    }
                },
                Next::Pages { partitions, objects } => {
                    let hidden =
                        |object: &ObjectName| self.hidden.contains(object) || !bucket.pages.contains_key(object);
                    if partitions
                        .iter()
                        .map(|page| page.page)
                        .chain(objects.iter().map(|page| page.page))
                        .any(|p| hidden(&p))
                    {
                        self.lane.forget_pages();
                        return Polled::NoPage;
                    }
                    self.pages_read += partitions.len();
                    let mut read = ReadPages::default();
                    for page in partitions {
                        read.partitions.insert(page.page, decode_page(&page, &bucket.pages[&page.page]).expect("good"));
                    }
                    for page in objects {
                        read.objects.insert(page.page, decode_objects(&page, &bucket.pages[&page.page]).expect("good"));
                    }
                    self.lane.on_pages(read).map(|_| true)
                }
                Next::Bundle(object) => match bucket.bundles.get(&object) {
                    None => return stuck.map_or(Polled::NotYet, Polled::Stuck),
                    Some(found) => self.lane.on_bundle(&found.index, found.at, 100).map(|_| true),
                },
                Next::Root(_) if self.go_on(bucket) => Ok(true),
                Next::Root(_) => return Polled::Sealed,
            };
            let ended = self.lane.closed_for().is_some() && self.reads && self.go_on(bucket);
            match (done, &stuck) {
                _ if ended => stuck = None,
                (Ok(true), _) => stuck = None,
                (Ok(false), None) => {}
                // The manifest does not help.
                (Ok(false), Some(error)) => return Polled::Stuck(error.clone()),
                (Err(error), Some(before)) if error == *before => return Polled::Stuck(error),
                (Err(error), _) => stuck = Some(error),
            }
            self.never_falls();
        }
    }

    /// Goes on in another home, if the root names one.
    fn go_on(&mut self, bucket: &Bucket) -> bool {
        match self.root.on_root(bucket.root.as_ref().expect("there")) {
            Ok(RootStep::Serve(home)) => {
                self.lane = FollowedLane::new(home, LANE, Purpose::Read);
                self.shown.clear();
                true
            }
            _ => false,
        }
    }

    /// Within a home, what was answered never falls.
    fn never_falls(&mut self) {
        for (partition, known) in self.lane.partitions() {
            check_partition(known.manifest()).expect("rows are whole");
            let now = (known.log_start(), known.high_watermark());
            let before = self.shown.insert(*partition, now).unwrap_or_default();
            assert!(before.0 <= now.0 && before.1 <= now.1, "{partition}: {before:?} then {now:?}");
        }
    }

    /// What is followed is what the bucket's bundles, and the manifest that is the base, tell; and every offset lies in
    /// an object that holds it.
    ///
    /// `exact`: no bundle of a dead leader was met, whose ends stay answered.
    pub(super) fn equals_bucket(&self, writer: &Writer, exact: bool) {
        let base = self.lane.base_version().map(|version| version.0.parse::<u64>().expect("a number"));
        let base = base.and_then(|version| writer.by_version.get(&version).cloned()).unwrap_or_default();
        let mut expected = base.clone();
        let follow_from = self.lane.base().map_or(1, |base| base.follow_from.0);
        let bundles = &writer.by_bundles;
        for (partition, told) in &bundles[self.lane.last().0 as usize] {
            // Of partitions that are gone the base says nothing any more.
            let is_new = !bundles[follow_from as usize - 1].contains_key(partition);
            if is_new || base.contains_key(partition) {
                expected.entry(*partition).or_default().join(told);
            }
        }
        let known: BTreeMap<_, _> = self
            .lane
            .partitions()
            .iter()
            .map(|(id, known)| {
                let told = super::writer::Told {
                    log_start: known.log_start(),
                    end: known.manifest().archived_end,
                    dropped: known.is_dropped(),
                };
                assert!(known.high_watermark() == told.end || !exact, "{id}: {known:?}");
                (*id, told)
            })
            .collect();
        // A partition that was dropped and cleaned before the base may be known as dropped, or not at all.
        expected.retain(|id, told| known.contains_key(id) || !told.dropped);
        assert_eq!(known, expected, "as of bundle {} and base {follow_from}", self.lane.last());
        for known in self.lane.partitions().values() {
            self.rows_hold(writer, known.manifest());
            for start in known.epochs() {
                let epoch = writer.logs.get(&known.id()).and_then(|log| log.epoch_at(start.start));
                assert!(epoch.is_none_or(|epoch| epoch == start.epoch), "{}: {start:?}", known.id());
            }
        }
    }

    fn rows_hold(&self, writer: &Writer, manifest: &crate::manifest::PartitionManifest) {
        let mut rows = Vec::new();
        for page in &manifest.spilled {
            match &writer.bucket.spills[&page.page] {
                crate::manifest::SpillPage::Rows(inside) => rows.extend(inside.clone()),
                crate::manifest::SpillPage::Pages(_) => unreachable!("the writer makes none"),
            }
        }
        rows.extend(manifest.rows.iter().copied());
        for row in rows {
            let held = writer.bucket.contents.get(&row.object()).and_then(|held| held.get(&manifest.id));
            let holds = held.is_some_and(|held| held.intersect(&row.offsets) == row.offsets);
            assert!(holds, "{} holds {held:?}, the row says {}", row.object(), row.offsets);
        }
    }
}

pub(super) fn etag(version: u64) -> ETag {
    ETag(version.to_string().into())
}
