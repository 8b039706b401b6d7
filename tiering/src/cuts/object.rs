//! A cut: every lane as it was published and how far its bundles went, and the catalogue.
//!
//! Owns: content and encoding (`FORMAT.md` §8). Does not own: where manifests and bundles are read from. A *message*.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Encoder, Sections};
use tidewater_storage::model::{LaneId, TimestampMs};

use crate::format::{Body, DecodeNames, EncodeNames, FormatError, INDEX_BYTES_MAX, body_only, read_whole};
use crate::keys::{Home, Nonce, Sequence};

const CUT: &str = "cut";
const HEADER: u64 = 1;
const CATALOGUE: u64 = 2;
const LANES: u64 = 3;

/// See the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub home: Home,
    pub number: u64,
    /// Of the attempt that made it.
    pub nonce: Nonce,
    /// When its last read was over.
    pub at: TimestampMs,
    /// The catalogue's object as it was after the last lane was read.
    pub catalogue: Bytes,
    /// By lane.
    pub lanes: Vec<CutLaneState>,
}

/// A lane in a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutLaneState {
    pub lane: LaneId,
    /// The lane manifest's object; `None` if nothing was published yet.
    pub manifest: Option<Bytes>,
    /// The last bundle that is in the cut.
    pub last: Sequence,
    /// The checksum of its index; 0 if there is no bundle.
    pub last_crc: u32,
    /// When it was written, by its broker's clock; -1 if there is none.
    pub written: TimestampMs,
}

impl Cut {
    /// The object; `None` if it would be larger than readers take.
    #[must_use]
    pub fn encode(&self) -> Option<Bytes> {
        let manifests = self.lanes.iter().map(|lane| 64 + lane.manifest.as_ref().map_or(0, Bytes::len));
        let size = 256 + self.catalogue.len() + manifests.sum::<usize>();
        if size > INDEX_BYTES_MAX as usize {
            return None;
        }
        let mut out = Encoder::new();
        out.section(HEADER, true, |out| {
            out.home(self.home);
            out.var(self.number);
            out.u64(self.nonce.0);
            out.time(self.at);
        });
        out.section(CATALOGUE, true, |out| out.bytes(&self.catalogue));
        out.section(LANES, true, |out| {
            out.list(self.lanes.iter(), |out, lane| {
                out.lane(lane.lane);
                out.option(lane.manifest.as_ref(), |out, manifest| out.bytes(manifest));
                out.var(lane.last.0);
                out.u32(lane.last_crc);
                out.time(lane.written);
            });
        });
        Some(body_only(Body::Cut, &out.finish()).0)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(object: &Bytes) -> Result<Self, FormatError> {
        let (body, _) = read_whole(object, Body::Cut)?;
        let mut sections = Sections::new(CUT, &body);
        let known = [HEADER, CATALOGUE, LANES];
        let Some((HEADER, mut header)) = sections.next(&known)? else {
            return Err(CodecError::Missing { what: CUT, tag: HEADER }.into());
        };
        let mut cut = Self {
            home: header.home()?,
            number: header.var()?,
            nonce: Nonce(header.u64()?),
            at: header.time()?,
            catalogue: Bytes::new(),
            lanes: Vec::new(),
        };
        header.end()?;
        while let Some((tag, mut body)) = sections.next(&known)? {
            if tag == CATALOGUE {
                cut.catalogue = Bytes::copy_from_slice(body.bytes()?);
            } else {
                cut.lanes = body.list(8, |body| {
                    Ok(CutLaneState {
                        lane: body.lane()?,
                        manifest: body.option(|body| Ok(Bytes::copy_from_slice(body.bytes()?)))?,
                        last: body.sequence()?,
                        last_crc: body.u32()?,
                        written: body.time()?,
                    })
                })?;
            }
            body.end()?;
        }
        if !cut.lanes.is_sorted_by(|a, b| a.lane < b.lane) {
            return Err(tidewater_storage::codec::Decoder::new(CUT, &body).bad("order of lanes").into());
        }
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::disposition::Disposition;

    use super::*;
    use crate::keys::{ClusterId, LineageEpoch};

    prop_compose! {
        fn any_lane()(
            manifest in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
            last in any::<u64>(),
            last_crc in any::<u32>(),
            written in any::<i64>(),
        ) -> (Option<Vec<u8>>, u64, u32, i64) {
            (manifest, last, last_crc, written)
        }
    }

    prop_compose! {
        fn any_cut()(
            number in any::<u64>(),
            nonce in any::<u64>(),
            at in any::<i64>(),
            catalogue in proptest::collection::vec(any::<u8>(), 0..200),
            lanes in proptest::collection::btree_map(any::<u32>(), any_lane(), 0..5),
        ) -> Cut {
            let lane = |(lane, (manifest, last, last_crc, written)): (u32, (Option<Vec<u8>>, u64, u32, i64))| CutLaneState {
                lane: LaneId(lane),
                manifest: manifest.map(Bytes::from),
                last: Sequence(last),
                last_crc,
                written: TimestampMs(written),
            };
            let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch(2) };
            let lanes = lanes.into_iter().map(lane).collect();
            Cut { home, number, nonce: Nonce(nonce), at: TimestampMs(at), catalogue: catalogue.into(), lanes }
        }
    }

    proptest! {
        #[test]
        fn a_cut_reads_back_and_no_flipped_bit_passes(cut in any_cut(), flip in any::<usize>()) {
            let object = cut.encode().expect("small");
            prop_assert_eq!(Cut::decode(&object), Ok(cut));
            let mut bytes = object.to_vec();
            let at = flip % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            let error = Cut::decode(&bytes.into()).expect_err("is noticed");
            prop_assert!(matches!(error.disposition(), Disposition::Corrupt | Disposition::Refused), "{}", error);
        }
    }

    #[test]
    fn the_sample_is_read_and_written_again_as_it_was() {
        let sample = Bytes::from_static(include_bytes!("../../../tests/golden/tiering/cut_v1.bin"));
        let cut = Cut::decode(&sample).expect("readable");
        assert_eq!((cut.number, cut.lanes.len()), (42, 2));
        assert_eq!(cut.encode(), Some(sample));
    }

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch(2) };
        let catalogue = Bytes::from(vec![0; INDEX_BYTES_MAX as usize]);
        let cut = Cut { home, number: 1, nonce: Nonce(1), at: TimestampMs(1), catalogue, lanes: Vec::new() };
        assert_eq!(cut.encode(), None);
    }
}
