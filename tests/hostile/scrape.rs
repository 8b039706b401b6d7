//! Metrics and the pages of the admin port: a scrape shows what was done, within its bounds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidewater::client::Client;

use super::steady::{batch, create, fetch, produce, run, serves_on};
use super::support::broker::{Broker, Options, http_get};
use super::support::wire::Wire;

/// Every sample of a scrape: name with labels, value.
pub fn scrape(broker: &Broker) -> BTreeMap<String, f64> {
    let (status, text) = http_get(&broker.admin, "/metrics").expect("admin answers");
    assert_eq!(status, 200, "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().expect("a number")))
    });
    parsed.collect()
}

/// The sum of a metric's samples whose labels hold all of `labels`.
pub fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let named = samples.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
    named.filter(|(sample, _)| labels.iter().all(|label| sample.contains(label))).map(|(_, value)| value).sum()
}

#[test]
fn a_fetch_that_waits_for_many_bytes_does_not_read_at_every_append() {
    const APPENDS: u64 = 400;
    let dir = tempfile::tempdir().expect("directory");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    create(&broker, "drops", 1, &[]);
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(TopicName(StrBytes::from_static_str("drops")));
    let request = FetchRequest::default()
        .with_max_wait_ms(60_000)
        .with_min_bytes(APPENDS as i32 * 60)
        .with_max_bytes(8 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic.with_partitions(vec![partition])]);
    let mut waiting = Wire::connect(&broker.kafka).expect("connects");
    waiting.send(&request, 12).expect("sent");
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let begun = Instant::now();
    for _ in 0..APPENDS {
        wire.produce("drops", 0, batch(&[b"drop"])).expect("an answer").expect("appended");
    }
    let answer = waiting.receive::<FetchRequest>(12).expect("an answer");
    let most = begun.elapsed().as_millis() as f64 / 5.0 + 10.0;
    let records = answer.responses[0].partitions[0].records.as_ref().map_or(0, bytes::Bytes::len);
    assert!(records >= APPENDS as usize * 60, "{records} bytes");
    let looks = sum(&scrape(&broker), "tidewater_stage_seconds_count", &["stage=\"fetch_read\""]);
    assert!((2.0..=most).contains(&looks), "{looks} looks for {APPENDS} appends, expected at most {most}");
    broker.stop();
}

#[test]
fn a_scrape_shows_what_was_done() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    create(&broker, "orders", 2, &[("archive.lag.ms", "200")]);
    for n in 0..20 {
        produce(&broker, "orders", n % 2, b"a value");
    }
    fetch(&broker, "orders", 0, 0).expect("fetch");
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let refused = wire.produce("absent", 0, batch(&[b"x"])).expect("an answer");
    assert!(refused.is_err());
    run(async { Client::connect(&broker.kafka).await?.commit("readers", "orders", &[(0, 3), (1, 10)]).await })
        .expect("committed");
    broker.wait_topic("orders", "archived", Duration::from_secs(20), |partitions| {
        partitions.iter().all(|p| p["archive_lag_records"] == 0)
    });
    let samples = scrape(&broker);
    let is = |name: &str, labels: &[&str]| sum(&samples, name, labels);
    assert_eq!(is("tidewater_kafka_requests_total", &["api=\"Produce\"", "version=\""]), 21.0);
    assert_eq!(is("tidewater_kafka_request_seconds_count", &["api=\"Produce\""]), 21.0);
    assert_eq!(is("tidewater_kafka_errors_total", &["api=\"Produce\"", "UNKNOWN_TOPIC_OR_PARTITION"]), 1.0);
    assert_eq!(is("tidewater_topic_high_watermark", &["topic=\"orders\""]), 20.0);
    assert_eq!(is("tidewater_topic_archive_lag_records", &["topic=\"orders\""]), 0.0);
    assert_eq!(is("tidewater_group_lag_records", &["group=\"readers\"", "topic=\"orders\"", "partition=\"0\""]), 7.0);
    assert_eq!(is("tidewater_group_topic_lag_records", &["group=\"readers\"", "topic=\"orders\""]), 7.0);
    assert_eq!(is("tidewater_bucket_open", &[]), 1.0);
    assert_eq!(is("tidewater_archive_stopped", &[]), 0.0);
    for busy in [
        "tidewater_kafka_received_bytes_total",
        "tidewater_kafka_sent_bytes_total",
        "tidewater_kafka_connections_opened_total",
        "tidewater_kafka_connections_closed_total",
        "tidewater_journal_commits_total",
        "tidewater_journal_written_bytes_total",
        "tidewater_journal_write_seconds_count",
        "tidewater_archive_bundles_total",
        "tidewater_bucket_requests_total",
        "tidewater_bucket_request_seconds_count",
        "process_start_time_seconds",
        "tidewater_disk_used_bytes",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(is(busy, &[]) > 0.0, "{busy} is 0:\n{samples:#?}");
    }
    groups_and_topics(&broker);
    serves_on(&broker);
    broker.stop();
}

/// The same by JSON.
fn groups_and_topics(broker: &Broker) {
    let json = |path: &str| {
        let (status, body) = http_get(&broker.admin, path).expect("admin answers");
        (status, serde_json::from_str::<serde_json::Value>(&body).expect("JSON"))
    };
    let (status, group) = json("/v1/groups/readers");
    assert_eq!((status, &group["lag_records"], &group["state"]), (200, &7.into(), &"Empty".into()), "{group:#}");
    assert_eq!(group["partitions"][0]["high_watermark"], 10, "{group:#}");
    let (_, all) = json("/v1/groups");
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all:#}");
    let (_, topic) = json("/v1/topics/orders");
    assert_eq!(topic["groups"][0]["lag_records"], 7, "{topic:#}");
    let (status, _) = json("/v1/groups/absent");
    assert_eq!(status, 404);
}

/// Every metric that the dashboard names is in a scrape: as samples or, where nothing has happened yet, by its type.
#[test]
fn the_dashboard_names_what_is_there() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    serves_on(&broker);
    let (_, text) = http_get(&broker.admin, "/metrics").expect("admin answers");
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let printed = broker_command(&["dashboard"]);
    let dashboard: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let rows: Vec<_> = panels.iter().filter(|p| p["type"] == "row").filter_map(|p| p["title"].as_str()).collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    let exprs = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let exprs: Vec<&str> = exprs.filter_map(|target| target["expr"].as_str()).collect();
    assert!(exprs.len() > 50, "{}", exprs.len());
    for expr in exprs {
        let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: Vec<&str> = words.filter(|w| w.starts_with("tidewater_") || w.starts_with("process_")).collect();
        assert!(!names.is_empty(), "no metric in {expr}");
        for name in names {
            let known = match (name.strip_suffix("_total"), name.strip_suffix("_bucket")) {
                (Some(base), _) => types.get(base) == Some(&"counter"),
                (_, Some(base)) => types.get(base) == Some(&"histogram"),
                _ => types.get(name) == Some(&"gauge"),
            };
            assert!(known, "{name} of {expr} is in no scrape:\n{types:#?}");
        }
    }
    broker.stop();
}

const METRICS_MD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/METRICS.md");

/// The table of metrics comes from the descriptions in a scrape; `TIDEWATER_WRITE=1` writes it.
#[test]
fn the_table_of_metrics_is_true() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    serves_on(&broker);
    let (_, text) = http_get(&broker.admin, "/metrics").expect("admin answers");
    let lines = |what: &str| -> BTreeMap<&str, &str> {
        text.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' ')).collect()
    };
    let (helps, types) = (lines("# HELP "), lines("# TYPE "));
    let mut table = String::from(
        "# Metrics\n\nThe metrics of `/metrics` on the admin port, in the OpenMetrics format. The samples of a counter have names that end in \
         `_total`, those of a histogram in `_bucket`, `_sum` and `_count`. Generated: `TIDEWATER_WRITE=1 cargo test --release \
         --test hostile the_table_of_metrics`.\n\n| name | kind | meaning |\n|---|---|---|\n",
    );
    for (name, kind) in &types {
        let help = helps.get(name).copied().unwrap_or_default().trim_end_matches('.');
        table.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
    }
    if std::env::var_os("TIDEWATER_WRITE").is_some() {
        std::fs::write(METRICS_MD, &table).expect("written");
    }
    let held = std::fs::read_to_string(METRICS_MD).unwrap_or_default();
    assert!(
        held == table,
        "src/admin/METRICS.md is stale: TIDEWATER_WRITE=1 cargo test --release --test hostile the_table_of_metrics"
    );
    broker.stop();
}

/// The output of a command that needs no broker.
fn broker_command(args: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidewater")).args(args).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
