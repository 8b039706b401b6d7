//! A data lane's blob in the checkpoint: `DESIGN.md`, "Formats of this package".

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Sections};
use tidewater_storage::model::{LaneId, PartitionId};
use tidewater_tiering::manifest::{LaneManifest, PartitionManifest};

use super::codec::{LaneBlob, LittleEndian, MEMBERSHIP, lane_blob, open_lane_blob};
use super::lane::DataLane;
use super::lane_events::LaneEvents;

const ARCHIVE: u64 = 2;
const GONE: u64 = 3;
const EVENTS: u64 = 4;
const REVISION: u64 = 7;
const WHAT: &str = "lane checkpoint";

/// A lane blob that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint of lane {lane} cannot be read: {source}")]
pub struct BadLaneBlob {
    pub lane: LaneId,
    pub source: CodecError,
}

/// The membership blob within a lane's checkpoint blob; `None` for a new lane.
#[must_use]
pub fn membership_of(blob: &Bytes) -> Option<Bytes> {
    Blob::decode(blob).ok().map(|blob| blob.membership).filter(|m| !m.is_empty())
}

/// The checkpoint blob of a lane that begins with these voters and this archive; `gone` are its dropped partitions.
#[must_use]
pub fn begun_with(membership: &[u8], archive: &LaneManifest, gone: &BTreeMap<PartitionId, PartitionManifest>) -> Bytes {
    Blob::encode(membership, archive, gone, &LaneEvents::default(), 0)
}

/// What a lane's checkpoint blob holds.
pub(super) struct Blob {
    pub(super) membership: Bytes,
    pub(super) archive: LaneManifest,
    pub(super) gone: BTreeMap<PartitionId, PartitionManifest>,
    pub(super) events: LaneEvents,
    /// 0 in blobs of versions that did not keep it.
    pub(super) revision: u64,
}

impl Blob {
    pub(super) fn of_new_lane(archive: LaneManifest) -> Self {
        Self { membership: Bytes::new(), archive, gone: BTreeMap::new(), events: LaneEvents::default(), revision: 0 }
    }

    pub(super) fn decode(blob: &[u8]) -> Result<Self, CodecError> {
        match open_lane_blob(WHAT, blob)? {
            LaneBlob::Sections(sections) => Self::take(sections),
            LaneBlob::Positional(membership, from) => Self::take_positional(membership, from),
        }
    }

    fn take(mut sections: Sections<'_>) -> Result<Self, CodecError> {
        let (mut membership, mut archive, mut gone, mut events, mut revision) = (None, None, None, None, 0);
        while let Some((tag, mut body)) = sections.next(&[MEMBERSHIP, ARCHIVE, GONE, EVENTS, REVISION])? {
            match tag {
                MEMBERSHIP => membership = Some(Bytes::copy_from_slice(body.rest())),
                ARCHIVE => archive = Some(LaneManifest::decode(body.rest())?),
                GONE => gone = Some(body.list(1, |body| PartitionManifest::decode(body.bytes()?))?),
                REVISION => revision = body.var()?,
                _ => events = Some(serde_json::from_slice(body.rest()).map_err(|_| body.bad("lane event"))?),
            }
            body.end()?;
        }
        let gone = sections.required(GONE, gone)?;
        Ok(Self {
            membership: sections.required(MEMBERSHIP, membership)?,
            archive: sections.required(ARCHIVE, archive)?,
            gone: gone.into_iter().map(|manifest| (manifest.id, manifest)).collect(),
            events: sections.required(EVENTS, events)?,
            revision,
        })
    }

    fn take_positional(membership: Bytes, mut from: LittleEndian<'_>) -> Result<Self, CodecError> {
        let archive = LaneManifest::decode(from.blob()?)?;
        let mut gone = BTreeMap::new();
        for _ in 0..from.u32()? {
            let manifest = PartitionManifest::decode(from.blob()?)?;
            gone.insert(manifest.id, manifest);
        }
        let events = serde_json::from_slice(from.blob()?).map_err(|_| from.bad("lane event"))?;
        from.end()?;
        Ok(Self { membership, archive, gone, events, revision: 0 })
    }

    fn encode(
        membership: &[u8],
        archive: &LaneManifest,
        gone: &BTreeMap<PartitionId, PartitionManifest>,
        events: &LaneEvents,
        revision: u64,
    ) -> Bytes {
        lane_blob(membership, |out| {
            out.section(ARCHIVE, true, |out| out.raw(&archive.encode()));
            out.section(GONE, true, |out| out.list(gone.values(), |out, manifest| out.bytes(&manifest.encode())));
            let events = serde_json::to_vec(events).expect("maps, numbers and strings serialise into memory");
            out.section(EVENTS, true, |out| out.raw(&events));
            if revision > 0 {
                out.section(REVISION, true, |out| out.var(revision));
            }
        })
    }
}

impl DataLane {
    /// The lane's blob for the checkpoint.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (archive, gone, events) = (self.archive.borrow(), self.gone.borrow(), self.events.borrow());
        Blob::encode(&self.status.membership(), &archive, &gone, &events, self.revision.get())
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{LogIndex, Offset};
    use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};

    use super::*;
    use crate::partition::state::golden;
    use crate::partition::state::lane_events::LaneEvent;

    fn blob() -> Blob {
        let home = Home { cluster: ClusterId(uuid::Uuid::from_u128(7)), epoch: LineageEpoch::FIRST };
        let mut blob = Blob::of_new_lane(LaneManifest::new(home, LaneId(3)));
        blob.membership = Bytes::from_static(b"voters");
        let dropped = PartitionManifest::new(PartitionId::default(), Offset::new(5), LogIndex(4));
        blob.gone.insert(dropped.id, dropped);
        let moved = LaneEvent::LogStartMoved { partition: PartitionId::default(), to: Offset::new(3) };
        blob.events.push(LaneId(3), LogIndex(9), moved);
        blob
    }

    fn encoded(blob: &Blob) -> Bytes {
        Blob::encode(&blob.membership, &blob.archive, &blob.gone, &blob.events, blob.revision)
    }

    #[test]
    fn every_version_is_read() {
        golden::frozen("lane-v2", &encoded(&blob()));
        for name in ["lane-v1", "lane-v2"] {
            let read = Blob::decode(&golden::kept(name)).expect("is read");
            assert_eq!(encoded(&read), encoded(&blob()), "{name}");
        }
        let revised = golden::frozen("lane-v2-revision", &encoded(&Blob { revision: 300, ..blob() }));
        assert_eq!(Blob::decode(&revised).expect("is read").revision, 300);
    }

    #[test]
    fn a_section_that_must_be_known_is_refused_with_what_to_do() {
        let mut blob = encoded(&blob()).to_vec();
        blob.extend_from_slice(&[100, 1, 0]);
        let source = Blob::decode(&blob).err().expect("is refused");
        let refused = BadLaneBlob { lane: LaneId(3), source }.to_string();
        assert!(source.is_newer() && refused.contains("lane 3") && refused.contains("start the newer"), "{refused}");
    }
}
