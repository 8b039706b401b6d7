//! Is everything that the bucket promises to readers there, and whole? [`verify`] answers for one cluster's bucket,
//! from any machine that can read it.
//!
//! Owns: the walk over a cluster's objects and what counts as damage. Does not own: repair (the scrubber of the lane's
//! leader), objects that nothing names (the sweeper), tables (`verify` of the Iceberg crate, which adds to the same
//! [`Findings`]). Nothing is written. Free functions over a store: no broker, no clock.
//!
//! One **pass**: root → catalogue → the manifest of each lane → its pages and spill pages (`rows`) → the bundles from
//! `follow_from` on (`tail`, a pure judgement) → what each object must hold ([`named`]) → the objects, in the order of
//! their names, each read once however many rows name it (`object`), or with `quick` only listed (`listing`). Pages are
//! read whole and checked in either case. What a pass holds in memory is bounded: names beyond the bound are left for
//! the next pass, which reads the manifests again. Lanes, pages and listings are asked for side by side, within bounds.
//!
//! Then the cuts that are kept (`cuts`): their objects, the pages and the bundles' indexes that they reach, and whether
//! the data objects that those name are there, by listings.
//!
//! The cluster may go on writing meanwhile. An object that is missing, or listed with another size, is damage only if
//! the manifests name it still when they are read again (`doubt`); otherwise it was replaced and deleted in its time,
//! and is counted as `replaced`.

mod cuts;
mod damage;
mod doubt;
mod lanes;
mod listing;
mod named;
mod object;
mod rows;
mod tail;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use serde::Serialize;
use tidewater_storage::model::{LaneId, TimestampMs, TopicId, TopicName};

use crate::keys::{ClusterId, ClusterName, Home, LineageEpoch, ObjectKey, ObjectName, Sequence};
use crate::manifest::PointerError;
use crate::store::{Buffers, ObjectStore, StoreError};
pub use cuts::CutsReport;
pub use damage::{Damage, DamageKind, DamagedCut, DamagedRange, Findings, Unread};
use lanes::Lane;
use named::Named;
use rows::{Walk, Walked};
use tail::Followed;

/// Objects and rows of them that a pass holds: about 64 MiB.
const NAMED_MAX: usize = 1 << 18;
/// Objects, without their rows, that a pass holds with `quick`: about 100 MiB.
const NAMED_QUICK_MAX: usize = 1 << 19;
/// Lanes whose manifests are walked at once.
const LANES_AT_ONCE: usize = 8;
/// Pages and spill pages, of all lanes, that are read at once; spill pages until their rows are noted.
const PAGES_AT_ONCE: usize = 64;
/// Body bytes on their way at once, and as many permits. Small objects that are being checked take as much again.
const BYTES_IN_FLIGHT: usize = 128 << 20;
/// Bytes of freed bodies kept for the next ones.
const BUFFERS_BYTES: usize = 64 << 20;

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Whose objects are looked at.
    pub name: ClusterName,
    /// Data objects are only listed: existence and, where manifests say it, size.
    pub quick: bool,
}

/// How far it is. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Data objects looked at.
    pub objects: u64,
    /// Bytes of theirs, read and checked.
    pub bytes: u64,
    /// Bytes that rows answer for, as far as lanes are read; a bound, since rows may be clipped.
    pub bytes_total: u64,
}

/// What was found. *Message*.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    pub name: ClusterName,
    pub cluster: ClusterId,
    /// The epoch that was verified: the catalogue's.
    pub epoch: LineageEpoch,
    pub quick: bool,
    pub lanes: Vec<LaneReport>,
    /// Data objects looked at.
    pub objects: u64,
    /// Bytes of theirs that were read and checked.
    pub bytes: u64,
    /// Rows of manifests and entries of bundles.
    pub rows: u64,
    /// Objects that the cluster replaced and deleted while this ran.
    pub replaced: u64,
    pub cuts: CutsReport,
    /// Topics by id, for printing.
    pub topics: BTreeMap<TopicId, TopicName>,
    #[serde(flatten)]
    pub findings: Findings,
    /// What is no damage but worth knowing.
    pub notes: Vec<String>,
}

/// A lane that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    pub lane: LaneId,
    pub partitions: u64,
    /// The last bundle found.
    pub last: Sequence,
    /// When it was written; of the manifest if no bundle follows it, -1 without either.
    pub written: TimestampMs,
    /// A seal or a closed manifest: the epoch in which the lane goes on.
    pub ended_for: Option<LineageEpoch>,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the bucket has no cluster named {name}: there is no object {key}; check --from and --cluster-name")]
    NoCluster { name: ClusterName, key: ObjectKey },
    #[error("object {key}: {reason}; without it nothing of the cluster is found")]
    Unreadable { key: ObjectKey, reason: PointerError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VerifyReport {
    /// Nothing is damaged or missing, and everything could be looked at.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What all parts of a run share.
struct Run<'a> {
    store: Arc<dyn ObjectStore>,
    quick: bool,
    findings: RefCell<Findings>,
    progress: Cell<VerifyProgress>,
    tell: &'a dyn Fn(VerifyProgress),
    /// Permits, one a byte of a body in flight.
    room: tokio::sync::Semaphore,
    /// Permits, one a page or spill page.
    pages: tokio::sync::Semaphore,
    buffers: Buffers,
    /// For checks of bytes; `None` outside of a runtime, as in a simulation: they are made in place.
    threads: Option<tokio::runtime::Handle>,
}

/// What a pass found in a lane's manifest and bundles.
struct Passed {
    read: Lane,
    walked: Walked,
    ended: Followed,
}

impl Run<'_> {
    fn find(&self, damage: Damage) {
        self.findings.borrow_mut().add(damage);
    }

    fn unread(&self, object: &ObjectName, error: &impl std::fmt::Display) {
        self.findings.borrow_mut().unread(object.to_string(), error.to_string());
    }

    fn advance(&self, change: impl FnOnce(&mut VerifyProgress)) {
        let mut progress = self.progress.get();
        change(&mut progress);
        self.progress.set(progress);
        (self.tell)(progress);
    }
}

/// Verifies a cluster's bucket; `tell` is called as it goes.
///
/// # Errors
/// [`VerifyError`]: not even the root can be read. What is found later is in the report.
pub async fn verify(
    store: Arc<dyn ObjectStore>,
    request: &VerifyRequest,
    tell: &dyn Fn(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    verify_within(store, request, tell, if request.quick { NAMED_QUICK_MAX } else { NAMED_MAX }).await
}

/// With a bound on what a pass holds.
pub(crate) async fn verify_within(
    store: Arc<dyn ObjectStore>,
    request: &VerifyRequest,
    tell: &dyn Fn(VerifyProgress),
    named_max: usize,
) -> Result<VerifyReport, VerifyError> {
    let run = Run {
        store,
        quick: request.quick,
        findings: RefCell::default(),
        progress: Cell::default(),
        tell,
        room: tokio::sync::Semaphore::new(BYTES_IN_FLIGHT),
        pages: tokio::sync::Semaphore::new(PAGES_AT_ONCE),
        buffers: Buffers::new(BUFFERS_BYTES),
        threads: tokio::runtime::Handle::try_current().ok(),
    };
    let start = run.start(&request.name).await?;
    let mut report = VerifyReport {
        name: request.name.clone(),
        cluster: start.home.cluster,
        epoch: start.home.epoch,
        quick: request.quick,
        lanes: Vec::new(),
        objects: 0,
        bytes: 0,
        rows: 0,
        replaced: 0,
        cuts: CutsReport::default(),
        topics: start.topics(),
        findings: Findings::default(),
        notes: start.notes.clone(),
    };
    let mut topics = BTreeSet::new();
    // Later passes end at the bundle where the first one did: the cluster may write as fast as they read.
    let mut lasts: BTreeMap<LaneId, Sequence> = BTreeMap::new();
    let mut from: Option<ObjectName> = None;
    loop {
        // Only the first pass reports what it finds on the way to the objects: later ones meet it again.
        let is_first = from.is_none();
        let named = RefCell::new(Named::new(from, named_max, !run.quick));
        let pass = |lane: LaneId| run.pass(start.home, lane, &named, lasts.get(&lane).copied(), is_first);
        let passed: Vec<Option<Passed>> =
            stream::iter(start.lanes.iter().copied()).map(pass).buffered(LANES_AT_ONCE).collect().await;
        if is_first {
            for Passed { read, walked, ended } in passed.into_iter().flatten() {
                lasts.insert(read.lane, ended.last);
                report.rows += walked.rows + ended.entries;
                report.lanes.push(lane_report(&read, walked.partitions, &ended));
                topics.extend(walked.topics);
            }
        }
        let named = named.into_inner();
        from = named.left_from();
        let doubts = if run.quick { run.list(named).await } else { run.read_objects(named).await };
        report.replaced += run.settle(start.home, doubts).await;
        if from.is_none() {
            break;
        }
    }
    run.check_catalogue(&start, &topics).await;
    let done = run.progress.get();
    report.cuts = run.cuts(start.home, named_max, &mut report.notes).await;
    (report.objects, report.bytes, report.findings) = (done.objects, done.bytes, run.findings.into_inner());
    Ok(report)
}

impl Run<'_> {
    /// Notes in `named` what a lane names; `None` if its manifest cannot be used.
    async fn pass(
        &self,
        home: Home,
        lane: LaneId,
        named: &RefCell<Named>,
        upto: Option<Sequence>,
        is_first: bool,
    ) -> Option<Passed> {
        let read = self.lane(home, lane, is_first).await?;
        let walk = Walk::of_lane(named, is_first);
        let mut walked = self.rows_of(&read, walk).await;
        if is_first {
            self.object_pages_of(&read, walk).await;
        }
        let ends = std::mem::take(&mut walked.ends);
        let ended = self.follow(&read, ends, named, upto, is_first).await;
        Some(Passed { read, walked, ended })
    }
}

fn lane_report(read: &Lane, partitions: u64, ended: &Followed) -> LaneReport {
    let published = read.published.as_ref();
    LaneReport {
        lane: read.lane,
        partitions,
        last: ended.last,
        written: ended.written.or(published.map(|lane| lane.written)).unwrap_or(TimestampMs::NONE),
        ended_for: ended.sealed_for.or(published.and_then(|lane| lane.closed_for)),
    }
}
