//! The produce rows of the raw client, and how a row is printed.

use super::Run;
use super::contender::{Field, Figure};
use super::producer::{batch, produce};

/// The partition counts of the produce rows; `TIDEWATER_BENCH_PARTITIONS=16` takes that one.
pub fn partition_counts(run: &Run) -> Vec<i32> {
    let only = std::env::var("TIDEWATER_BENCH_PARTITIONS").ok().and_then(|text| text.parse().ok());
    only.map_or_else(|| run.pick(vec![1, 16, 100, 1000], vec![1, 16]), |only| vec![only])
}

/// Connections; enough to keep a broker busy on two cores.
const CONNECTIONS: usize = 4;

/// Batches of a thousand records of 1 KiB.
pub fn bulk(run: &Run, field: &Field) {
    rows(run, field, "1 MB batches", (1000, 1024), run.pick(500, 20), (3.0, 4.0));
}

/// Batches of 16 records of 1 KiB.
pub fn small(run: &Run, field: &Field) {
    rows(run, field, "16-record batches", (16, 1024), run.pick(10_000, 200), (4.0, 12.0));
}

/// Records of 100 bytes, 9,000 to a batch.
pub fn hundred(run: &Run, field: &Field) {
    rows(run, field, "100 B records", (9_000, 100), run.pick(500, 20), (2.0, 3.0));
}

fn rows(run: &Run, field: &Field, what: &str, (records, bytes): (usize, usize), requests: usize, goals: (f64, f64)) {
    let batch = batch(records, bytes);
    head(field);
    for partitions in partition_counts(run) {
        let figures = field.measure(run, what, partitions, |contender, topic| {
            produce(&contender.addr, topic, partitions, &batch, requests, CONNECTIONS)
        });
        row(field, &format!("{what}, {partitions} partitions"), &figures, goals);
    }
}

/// Prints the header of a table of throughputs.
pub fn head(field: &Field) {
    let names: Vec<&str> = field.contenders.iter().map(|c| c.name).collect();
    println!("MB per second of the broker's processor time (MB/s of wall time)\n");
    println!("| work | {} | ours ÷ Kafka / ÷ flushed | goal | wall ÷ |", names.join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(names.len()));
}

/// Prints a row of throughputs with its ratios.
pub fn row(field: &Field, what: &str, figures: &[Figure], goals: (f64, f64)) {
    let cell = |figure: &Figure| format!("{:.0} ({:.0})", figure.per_cpu() / 1e6, figure.per_second() / 1e6);
    let cells: Vec<String> = figures.iter().map(cell).collect();
    let of = |name: &str| field.contenders.iter().position(|c| c.name == name).and_then(|n| figures.get(n));
    let ratios = |by: fn(&Figure) -> f64| {
        let against = |name| Some(by(of("ours")?) / by(of(name)?));
        let told = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        (
            against("Kafka"),
            format!("{} / {}", told(against("Kafka")), told(against("Kafka flushed"))),
            against("Kafka flushed"),
        )
    };
    let (shipped, cpu, flushed) = ratios(Figure::per_cpu);
    let met = shipped.is_none_or(|ratio| ratio >= goals.0) && flushed.is_none_or(|ratio| ratio >= goals.1);
    let goal = format!("{} / {}{}", goals.0, goals.1, if met { "" } else { " **missed**" });
    println!("| {what} | {} | {cpu} | {goal} | {} |", cells.join(" | "), ratios(Figure::per_second).1);
}
