//! The demo's records: orders of a shop, a pure function of partition and offset, so that a run can continue an earlier
//! one. And the checksum that compares log, bucket and table.

use bytes::Bytes;
use tidewater_storage::model::TimestampMs;
use tidewater_storage::model::record::Record;

pub(super) const ITEMS: [&str; 8] = ["tea", "coffee", "lamp", "chair", "notebook", "bicycle", "umbrella", "kettle"];
const CUSTOMERS: u64 = 25_000;

/// The order at `offset` of `partition`; a customer's orders stay in one partition.
pub(super) fn order(partition: i32, offset: u64, at: TimestampMs) -> Record {
    let lane = u64::from(partition.unsigned_abs());
    let random = mix(offset ^ (lane << 48));
    let customer = format!("p{lane}-c{:05}", random % CUSTOMERS);
    let item = ITEMS.get(((random >> 20) % ITEMS.len() as u64) as usize).copied().unwrap_or("tea");
    let (quantity, cents) = ((random >> 32) % 5 + 1, (random >> 40) % 20_000 + 99);
    let value = format!(
        "{{\"order\":\"{lane}-{offset}\",\"customer\":\"{customer}\",\"item\":\"{item}\",\"quantity\":{quantity},\"cents\":{cents}}}"
    );
    Record::new(at, Some(Bytes::from(customer)), Some(Bytes::from(value)))
}

/// SplitMix64's mixing step (Steele, Lea, Flood 2014).
pub(super) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A sum over records that does not depend on their order, since a table's rows have none: offset, timestamp, key and
/// value of each record are mixed into 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum(pub(super) u64);

impl Checksum {
    /// Adds the record at `offset`.
    pub(super) fn take(&mut self, offset: u64, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let crc = crc32c::crc32c(&timestamp_ms.to_be_bytes());
        let crc = crc32c::crc32c_append(crc, key.unwrap_or_default());
        let crc = crc32c::crc32c_append(mix_length(crc, key), value.unwrap_or_default());
        self.0 = self.0.wrapping_add(mix(mix(offset) ^ u64::from(mix_length(crc, value))));
    }

    pub(super) fn take_record(&mut self, offset: u64, record: &Record) {
        self.take(offset, record.timestamp.0, record.key.as_deref(), record.value.as_deref());
    }
}

/// Adds the length, so that moved field boundaries and null instead of empty change the sum.
fn mix_length(crc: u32, field: Option<&[u8]>) -> u32 {
    let len = field.map_or(u64::MAX, |field| field.len() as u64);
    crc32c::crc32c_append(crc, &len.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_json_and_repeatable() {
        let record = order(3, 41, TimestampMs(7));
        assert_eq!(record, order(3, 41, TimestampMs(7)));
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
        assert_eq!(value["order"], "3-41");
        assert_eq!(record.key.as_deref(), value["customer"].as_str().map(str::as_bytes));
    }

    #[test]
    fn a_checksum_depends_on_offset_and_content_and_not_on_order() {
        let sum = |pairs: &[(u64, u64)]| {
            let mut sum = Checksum::default();
            pairs.iter().for_each(|(at, of)| sum.take_record(*at, &order(0, *of, TimestampMs(0))));
            sum
        };
        assert_eq!(sum(&[(0, 0), (1, 1)]), sum(&[(0, 0), (1, 1)]));
        assert_eq!(sum(&[(0, 0), (1, 1)]), sum(&[(1, 1), (0, 0)]));
        assert_ne!(sum(&[(0, 0), (1, 1)]), sum(&[(0, 1), (1, 0)]));
        assert_ne!(sum(&[(0, 0)]), sum(&[(1, 0)]));
    }
}
