//! Cluster, sequence and object names as fields: what keys add to the codec.

use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use uuid::Uuid;

use crate::keys::{ClusterId, Home, LineageEpoch, Nonce, ObjectKind, ObjectName, Sequence};

/// Writes names; `FORMAT.md` §3 lists their fields.
pub trait EncodeNames {
    fn sequence(&mut self, sequence: Sequence);
    /// Cluster and epoch.
    fn home(&mut self, home: Home);
    fn name(&mut self, name: ObjectName);
}

/// Reads what [`EncodeNames`] wrote.
#[allow(clippy::missing_errors_doc, reason = "as every method of Decoder")]
pub trait DecodeNames {
    fn sequence(&mut self) -> Result<Sequence, CodecError>;
    fn home(&mut self) -> Result<Home, CodecError>;
    fn name(&mut self) -> Result<ObjectName, CodecError>;
}

impl EncodeNames for Encoder {
    fn sequence(&mut self, sequence: Sequence) {
        self.var(sequence.0);
    }

    fn home(&mut self, home: Home) {
        self.raw(home.cluster.0.as_bytes());
        self.u32(home.epoch.0);
    }

    fn name(&mut self, name: ObjectName) {
        self.home(name.home);
        match name.kind {
            ObjectKind::Catalogue => self.u8(0),
            ObjectKind::Bundle { lane, sequence } => {
                self.u8(1);
                self.lane(lane);
                self.sequence(sequence);
            }
            ObjectKind::Part { partition, lane, sequence, term, nonce } => {
                self.u8(9);
                self.partition(partition);
                self.lane(lane);
                self.sequence(sequence);
                self.term(term);
                self.u64(nonce.0);
            }
            ObjectKind::Segment { partition, base, term, nonce } => {
                self.u8(3);
                self.partition(partition);
                self.offset(base);
                self.term(term);
                self.u64(nonce.0);
            }
            ObjectKind::Gathered { lane, first, term, nonce } => {
                self.u8(4);
                self.lane(lane);
                self.sequence(first);
                self.term(term);
                self.u64(nonce.0);
            }
            ObjectKind::Spill { partition, start, level, nonce } => {
                self.u8(5);
                self.partition(partition);
                self.offset(start);
                self.u8(level);
                self.u64(nonce.0);
            }
            ObjectKind::LaneManifest { lane } => {
                self.u8(6);
                self.lane(lane);
            }
            ObjectKind::Page { lane, term, nonce } => {
                self.u8(7);
                self.lane(lane);
                self.term(term);
                self.u64(nonce.0);
            }
            ObjectKind::Cut { number } => {
                self.u8(8);
                self.var(number);
            }
        }
    }
}

impl DecodeNames for Decoder<'_> {
    fn sequence(&mut self) -> Result<Sequence, CodecError> {
        self.var().map(Sequence)
    }

    fn home(&mut self) -> Result<Home, CodecError> {
        let cluster = ClusterId(Uuid::from_bytes(self.array()?));
        Ok(Home { cluster, epoch: LineageEpoch(self.u32()?) })
    }

    fn name(&mut self) -> Result<ObjectName, CodecError> {
        let home = self.home()?;
        let kind = match self.u8()? {
            0 => ObjectKind::Catalogue,
            1 => ObjectKind::Bundle { lane: self.lane()?, sequence: self.sequence()? },
            3 => ObjectKind::Segment {
                partition: self.partition()?,
                base: self.offset()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            4 => ObjectKind::Gathered {
                lane: self.lane()?,
                first: self.sequence()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            5 => ObjectKind::Spill {
                partition: self.partition()?,
                start: self.offset()?,
                level: self.u8()?,
                nonce: Nonce(self.u64()?),
            },
            6 => ObjectKind::LaneManifest { lane: self.lane()? },
            7 => ObjectKind::Page { lane: self.lane()?, term: self.term()?, nonce: Nonce(self.u64()?) },
            8 => ObjectKind::Cut { number: self.var()? },
            // 2 named parts without their partition; no release wrote one.
            9 => ObjectKind::Part {
                partition: self.partition()?,
                lane: self.lane()?,
                sequence: self.sequence()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            _ => return Err(self.bad("object kind")),
        };
        Ok(home.name(kind))
    }
}
