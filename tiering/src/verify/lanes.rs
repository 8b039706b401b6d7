//! Root, catalogue and lane manifests: where the walk begins, and what the catalogue must name at its end.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, TopicId, TopicName};

use super::damage::{Damage, DamageKind};
use super::object::is_settled;
use super::{Run, VerifyError};
use crate::fetch::indexes::IndexError;
use crate::keys::{ClusterName, Home, LineageEpoch, ObjectKey, ObjectKind, ObjectName};
use crate::manifest::{Catalogue, PublishedLane, Root};
use crate::store::StoreError;

/// Where a run begins.
pub(super) struct Start {
    /// Whose objects are verified: the catalogue's.
    pub(super) home: Home,
    catalogue_key: ObjectKey,
    catalogue: Option<Catalogue>,
    pub(super) lanes: Vec<LaneId>,
    pub(super) notes: Vec<String>,
}

/// A lane as its manifest says.
pub(super) struct Lane {
    pub(super) home: Home,
    pub(super) lane: LaneId,
    /// `None`: nothing was published yet.
    pub(super) published: Option<PublishedLane>,
}

impl Start {
    pub(super) fn topics(&self) -> BTreeMap<TopicId, TopicName> {
        let topics = self.catalogue.iter().flat_map(|catalogue| &catalogue.topics);
        topics.map(|topic| (topic.id, topic.name.clone())).collect()
    }
}

impl Run<'_> {
    /// Reads root and catalogue. A damaged catalogue is a finding; the lanes are then listed.
    pub(super) async fn start(&self, name: &ClusterName) -> Result<Start, VerifyError> {
        let key = name.root_key();
        let root = match self.store.get(&key, None).await {
            Ok(got) => Root::decode(&got.body).map_err(|reason| VerifyError::Unreadable { key, reason })?,
            Err(StoreError::NotFound { .. }) => return Err(VerifyError::NoCluster { name: name.clone(), key }),
            Err(error) => return Err(error.into()),
        };
        let catalogue_key = root.catalogue.clone();
        let home = match ObjectName::parse(&catalogue_key) {
            Some(ObjectName { home, kind: ObjectKind::Catalogue }) => home,
            _ => root.home(),
        };
        let mut notes = Vec::new();
        if home != root.home() {
            let (next, now) = (root.epoch, home.epoch);
            notes.push(format!("a restore into epoch {next} has begun and is not done: epoch {now} is verified"));
        }
        let catalogue = self.catalogue(home, &catalogue_key).await?;
        let lanes = match &catalogue {
            Some(catalogue) => catalogue.lanes.clone(),
            None => self.lanes_listed(home).await?,
        };
        if catalogue.is_none() && !lanes.is_empty() && self.findings.borrow().is_empty() {
            let reason = format!("{} lanes have manifests and no catalogue names them", lanes.len());
            self.find(Damage::new(DamageKind::Missing, &home.name(ObjectKind::Catalogue), reason));
        }
        if lanes.is_empty() {
            notes.push("nothing is archived yet".to_owned());
        }
        Ok(Start { home, catalogue_key, catalogue, lanes, notes })
    }

    async fn catalogue(&self, home: Home, key: &ObjectKey) -> Result<Option<Catalogue>, VerifyError> {
        let name = home.name(ObjectKind::Catalogue);
        let body = match self.store.get(key, None).await {
            Ok(got) => got.body,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Catalogue::decode(&body) {
            Ok(catalogue) if catalogue.home == home => return Ok(Some(catalogue)),
            Ok(Catalogue { home: Home { cluster, epoch }, .. }) => {
                let reason = format!("it is the catalogue of cluster {cluster}, epoch {epoch}");
                self.find(Damage::new(DamageKind::Foreign, &name, reason));
            }
            Err(error) => self.find(Damage::new(DamageKind::Unreadable, &name, error.to_string())),
        }
        Ok(None)
    }

    /// Lanes that have a manifest.
    async fn lanes_listed(&self, home: Home) -> Result<Vec<LaneId>, VerifyError> {
        const LIST_MAX: usize = 1000;
        let first = home.lane_manifest(LaneId(0)).key();
        let folder = first.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let (mut lanes, mut after) = (Vec::new(), None::<ObjectKey>);
        loop {
            let after_key = after.as_ref().map(ObjectKey::as_str);
            let listed = self.store.list(&format!("{folder}/"), after_key, LIST_MAX).await?;
            after = listed.last().map(|last| last.key.clone());
            let is_last = listed.len() < LIST_MAX;
            lanes.extend(listed.iter().filter_map(|listed| match ObjectName::parse(&listed.key)?.kind {
                ObjectKind::LaneManifest { lane } => Some(lane),
                _ => None,
            }));
            if is_last {
                return Ok(lanes);
            }
        }
    }

    /// A lane as published now; `None` if its manifest cannot be used, which is a finding.
    pub(super) async fn lane(&self, home: Home, lane: LaneId, report: bool) -> Option<Lane> {
        let name = home.lane_manifest(lane);
        let mut tries = 0;
        let found = loop {
            tries += 1;
            let found = match self.store.get(&name.key(), None).await {
                Ok(got) => PublishedLane::decode(&got.body).map_err(IndexError::Format),
                Err(error) => Err(IndexError::Store(error)),
            };
            if is_settled(&found, tries) {
                break found;
            }
        };
        match found {
            Ok(published) if (published.home, published.lane) == (home, lane) => {
                return Some(Lane { home, lane, published: Some(published) });
            }
            Ok(PublishedLane { home: Home { cluster, epoch }, lane: of, .. }) if report => {
                let reason = format!("it is the manifest of lane {of}, cluster {cluster}, epoch {epoch}");
                self.find(Damage::new(DamageKind::Foreign, &name, reason));
            }
            Err(IndexError::Store(StoreError::NotFound { .. })) => {
                if !self.has_pages(home, lane).await {
                    return Some(Lane { home, lane, published: None });
                }
                if report {
                    self.find(Damage::new(DamageKind::Missing, &name, "pages of the lane are there"));
                }
            }
            Err(IndexError::Format(error)) if report => {
                self.find(Damage::new(DamageKind::Unreadable, &name, error.to_string()));
            }
            Err(IndexError::Store(error)) if report => self.unread(&name, &error),
            Ok(_) | Err(_) => {}
        }
        None
    }

    /// Was anything of the lane ever published? Its pages are written before its manifest.
    async fn has_pages(&self, home: Home, lane: LaneId) -> bool {
        let prefix = format!("{}pages/{:010}/", home.prefix(), lane.0);
        self.store.list(&prefix, None, 1).await.is_ok_and(|listed| !listed.is_empty())
            && self.store.head(&home.lane_manifest(lane).key()).await.is_err()
    }

    /// Every topic that has records in the bucket must be in the catalogue: a restore makes topics from it.
    pub(super) async fn check_catalogue(&self, start: &Start, partitions: &BTreeSet<TopicId>) {
        let listed = |catalogue: &Catalogue| catalogue.topics.iter().map(|topic| topic.id).collect::<BTreeSet<_>>();
        let Some(known) = start.catalogue.as_ref().map(listed) else { return };
        if partitions.is_subset(&known) {
            return;
        }
        // Topics may have come while this ran.
        let Ok(Some(again)) = self.catalogue(start.home, &start.catalogue_key).await else { return };
        for topic in partitions.difference(&listed(&again)) {
            let reason = format!("it does not name topic {topic}, which has records in the bucket");
            self.find(Damage::new(DamageKind::Unlisted, &start.home.name(ObjectKind::Catalogue), reason));
        }
    }
}

/// Is the name of the lineage that ends with `home`?
pub(super) fn is_of_lineage(home: Home, object: &ObjectName) -> bool {
    object.home.cluster == home.cluster && (LineageEpoch::FIRST..=home.epoch).contains(&object.home.epoch)
}
