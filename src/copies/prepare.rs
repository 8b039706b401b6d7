//! Begins a copy: finds the topic in the bucket, and has the controller make one with the same partitions and offsets.
//! Or plans one: the same up to the controller's checks, and nothing is made.
//!
//! Owns: what is checked before anything is made. Does not own: copying (`shard`). On shard 0. Nothing of a copy that
//! is refused stays anywhere; one that is made goes on by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::{BatchHeader, LeaderEpoch, Offset, TopicName};
use tidewater_tiering::cuts::hold_cut;
use tidewater_tiering::fetch::RemoteReader;
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch};
use tidewater_tiering::manifest::PartitionManifest;
use tidewater_tiering::restore::{FoundTopic, Report, TopicState};

use super::error::CopyError;
use super::origin::{Origin, OriginParts};
use crate::config::topic;
use crate::controller::ask::{TopicError, TopicSpec};
use crate::controller::client::ControllerHandle;
use crate::controller::copies::{CopyOrigin, CopyPartition, TopicCopy, epoch_base};
use crate::controller::image::TopicImage;

/// Partitions whose first and last batch are looked at side by side.
const LOOKS: usize = 8;
/// For so long a cut stays after a copy of it was asked for, in milliseconds: by then every broker knows of the copy.
const HELD_MS: i64 = 600_000;

/// A copy that is asked for. A message.
#[derive(Clone, Debug)]
pub struct CopyAsk {
    /// The bucket's URL; `None`: this cluster's own, and its own name there.
    pub from: Option<(String, ClusterName)>,
    pub topic: TopicName,
    /// The name of the topic that is made.
    pub name: TopicName,
    pub state: TopicState,
}

/// A copy that has begun. A message.
#[derive(Clone, Debug)]
pub struct CopyBegun {
    pub topic: Arc<TopicImage>,
    /// It had begun before.
    pub resumed: bool,
    /// Settings of the origin that the topic does not get.
    pub left_out: Vec<String>,
}

/// What a copy would bring. A message.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    pub home: Home,
    pub cluster_name: ClusterName,
    /// The topic as it is found in the bucket.
    pub report: Report,
    /// Settings of the origin that the topic would not get.
    pub left_out: Vec<String>,
}

/// A copy that may be made.
struct Prepared {
    /// Of the topic that is made.
    spec: TopicSpec,
    left_out: Vec<String>,
    found: FoundTopic,
    cluster_name: ClusterName,
}

/// Begins a copy, unless the same one is under way already.
///
/// # Errors
/// Why there will be none.
pub async fn begin(parts: &OriginParts, controller: &ControllerHandle, ask: CopyAsk) -> Result<CopyBegun, CopyError> {
    if let Some(topic) = under_way(controller, &ask)? {
        return Ok(CopyBegun { topic, resumed: true, left_out: Vec::new() });
    }
    let Prepared { spec, left_out, .. } = prepare(parts, controller, &ask).await?;
    if let Some((copy, _)) = &spec.copy {
        hold(parts, &copy.origin).await?;
    }
    let topic = create(controller, spec, &ask.name).await?;
    Ok(CopyBegun { topic, resumed: false, left_out })
}

/// Holds the cut that a copy is taken from, if it is one of this cluster's own: no maker of cuts knows of the copy yet.
async fn hold(parts: &OriginParts, of: &CopyOrigin) -> Result<(), CopyError> {
    let (Some(number), None) = (of.cut, &of.url) else { return Ok(()) };
    let home = Home { cluster: ClusterId(of.cluster), epoch: LineageEpoch(of.epoch) };
    let until = parts.env.clock.wall().plus_ms(HELD_MS);
    let place = "this cluster's bucket".to_owned();
    match hold_cut(&*parts.tier.store, home, number, until).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(CopyError::CutReleased { place, number, epoch: of.epoch, origin: of.topic.clone() }),
        Err(error) => Err(CopyError::Find { place, error: Box::new(error) }),
    }
}

/// What [`begin`] would copy. Makes nothing.
///
/// # Errors
/// Why there would be no copy, or that it is under way.
pub async fn plan(parts: &OriginParts, controller: &ControllerHandle, ask: CopyAsk) -> Result<CopyPlan, CopyError> {
    if under_way(controller, &ask)?.is_some() {
        return Err(CopyError::UnderWay { name: ask.name });
    }
    let Prepared { spec, left_out, found, cluster_name } = prepare(parts, controller, &ask).await?;
    create(controller, TopicSpec { validate_only: true, ..spec }, &ask.name).await?;
    Ok(CopyPlan { home: found.home, cluster_name, report: found.report, left_out })
}

async fn create(
    controller: &ControllerHandle,
    spec: TopicSpec,
    name: &TopicName,
) -> Result<Arc<TopicImage>, CopyError> {
    controller.create_topic(spec).await.map_err(|error| match error {
        TopicError::Exists(_) => CopyError::Taken { name: name.clone() },
        error => error.into(),
    })
}

/// Finds the topic and reads the ends of its partitions.
async fn prepare(parts: &OriginParts, controller: &ControllerHandle, ask: &CopyAsk) -> Result<Prepared, CopyError> {
    let image = controller.image();
    let (url, cluster_name) = match &ask.from {
        Some((url, name)) => (Some(url.as_str()), name),
        None => (None, &parts.tier.name),
    };
    let origin = Origin::open(parts, url, cluster_name)?;
    let found = origin.restore.topic(&ask.topic, ask.state).await.map_err(|error| origin.find(error))?;
    let looks = stream::iter(&found.partitions).map(|(manifest, _)| look(&origin, manifest));
    let looks: Vec<(Offset, Option<LeaderEpoch>)> = looks.buffered(LOOKS).try_collect().await?;
    let last = looks.iter().filter_map(|(_, epoch)| *epoch);
    let last = last.chain(found.partitions.iter().filter_map(|(_, epoch)| *epoch)).max().unwrap_or(LeaderEpoch(0));
    let base = epoch_base(last).ok_or_else(|| CopyError::NoEpochs { name: ask.topic.clone() })?;
    let now = parts.env.clock.wall();
    let own = found.home.cluster.0 == image.cluster && *cluster_name == parts.tier.name;
    let copy = TopicCopy {
        origin: CopyOrigin {
            // The own bucket by another way of writing its URL is the own bucket: its cuts are held for the copy.
            url: url.filter(|url| !(own && is_same_place(url, &parts.tier.url))).map(ToOwned::to_owned),
            cluster_name: cluster_name.clone(),
            cluster: found.home.cluster.0,
            epoch: found.home.epoch.0,
            topic: ask.topic.clone(),
            topic_id: found.topic.id,
            cut: found.cut.map(|cut| cut.number),
            at: found.cut.map_or(now, |cut| cut.at),
        },
        partitions: partitions(&found, &looks),
        began: now,
        done: BTreeSet::new(),
        finished: None,
        lifted: false,
    };
    let (configs, left_out) = settings(&found);
    let spec = TopicSpec {
        name: ask.name.to_string(),
        partitions: Some(i32::try_from(copy.partitions.len()).unwrap_or(i32::MAX)),
        replication_factor: -1,
        assignments: Vec::new(),
        configs,
        validate_only: false,
        internal: false,
        copy: Some((Box::new(copy), base)),
    };
    let cluster_name = cluster_name.clone();
    Ok(Prepared { spec, left_out, found, cluster_name })
}

/// The same copy, if it has begun and is not complete.
///
/// # Errors
/// Why none may begin.
fn under_way(controller: &ControllerHandle, ask: &CopyAsk) -> Result<Option<Arc<TopicImage>>, CopyError> {
    if let Some(name) = [&ask.topic, &ask.name].into_iter().find(|name| name.is_internal()) {
        return Err(CopyError::Internal { name: name.clone() });
    }
    let (image, view) = (controller.image(), controller.view());
    if let Some(topic) = image.topic(ask.name.as_str()) {
        let is_same = topic.copy.as_ref().is_some_and(|copy| copy.finished.is_none() && is_of(&copy.origin, ask));
        if is_same {
            return Ok(Some(Arc::clone(topic)));
        }
    }
    if view.topic(ask.name.as_str()).is_some() {
        return Err(CopyError::Taken { name: ask.name.clone() });
    }
    let shown = view.topic(ask.topic.as_str()).filter(|_| ask.from.is_none());
    let Some(source) = shown.and_then(|topic| view.source_of(topic.id)) else { return Ok(None) };
    let spec = image.sources.values().map(|record| &record.spec).find(|spec| spec.name.as_str() == source);
    let (url, cluster_name) =
        spec.map_or_else(Default::default, |spec| (spec.url.clone(), spec.cluster_name.to_string()));
    Err(CopyError::Followed { topic: ask.topic.clone(), source_name: source.to_owned(), url, cluster_name })
}

/// Is a copy of that origin what is asked for?
fn is_of(origin: &CopyOrigin, ask: &CopyAsk) -> bool {
    let from = ask.from.as_ref().map(|(url, name)| (Some(url.as_str()), name));
    let is_there = match from {
        Some((url, name)) => (origin.url.is_none() || origin.url.as_deref() == url) && origin.cluster_name == *name,
        None => origin.url.is_none(),
    };
    let is_then = match ask.state {
        TopicState::Newest => origin.cut.is_none(),
        TopicState::Cut(at) => origin.cut.is_some() && at.is_none_or(|at| origin.at <= at),
    };
    is_there && is_then && origin.topic == ask.topic
}

fn is_same_place(url: &str, own: &str) -> bool {
    url.trim_end_matches('/') == own.trim_end_matches('/')
}

/// The first offset of the first batch that is read, and the leader epoch of the last batch.
async fn look(origin: &Origin, manifest: &PartitionManifest) -> Result<(Offset, Option<LeaderEpoch>), CopyError> {
    let (start, end) = (manifest.log_start, manifest.archived_end);
    if start >= end {
        return Ok((start, None));
    }
    let read = async |from: Offset| {
        let read = origin.remote.read_batches(RemoteReader::view(manifest, from), from, end, 1).await;
        read.map_err(|error| CopyError::Read { place: origin.place.clone(), error: Box::new(error) })
    };
    let first = read(start).await?.range.start;
    let last = read(Offset::new(end.get() - 1)).await?;
    let header = last.batches.first().map(|bytes| BatchHeader::parse(bytes)).transpose();
    let header = header.map_err(|error| CopyError::Batch { partition: manifest.id, error })?;
    Ok((first, header.map(|header| header.leader_epoch)))
}

fn partitions(found: &FoundTopic, looks: &[(Offset, Option<LeaderEpoch>)]) -> Vec<CopyPartition> {
    let all = found.partitions.iter().zip(looks).zip(&found.topic.partitions);
    let of = all.map(|(((manifest, _), (start, _)), listed)| CopyPartition {
        lane: listed.lane,
        log_start: manifest.log_start,
        start: *start,
        end: manifest.archived_end.max(manifest.log_start),
    });
    of.collect()
}

/// The settings that a copy gets: the origin's, but for those of its table, which the copy would fill from the
/// beginning, and those that this version does not take.
fn settings(found: &FoundTopic) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for (key, value) in &found.topic.configs {
        if key.starts_with("iceberg.") || topic::check(key, value).is_err() {
            left_out.push(key.clone());
        } else {
            kept.push((key.clone(), Some(value.clone())));
        }
    }
    (kept, left_out)
}
