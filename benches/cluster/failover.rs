//! `failover`: brokers killed one after the other under load; how long each partition that they led takes no write.
//!
//! Each kill begins with every leader where it belongs, and the broker is away for [`AWAY`]. A partition's wait ends
//! with the acknowledgement of the first record that was due after the kill.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::paced::{Latencies, Paced};
use crate::report::Table;
use crate::{BROKERS, Line, PATIENCE, Run, leaders, topics, wire};

const TOPIC: &str = "paced";
const PARTITIONS: i32 = 16;
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
    std::thread::sleep(window / 4);
    let begun = Instant::now();
    std::thread::sleep(window);
    let ended = Instant::now();

    let table =
        Table::new(&["kill", "broker", "partitions it led", "first write to one", "to the last", "others, greatest"]);
    let (mut waits, mut firsts, mut control) = (Vec::new(), Vec::new(), Duration::ZERO);
    for kill in 0..kills {
        // Leaders go back slowly after the last kill.
        cluster.wait_balanced(TOPIC, PATIENCE);
        load.check();
        let n = usize::try_from(kill).expect("few kills") % BROKERS;
        let led: BTreeSet<i32> =
            leaders::by_leader(&cluster, TOPIC).remove(&n).unwrap_or_default().into_iter().collect();
        assert!(!led.is_empty(), "broker {} leads nothing", n + 1);
        let killed = Instant::now();
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
        table.row(&[
            (kill + 1).to_string(),
            (n + 1).to_string(),
            led.len().to_string(),
            seconds(first),
            seconds(last),
            seconds(greatest),
        ]);
        firsts.push(first);
        waits.extend(of);
    }
    let samples = load.stop();
    let before = Latencies::between(&samples, begun, ended);
    waits.sort_unstable();
    firsts.sort_unstable();
    let (p50, most) = (waits[(waits.len() - 1) / 2], waits[waits.len() - 1]);
    println!(
        "\nIn words: after {kills} kills a partition whose leader died took a write again after {} at the median \
         and {} at the most (aims: 1.0 s and 1.5 s); its first partition after {} at the median. The greatest latency \
         of the partitions that others led was {}. Before the kills p50 was {} and the greatest {}.",
        seconds(p50),
        seconds(most),
        seconds(firsts[(firsts.len() - 1) / 2]),
        seconds(control),
        seconds(before.p50),
        seconds(before.most)
    );
    let line = |what: &str, time: Duration, name: &str, beside: Duration| Line {
        what: format!("leader killed, {kills} times: {what}"),
        figure: seconds(time),
        beside: format!("{name}: {}", seconds(beside)),
        ratio: format!("{:.1}", time.as_secs_f64() / beside.as_secs_f64()),
    };
    vec![
        line("first acknowledged write, p50", p50, "produce p50 before", before.p50),
        line("first acknowledged write, max", most, "greatest of other partitions in the same seconds", control),
    ]
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
