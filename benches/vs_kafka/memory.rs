//! Memory: resident size of both brokers after the run, and touching of the guest's pages before it.
//!
//! On a virtual machine the first touch of a page is expensive, and a growing page cache pays it at every step: a
//! broker that bypasses the page cache would look twice as good. So the program touches and holds most memory, and the
//! page cache recycles the rest.

use super::Run;
use super::contender::Field;

const PAGE: usize = 4096;

/// Touches memory until `free_gib` are left and holds it while the value lives. `TIDEWATER_BENCH_HOLD=0` releases it
/// at once: most hosts keep the pages populated, and other programs on the machine have room.
pub fn populate(free_gib: usize) -> Vec<Vec<u8>> {
    let available = field_of("/proc/meminfo", "MemAvailable:") * 1024;
    let mut held = Vec::new();
    for _ in 0..(available >> 30).saturating_sub(free_gib) {
        let mut block = vec![0_u8; 1 << 30];
        block.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        held.push(block);
    }
    let hold = std::env::var("TIDEWATER_BENCH_HOLD").as_deref() != Ok("0");
    println!("{} GiB of memory touched{}\n", held.len(), if hold { " and held" } else { " and given back" });
    if hold { held } else { Vec::new() }
}

/// A number of a file of `name: number kB` lines.
fn field_of(path: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

pub fn run(_: &Run, field: &Field) {
    println!("after the rows above\n\n| | resident | greatest so far |\n|---|---|---|");
    let kafka = field.kafka.as_ref().map(|kafka| ("Kafka, heap 1 GiB", kafka.pid()));
    for (name, pid) in [("ours", field.ours.pid())].into_iter().chain(kafka) {
        let mib = |what| field_of(&format!("/proc/{pid}/status"), what) / 1024;
        println!("| {name} | {} MiB | {} MiB |", mib("VmRSS:"), mib("VmHWM:"));
    }
}
