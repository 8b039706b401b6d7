//! A bucket that may be read and not be written to: a plan and a check are all that can be had of it.

use std::process::{Command, Output};
use std::time::Duration;

use super::support::broker::{Broker, Options, binary};
use super::support::s3::S3;
use super::tools::create;
use super::writer::Writer;

#[test]
fn a_restore_without_the_right_to_write_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().expect("tempdir");
    let s3 = S3::start(dir.path(), "guarded");
    let options = Options { bucket: Some(s3.url()), envs: s3.envs(), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options);
    create(&broker.kafka, "orders", 1, &[("archive.lag.ms", "200")]);
    Writer::new(&broker.kafka, "orders", 1).write(&broker.kafka, 50);
    broker.wait_topic("orders", "all is archived", Duration::from_secs(60), |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    broker.kill();

    let fresh = dir.path().join("fresh");
    let as_reader = |words: &[&str]| -> Output {
        let mut command = Command::new(binary());
        command.env_remove("TIDEWATER_SEED");
        command.args(words).args(["--from", &s3.url()]).envs(s3.reading_envs());
        command.output().expect("the command runs")
    };
    let data = fresh.display().to_string();
    let planned = as_reader(&["restore", "--plan", "--data-dir", &data]);
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
    let verified = as_reader(&["verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let refused = as_reader(&["restore", "--exit", "--data-dir", &data]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("AccessDenied") || said.contains("may not be written"), "{said}");
    // The cluster is what it was: its own broker starts.
    Broker::start(&options).stop();
}
