//! `frozen`: produce latency before, while and after a follower is stopped by SIGSTOP.
//!
//! The follower leads none of the measured partitions, and not the controller's lane.

use std::time::{Duration, Instant};

use crate::paced::{Latencies, Paced, print};
use crate::{Line, PATIENCE, Run, leaders, ms, topics, wire};

const TOPIC: &str = "paced";
const PARTITIONS: i32 = 16;

pub fn run(run: &Run) -> Vec<Line> {
    let rate = run.number("--rate", 1000, 200);
    let window = run.seconds("--seconds", 20, 1);
    let dir = run.dir("cluster-frozen");
    let cluster = run.cluster(dir.path());
    topics::one(&mut wire(&cluster), TOPIC, PARTITIONS, &[]);
    cluster.wait_balanced(TOPIC, PATIENCE);
    let follower = leaders::not_controller(&cluster);
    let partitions = leaders::led_by_others(&cluster, TOPIC, follower);
    let load = Paced::start(&leaders::bootstrap_without(&cluster, follower), TOPIC, &partitions, rate);
    std::thread::sleep(window / 4);

    let begun = Instant::now();
    std::thread::sleep(window);
    let halfway = Instant::now();
    std::thread::sleep(window);
    cluster.signal(follower, "STOP");
    let stopped = Instant::now();
    std::thread::sleep(window);
    let resumed = Instant::now();
    cluster.signal(follower, "CONT");
    cluster.wait_healthy(PATIENCE);
    let healthy = resumed.elapsed();
    std::thread::sleep(window.saturating_sub(healthy));
    let over = Instant::now();
    load.check();
    let samples = load.stop();

    let part = |from, to| Latencies::between(&samples, from, to);
    let (before, again, frozen, after) =
        (part(begun, halfway), part(halfway, stopped), part(stopped, resumed), part(resumed, over));
    println!(
        "{rate} records a second over {} partitions that broker {} does not lead; {window:?} each\n",
        partitions.len(),
        follower + 1
    );
    print(&[("before", before), ("before, again", again), ("follower frozen", frozen), ("after SIGCONT", after)]);
    let whole = part(begun, stopped);
    println!(
        "\nIn words: with a frozen follower p99 is {} instead of {}, {:.2} times; without a fault two periods \
         differ by {:.2} times. The cluster was healthy {:.1} s after SIGCONT.",
        ms(frozen.p99),
        ms(whole.p99),
        frozen.p99_over(&whole),
        again.p99_over(&before),
        healthy.as_secs_f64()
    );
    let line = |what: &str, of: &Latencies, time: fn(&Latencies) -> Duration| Line {
        what: what.to_owned(),
        figure: ms(time(of)),
        beside: format!("before: {}", ms(time(&whole))),
        ratio: format!("{:.2}", time(of).as_secs_f64() / time(&whole).as_secs_f64()),
    };
    vec![
        line("a follower frozen: produce p50", &frozen, |of| of.p50),
        line("a follower frozen: produce p99", &frozen, |of| of.p99),
        line("after SIGCONT: produce p99", &after, |of| of.p99),
        Line {
            what: "noise: produce p99 of the second period before".to_owned(),
            figure: ms(again.p99),
            beside: format!("of the first: {}", ms(before.p99)),
            ratio: format!("{:.2}", again.p99_over(&before)),
        },
    ]
}
