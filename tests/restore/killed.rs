//! A restore that is killed with kill -9 at any moment and started again, and one whose directory is lost in between.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::broker::{Broker, Options, binary};
use super::support::dice::{Dice, number, seed};
use super::tools::{create, ends_of, read_all, restore, restored};
use super::writer::Writer;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the command and kills it after a while; whether it came to its end before.
fn killed(bucket: &str, data: &std::path::Path, after: Duration) -> bool {
    let mut command = Command::new(binary());
    command.env_remove("TIDEWATER_SEED");
    command.args(["restore", "--from", bucket, "--data-dir"]).arg(data).args(["--shards", "2", "--exit"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    std::thread::sleep(after);
    let ended = child.try_wait().expect("wait").is_some_and(|status| status.success());
    let _ = child.kill();
    child.wait().expect("wait");
    ended
}

/// Each restore begins where the one before has ended, so the cluster's epoch grows by one a round, or more where a
/// directory was lost after the root had been taken.
#[test]
fn a_restore_that_is_killed_goes_on_where_it_stood() {
    let (seed, rounds) = (seed(), number("TIDEWATER_KILLS").unwrap_or(20) / 2);
    println!("seed {seed}, {rounds} rounds of two kills");
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options);
    create(&broker.kafka, "orders", 3, &[("archive.lag.ms", "200")]);
    let mut writer = Writer::new(&broker.kafka, "orders", 3);
    writer.write(&broker.kafka, 300);
    broker.wait_topic("orders", "all is archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    broker.kill();

    let begun = Instant::now();
    restored(&bucket, &dir.path().join("whole"), &["--exit"]);
    let (whole, mut early) = (begun.elapsed(), 0);
    println!("a restore takes {whole:?}");
    let mut data = options.data.clone();
    for round in 0..rounds {
        data = dir.path().join(format!("round-{round}"));
        let mut ended = false;
        for _ in 0..2 {
            let after = Duration::from_micros(dice.below(u64::try_from(whole.as_micros()).expect("short")));
            ended = ended || killed(&bucket, &data, after);
        }
        early += u32::from(!ended);
        // One in three loses what the killed ones have written to their disk.
        if !ended && dice.below(3) == 0 && data.exists() {
            std::fs::remove_dir_all(&data).expect("removes");
        }
        if !ended {
            let again = restore(&bucket, &data, &["--exit"]);
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            // Killed after its last step: the directory is ready.
            let is_whole = said.contains("if that is the cluster to go on with, start it");
            if !again.status.success() && !is_whole {
                assert!(said.contains("--take-over"), "seed {seed}: {said}");
                restored(&bucket, &data, &["--exit", "--take-over"]);
            }
        }
    }
    println!("{early} of {rounds} restores were ended before their end");
    assert!(early > 0, "none was killed before its end");

    let planned = restored(&bucket, &dir.path().join("never"), &["--plan"]);
    assert_eq!(ends_of(&planned).values().sum::<u64>(), 300, "seed {seed}: nothing is lost");
    let broker = Broker::start(&Options { data, ..options });
    let mut all = read_all(&broker.kafka, "orders", 3).concat();
    let mut told: Vec<String> = writer.told.iter().map(|told| told.value.clone()).collect();
    all.sort_unstable();
    told.sort_unstable();
    assert_eq!(all, told, "seed {seed}: every record once");
    let mut next = Writer::new(&broker.kafka, "orders", 3);
    next.write(&broker.kafka, 30);
    assert_eq!(read_all(&broker.kafka, "orders", 3).concat().len(), 330, "it is written to");
    broker.stop();
}
