//! `idle`: a new cluster of three, then the same with thousands of idle partitions that each have three replicas.

use std::time::{Duration, Instant};

use crate::report::Table;
use crate::support::cluster::Cluster;
use crate::{BROKERS, Line, PATIENCE, Run, leaders, process, topics, wire};

const MIB: f64 = (1u64 << 20) as f64;

/// Resources of a broker without requests.
#[derive(Clone, Copy)]
struct Taken {
    resident: u64,
    /// Processor time ÷ wall time, as a share of one core.
    core: f64,
    wakes: f64,
}

/// Each broker over the same window.
fn watch(cluster: &Cluster, window: Duration) -> Vec<Taken> {
    let pids: Vec<u32> = (0..BROKERS).map(|n| cluster.broker(n).pid()).collect();
    let look = |pid: &u32| (process::cpu(*pid), process::switches(*pid));
    let (before, begun) = (pids.iter().map(look).collect::<Vec<_>>(), Instant::now());
    std::thread::sleep(window);
    let seconds = begun.elapsed().as_secs_f64();
    let taken = |(pid, (cpu, switches)): (&u32, (Duration, u64))| Taken {
        resident: process::resident(*pid),
        core: process::cpu(*pid).saturating_sub(cpu).as_secs_f64() / seconds,
        wakes: process::switches(*pid).saturating_sub(switches) as f64 / seconds,
    };
    pids.iter().zip(before).map(taken).collect()
}

fn rows(table: &Table, what: &str, taken: &[Taken], fresh: &[Taken]) {
    for (n, (now, fresh)) in taken.iter().zip(fresh).enumerate() {
        table.row(&[
            what.to_owned(),
            (n + 1).to_string(),
            format!("{:.1}", now.resident as f64 / MIB),
            format!("{:+.1}", (now.resident as f64 - fresh.resident as f64) / MIB),
            format!("{:.2} %", now.core * 100.0),
            format!("{:.0}", now.wakes),
        ]);
    }
}

pub fn run(run: &Run) -> Vec<Line> {
    let total = i32::try_from(run.number("--partitions", 10_000, 200)).expect("a number of partitions");
    let window = run.seconds("--seconds", 60, 2);
    let settle = Duration::from_secs(if run.small { 1 } else { 30 });
    let dir = run.dir("cluster-idle");
    let cluster = run.cluster(dir.path());
    std::thread::sleep(settle);
    let fresh = watch(&cluster, window);
    let table = Table::new(&["cluster", "broker", "resident MiB", "more", "of a core", "wakes/s"]);
    rows(&table, "fresh", &fresh, &fresh);

    let begun = Instant::now();
    let mut wire = wire(&cluster);
    let count = topics::many(&mut wire, "many", total);
    let made = begun.elapsed();
    cluster.wait_healthy(PATIENCE);
    // Its partitions are spread over the lanes.
    cluster.wait_balanced("many-0", PATIENCE);
    let whole = begun.elapsed();
    let (partitions, asked) = topics::metadata(&mut wire);
    drop(wire);
    std::thread::sleep(settle);
    let terms = cluster.terms();
    let taken = watch(&cluster, window);
    let elections = leaders::elections(&terms, &cluster.terms());
    let what = format!("{partitions} idle partitions × 3");
    rows(&table, &what, &taken, &fresh);

    let more = |now: &Taken, fresh: &Taken| (now.resident as f64 - fresh.resident as f64) / MIB;
    let more = taken.iter().zip(&fresh).map(|(now, fresh)| more(now, fresh)).fold(f64::MIN, f64::max);
    let most = |of: &[Taken], by: fn(&Taken) -> f64| of.iter().map(by).fold(0.0, f64::max);
    let (core, core_fresh) = (most(&taken, |taken| taken.core), most(&fresh, |taken| taken.core));
    let resident = most(&taken, |taken| taken.resident as f64);
    let resident_fresh = most(&fresh, |taken| taken.resident as f64);
    println!(
        "\n{count} topics were made in {:.2} s and had all their leaders after {:.2} s; all of Metadata took {} ms; \
         {elections} elections in {window:?} at rest",
        made.as_secs_f64(),
        whole.as_secs_f64(),
        asked.as_millis()
    );
    println!(
        "In words: each broker takes at most {:.2} % of a core and at most {more:.0} MiB more than in a \
         fresh cluster (aims: 2 % and 150 MiB).",
        core * 100.0
    );
    vec![
        Line {
            what: format!("{what}: processor, the busiest broker"),
            figure: format!("{:.2} % of a core", core * 100.0),
            beside: format!("fresh cluster: {:.2} %", core_fresh * 100.0),
            ratio: format!("{:+.2} points", (core - core_fresh) * 100.0),
        },
        Line {
            what: format!("{what}: memory, the largest broker"),
            figure: format!("{:.0} MiB ({more:+.0})", resident / MIB),
            beside: format!("fresh cluster: {:.0} MiB", resident_fresh / MIB),
            ratio: format!("{:.2}", resident / resident_fresh),
        },
    ]
}
