//! The four contenders: Tidewater without and with tiering, Kafka as shipped, and Kafka that flushes each batch.
//!
//! Owns: the two broker processes (each serves two columns, which differ in topic settings), the topics of a run, the
//! cost of a run, and the table of medians with its ratios.

use std::path::Path;
use std::time::{Duration, Instant};

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, DeleteTopicsRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::Run;
use super::machine::cpu_of;
use super::support::broker::{Broker, Options};
use super::support::kafka::Kafka;
use super::support::wire::Wire;

/// API versions that both brokers serve.
const CREATE: i16 = 5;
const DELETE: i16 = 5;
const LIST_OFFSETS: i16 = 5;

/// One column.
#[derive(Clone)]
pub struct Contender {
    pub name: &'static str,
    pub addr: String,
    pub pid: u32,
    configs: &'static [(&'static str, &'static str)],
    /// Admin address that reports a topic's archived end; set for Tidewater with tiering only.
    archives: Option<String>,
}

/// The brokers, running.
pub struct Field {
    pub contenders: Vec<Contender>,
    pub ours: Broker,
    pub kafka: Option<Kafka>,
}

const PLAIN: &[(&str, &str)] = &[("remote.storage.enable", "false")];
/// Default settings.
const TIERED: &[(&str, &str)] = &[];
const SHIPPED: &[(&str, &str)] = &[("file.delete.delay.ms", "1000")];
const FLUSHED: &[(&str, &str)] = &[("file.delete.delay.ms", "1000"), ("flush.messages", "1")];

impl Field {
    pub fn start(run: &Run, dir: &Path) -> Self {
        let ours = Broker::start(&Options::new(&dir.join("ours")));
        let own = |name, configs, archives: bool| Contender {
            name,
            addr: ours.kafka.clone(),
            pid: ours.pid(),
            configs,
            archives: archives.then(|| ours.admin.clone()),
        };
        // Tidewater runs between the two Kafka columns, so that each process finishes its background work before its
        // next turn.
        let mut contenders = vec![own("ours", PLAIN, false)];
        let kafka = (!run.small).then(|| Kafka::start(&dir.join("kafka"), "1g"));
        if let Some(kafka) = &kafka {
            let theirs =
                |name, configs| Contender { name, addr: kafka.addr.clone(), pid: kafka.pid(), configs, archives: None };
            contenders = vec![theirs("Kafka", SHIPPED), own("ours", PLAIN, false), theirs("Kafka flushed", FLUSHED)];
        }
        contenders.push(own("ours, tiered", TIERED, true));
        Self { contenders, ours, kafka }
    }

    /// Runs `work` on a new topic per run, contenders in turn, after one round of warm-up; prints a row of medians
    /// each.
    pub fn measure(
        &self,
        run: &Run,
        what: &str,
        partitions: i32,
        work: impl Fn(&Contender, &str) -> Work,
    ) -> Vec<Figure> {
        self.measure_after(run, what, partitions, |_, _| (), work)
    }

    /// As above, with `prepare` run on the topic before the measurement.
    pub fn measure_after(
        &self,
        run: &Run,
        what: &str,
        partitions: i32,
        before: impl Fn(&Contender, &str),
        work: impl Fn(&Contender, &str) -> Work,
    ) -> Vec<Figure> {
        let mut taken: Vec<Vec<Figure>> = self.contenders.iter().map(|_| Vec::new()).collect();
        let warm_up = usize::from(!run.small);
        for round in 0..run.rounds + warm_up {
            for (contender, taken) in self.contenders.iter().zip(&mut taken) {
                let topic = format!("{}-{partitions}-{round}", what.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
                contender.create(&topic, partitions);
                before(contender, &topic);
                contender.wait_archived(&topic);
                let (cpu, start) = (cpu_of(contender.pid), Instant::now());
                let work = work(contender, &topic);
                let wall = work.wall.unwrap_or_else(|| start.elapsed());
                contender.wait_archived(&topic);
                let figure =
                    Figure { bytes: work.bytes, wall, cpu: cpu_of(contender.pid).saturating_sub(cpu), took: work.took };
                contender.delete(&topic);
                if round >= warm_up {
                    taken.push(figure);
                }
            }
        }
        taken.into_iter().map(median).collect()
    }
}

/// The work of one run.
#[derive(Default)]
pub struct Work {
    pub bytes: u64,
    /// Measured duration, if only a part of the call counts.
    pub wall: Option<Duration>,
    /// Latency of each operation, sorted; empty if the row does not report latencies.
    pub took: Vec<Duration>,
}

/// The result of one run.
#[derive(Clone)]
pub struct Figure {
    pub bytes: u64,
    pub wall: Duration,
    pub cpu: Duration,
    pub took: Vec<Duration>,
}

impl Figure {
    /// Bytes of record batches a second of the broker's processor time.
    pub fn per_cpu(&self) -> f64 {
        self.bytes as f64 / self.cpu.as_secs_f64().max(0.01)
    }

    pub fn per_second(&self) -> f64 {
        self.bytes as f64 / self.wall.as_secs_f64()
    }

    /// The latency below which `of` of 1000 operations ended.
    pub fn per_mille(&self, of: usize) -> Duration {
        let at = (self.took.len() * of / 1000).min(self.took.len().saturating_sub(1));
        self.took.get(at).copied().unwrap_or_default()
    }
}

/// By bytes per processor second; latencies by their 99th percentile.
fn median(mut figures: Vec<Figure>) -> Figure {
    if figures.iter().any(|figure| !figure.took.is_empty()) {
        figures.sort_by_key(|figure| figure.per_mille(990));
    } else {
        figures.sort_by(|a, b| a.per_cpu().total_cmp(&b.per_cpu()));
    }
    figures.swap_remove(figures.len() / 2)
}

impl Contender {
    /// Makes a topic and waits until every partition has a leader.
    fn create(&self, topic: &str, partitions: i32) {
        let mut wire = Wire::connect(&self.addr).expect("the broker answers");
        let config = |(name, value): &(&'static str, &'static str)| {
            let name = StrBytes::from_static_str(name);
            CreatableTopicConfig::default().with_name(name).with_value(Some(StrBytes::from_static_str(value)))
        };
        let new = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(self.configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(60_000);
        let answer = wire.call(&request, CREATE).expect("an answer");
        assert!(answer.topics.iter().all(|topic| topic.error_code == 0), "{}: {answer:?}", self.name);
        let start = Instant::now();
        while !self.led(&mut wire, topic, partitions) {
            assert!(start.elapsed() < Duration::from_secs(60), "{}: {topic} has no leaders", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether every partition answers: metadata may name a leader before that leader serves.
    fn led(&self, wire: &mut Wire, topic: &str, partitions: i32) -> bool {
        let asked = |n| {
            ListOffsetsPartition::default().with_partition_index(n).with_current_leader_epoch(-1).with_timestamp(-1)
        };
        let asked =
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions((0..partitions).map(asked).collect());
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
        let answer = wire.call(&request, LIST_OFFSETS).expect("an answer");
        answer.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.error_code == 0)
    }

    fn delete(&self, topic: &str) {
        let mut wire = Wire::connect(&self.addr).expect("the broker answers");
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name(topic)]).with_timeout_ms(60_000);
        wire.call(&request, DELETE).expect("an answer");
    }

    /// The tiered column is done when the bucket has every record.
    fn wait_archived(&self, topic: &str) {
        let Some(admin) = &self.archives else { return };
        let start = Instant::now();
        loop {
            let (_, body) =
                super::support::broker::http_get(admin, &format!("/v1/topics/{topic}")).expect("admin answers");
            let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let partitions = status["partitions"].as_array().expect("partitions");
            if partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"]) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{topic} is not archived: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}
