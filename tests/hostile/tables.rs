//! Tables of very large records: the broker's resident memory stays below its stated worst case.

use std::time::Duration;

use tempfile::tempdir;
use tidewater::node::bounds::worst_case;

use super::steady::{create, produce, resident_at_most, serves_on};
use super::support::broker::{Broker, Options};

/// Bytes that do not compress.
fn value(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

#[test]
fn a_table_of_records_of_1_and_31_megabytes_stays_below_the_worst_case() {
    let dir = tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(dir.path()).arg("--shards", "1"));
    let settings = [
        ("iceberg.mode", "key_value"),
        ("iceberg.target.lag.ms", "500"),
        ("archive.lag.ms", "100"),
        ("max.message.bytes", "33000000"),
    ];
    for (topic, bytes, count) in [("one", 1_000_000, 160), ("thirty-one", 31_000_000, 8)] {
        create(&broker, topic, 1, &settings);
        for n in 0..count {
            produce(&broker, topic, 0, &value(bytes, n));
        }
        broker.wait_topic(topic, "in its table", Duration::from_secs(120), |partitions| {
            partitions.iter().all(|p| p["high_watermark"] == count && p["table_offset"] == p["high_watermark"])
        });
    }
    let (peak, worst) = (resident_at_most(broker.pid()), worst_case(1, 8));
    println!("at most {} MiB resident, {} MiB is the worst case", peak >> 20, worst >> 20);
    assert!(peak < worst, "{peak} bytes resident at most, {worst} is the worst case");
    serves_on(&broker);
    broker.stop();
}
