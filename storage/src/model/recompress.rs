//! A batch in another codec: the same records, offsets, timestamps and sequence numbers, in other bytes. Pure; costs
//! the time of unpacking and packing.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{BatchHeader, CRC_START, HEADER_LEN, PREFIX_LEN};
use super::compression::Compression;
use super::record::{RecordError, read};

/// The bits of a batch's attributes that name its codec.
const CODEC_BITS: i16 = 0x07;

/// Packs a batch again with `codec` at `level` (`None` is the codec's default). `header` was parsed from `batch`. Every
/// record is read on the way, since what is stored afterwards carries a new checksum.
///
/// `unpacked_max` bounds what the records may unpack to.
///
/// # Errors
/// The records do not unpack, or are not what the header says.
pub fn recompress(
    header: &BatchHeader,
    batch: &Bytes,
    codec: Compression,
    level: Option<i32>,
    unpacked_max: usize,
) -> Result<BytesMut, RecordError> {
    let mut records = read(header, batch, unpacked_max)?;
    let unpacked = records.unpacked();
    records.try_for_each(|record| record.map(drop))?;
    let packed = codec.compress_at(&unpacked, level)?;
    let head = batch.get(..HEADER_LEN).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
    let len = HEADER_LEN + packed.len();
    let length = i32::try_from(len - PREFIX_LEN)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "packs to more than a batch holds"))?;
    let mut out = BytesMut::with_capacity(len);
    out.put_slice(head);
    out.put_slice(&packed);
    out[8..12].copy_from_slice(&length.to_be_bytes());
    let attributes = (header.attributes & !CODEC_BITS) | codec.code();
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc32c::crc32c(&out[CRC_START..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    debug_assert!(BatchHeader::parse(&out).is_ok_and(|made| {
        let unchanged = BatchHeader { len: header.len, crc: header.crc, attributes: header.attributes, ..made };
        made.len as usize == len && made.verify_crc(&out).is_ok() && unchanged == *header
    }));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::record::{BatchBuilder, Record, read_all};
    use crate::model::{ProducerEpoch, ProducerId, TimestampMs, TimestampType};

    fn batch(codec: Compression, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(codec).producer(ProducerId(7), ProducerEpoch(2), 40);
        for n in 0..records {
            let key = (n % 3 == 0).then(|| Bytes::from(format!("key {n}")));
            builder.push(Record::new(TimestampMs(1000 + n as i64), key, Some(Bytes::from(vec![n as u8; 300]))));
        }
        builder.build()
    }

    #[test]
    fn records_and_sequence_are_the_same_in_every_codec() {
        for from in Compression::ALL {
            let sent = batch(from, 500);
            let header = BatchHeader::parse(&sent).expect("parses");
            for to in Compression::ALL {
                let made = recompress(&header, &sent, to, None, 1 << 20).expect("recompresses").freeze();
                let now = BatchHeader::parse(&made).expect("parses");
                now.verify_crc(&made).expect("checksum holds");
                assert_eq!((now.compression(), now.len as usize), (Some(to), made.len()));
                assert_eq!(
                    (now.producer_id, now.producer_epoch, now.base_sequence),
                    (Some(ProducerId(7)), ProducerEpoch(2), 40)
                );
                let records = |header, batch| read_all(header, batch, 1 << 20).expect("reads");
                assert_eq!(records(&now, &made), records(&header, &sent), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn other_attributes_stay() {
        let mut sent = BytesMut::from(&batch(Compression::Gzip, 3)[..]);
        crate::model::batch::stamp_log_append_time(&mut sent, TimestampMs(5000));
        let header = BatchHeader::parse(&sent).expect("parses");
        let made = recompress(&header, &sent.freeze(), Compression::Zstd, Some(1), 1 << 20).expect("recompresses");
        let now = BatchHeader::parse(&made).expect("parses");
        assert_eq!((now.timestamp_type(), now.max_timestamp), (TimestampType::LogAppend, TimestampMs(5000)));
    }

    #[test]
    fn what_unpacks_to_too_much_or_not_at_all_is_refused() {
        let sent = batch(Compression::Zstd, 500);
        let header = BatchHeader::parse(&sent).expect("parses");
        let refused = recompress(&header, &sent, Compression::Lz4, None, 10_000);
        assert!(matches!(refused, Err(RecordError::Unpack(_))));
        for codec in Compression::ALL {
            let mut broken = BytesMut::from(&batch(codec, 500)[..]);
            let cut = broken.len() - 7;
            broken[HEADER_LEN + 1..cut].fill(0xa5);
            let header = BatchHeader::parse(&broken).expect("parses");
            assert!(recompress(&header, &broken.freeze(), Compression::Lz4, None, 1 << 20).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn a_count_that_does_not_hold_is_refused() {
        let mut sent = BytesMut::from(&batch(Compression::None, 3)[..]);
        sent[57..61].copy_from_slice(&4i32.to_be_bytes());
        let header = BatchHeader::parse(&sent).expect("parses");
        let refused = recompress(&header, &sent.freeze(), Compression::Lz4, None, 1 << 20);
        assert!(matches!(refused, Err(RecordError::Count { expected: 4, found: 3 })));
    }

    proptest! {
        #[test]
        fn hostile_batches_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN..400), to in 0usize..5) {
            bytes[16] = 2;
            let len = (bytes.len() - PREFIX_LEN) as i32;
            bytes[8..12].copy_from_slice(&len.to_be_bytes());
            if let Ok(header) = BatchHeader::parse(&bytes) {
                let _ = recompress(&header, &Bytes::from(bytes), Compression::ALL[to], None, 1 << 16);
            }
        }
    }
}
