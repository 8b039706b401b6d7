//! A thousand connections, each with one request open: batches of one record of 1 KiB over 16 partitions.

use std::time::Instant;

use super::Run;
use super::contender::{Field, Work};
use super::paced::latencies;
use super::producer::{Sender, batch};

const PARTITIONS: i32 = 16;
const THREADS: usize = 8;

pub fn run(run: &Run, field: &Field) {
    let (connections, rounds) = run.pick((1000, 40), (40, 2));
    let batch = batch(1, 1024);
    let figures = field.measure(run, "connections", PARTITIONS, |contender, topic| {
        let mut took: Vec<_> = std::thread::scope(|scope| {
            let share = |_| {
                scope.spawn(|| {
                    let mut senders: Vec<Sender> =
                        (0..connections / THREADS).map(|_| Sender::connect(&contender.addr, topic, &batch)).collect();
                    let mut took = Vec::new();
                    for _ in 0..rounds {
                        let start = Instant::now();
                        for (n, sender) in (0..).zip(&mut senders) {
                            sender.send(n % PARTITIONS);
                        }
                        for sender in &mut senders {
                            sender.receive();
                            took.push(start.elapsed());
                        }
                    }
                    took
                })
            };
            let all: Vec<_> = (0..THREADS).map(share).collect();
            all.into_iter().flat_map(|one| one.join().expect("connections end well")).collect()
        });
        took.sort_unstable();
        Work { bytes: (batch.len() * connections / THREADS * THREADS * rounds) as u64, wall: None, took }
    });
    println!("{connections} connections, each sends its next request when the last of its {THREADS}th is answered\n");
    println!(
        "| | requests/s | requests per broker-CPU-s | p50 | p99 | p99.9 | greatest |\n|---|---|---|---|---|---|---|"
    );
    for (contender, figure) in field.contenders.iter().zip(&figures) {
        let count = figure.took.len() as f64;
        let (wall, cpu) = (count / figure.wall.as_secs_f64(), count / figure.cpu.as_secs_f64().max(0.01));
        println!("| {} | {wall:.0} | {cpu:.0} | {} |", contender.name, latencies(figure));
    }
}
