//! `failover`: brokers killed one after the other under load; how long each partition that they led takes no write.
//!
//! Two clocks: our own producer, which looks for the leader every 50 ms, and one of librdkafka at its defaults. Each
//! kill begins with every leader where it belongs, and the broker is away for [`AWAY`]. A partition's wait ends with
//! the acknowledgement of the first record that was due after the kill.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::librdkafka::Librdkafka;
use crate::paced::{Latencies, Paced};
use crate::report::Table;
use crate::{BROKERS, Line, PATIENCE, Run, leaders, topics, wire};

const TOPIC: &str = "paced";
const PARTITIONS: i32 = 16;
/// Records a second, over all partitions: one to each in 32 ms.
const LIBRDKAFKA_RATE: u64 = 500;
/// Longer than an election takes, also a second one.
const AWAY: Duration = Duration::from_secs(5);

pub fn run(run: &Run) -> Vec<Line> {
    let kills = run.number("--kills", 10, 1);
    let rate = run.number("--rate", 1000, 200);
    let window = run.seconds("--seconds", 20, 1);
    let dir = run.dir("cluster-failover");
    let mut cluster = run.cluster(dir.path());
    topics::one(&mut wire(&cluster), TOPIC, PARTITIONS, &[]);
    cluster.wait_balanced(TOPIC, PATIENCE);
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let load = Paced::start(&cluster.bootstrap(), TOPIC, &all, rate);
    let mut others_client = Librdkafka::start(&cluster.bootstrap(), TOPIC, PARTITIONS, LIBRDKAFKA_RATE);
    std::thread::sleep(window / 4);
    let begun = Instant::now();
    std::thread::sleep(window);
    let ended = Instant::now();

    let table = Table::new(&[
        "kill",
        "broker",
        "partitions it led",
        "first write to one",
        "to the last",
        "librdkafka: to one",
        "to the last",
        "others, greatest",
    ]);
    let (mut waits, mut firsts, mut control) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut waits_of_librdkafka = Vec::new();
    for kill in 0..kills {
        // Leaders go back slowly after the last kill.
        cluster.wait_balanced(TOPIC, PATIENCE);
        load.check();
        let n = usize::try_from(kill).expect("few kills") % BROKERS;
        let led: BTreeSet<i32> = leaders::by_leader(&cluster, TOPIC).remove(&n).into_iter().flatten().collect();
        assert!(!led.is_empty(), "broker {} leads nothing", n + 1);
        let (killed, killed_at) = (Instant::now(), Librdkafka::now());
        cluster.kill(n);
        std::thread::sleep(AWAY);
        cluster.restart(n);
        cluster.wait_ready();
        cluster.wait_healthy(PATIENCE);
        let samples = load.since(killed);
        let wait = |partition: i32| {
            let of = samples.iter().filter(|sample| sample.partition == partition);
            let first = of.map(|sample| sample.due + sample.took).min();
            first.unwrap_or_else(|| panic!("no write to partition {partition}\n{}", cluster.logs())) - killed
        };
        let mut of: Vec<Duration> = led.iter().map(|partition| wait(*partition)).collect();
        of.sort_unstable();
        let others = samples.iter().filter(|sample| !led.contains(&sample.partition) && sample.due < killed + AWAY);
        let greatest = others.map(|sample| sample.took).max().unwrap_or_default();
        control = control.max(greatest);
        let (first, last) = (of[0], of[of.len() - 1]);
        let mut theirs = others_client.waits(killed_at, led.iter().copied());
        theirs.sort_unstable();
        table.row(&[
            (kill + 1).to_string(),
            (n + 1).to_string(),
            led.len().to_string(),
            seconds(first),
            seconds(last),
            seconds(theirs[0]),
            seconds(theirs[theirs.len() - 1]),
            seconds(greatest),
        ]);
        firsts.push(first);
        waits.extend(of);
        waits_of_librdkafka.extend(theirs);
    }
    drop(others_client);
    let samples = load.stop();
    let before = Latencies::between(&samples, begun, ended);
    let waited = Waited { kills, ours: waits, firsts, librdkafka: waits_of_librdkafka, control };
    waited.lines(&before)
}

/// What partitions and producers waited for, over all kills.
struct Waited {
    kills: u64,
    ours: Vec<Duration>,
    /// The first partition of each kill.
    firsts: Vec<Duration>,
    librdkafka: Vec<Duration>,
    /// The greatest latency of the partitions that others led.
    control: Duration,
}

impl Waited {
    fn lines(mut self, before: &Latencies) -> Vec<Line> {
        let kills = self.kills;
        let middle_and_last = |of: &mut Vec<Duration>| {
            of.sort_unstable();
            (of[(of.len() - 1) / 2], of[of.len() - 1])
        };
        let (p50, most) = middle_and_last(&mut self.ours);
        let (theirs, theirs_most) = middle_and_last(&mut self.librdkafka);
        let (first, _) = middle_and_last(&mut self.firsts);
        println!(
            "\nIn words: after {kills} kills a partition whose leader died took a write again after {} at the median \
             and {} at the most (aims: 1.0 s and 1.5 s); its first partition after {} at the median. A producer of \
             librdkafka at its defaults waited {} at the median and {} at the most. The greatest latency of the \
             partitions that others led was {}. Before the kills p50 was {} and the greatest {}.",
            seconds(p50),
            seconds(most),
            seconds(first),
            seconds(theirs),
            seconds(theirs_most),
            seconds(self.control),
            seconds(before.p50),
            seconds(before.most)
        );
        let line = |what: &str, time: Duration, name: &str, beside: Duration| Line {
            what: format!("leader killed, {kills} times: {what}"),
            figure: seconds(time),
            beside: format!("{name}: {}", seconds(beside)),
            ratio: format!("{:.1}", time.as_secs_f64() / beside.as_secs_f64()),
        };
        let greatest = "greatest of other partitions in the same seconds";
        vec![
            line("first acknowledged write, p50", p50, "produce p50 before", before.p50),
            line("first acknowledged write, max", most, greatest, self.control),
            line("the same by librdkafka at its defaults, p50", theirs, "our own clock", p50),
            line("the same by librdkafka, max", theirs_most, "our own clock", most),
        ]
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
