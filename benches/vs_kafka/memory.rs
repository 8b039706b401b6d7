//! Memory: resident size of both brokers after the run, and touching of the guest's pages before it.
//!
//! On a virtual machine the first touch of a page is expensive, and a growing page cache pays it at every step: a
//! broker that bypasses the page cache would look twice as good. So the program touches and holds most memory, and the
//! page cache recycles the rest.

use super::contender::Field;
use super::{Run, process};

const PAGE: usize = 4096;

/// Touches memory until `free_gib` are left and holds it while the value lives. `TIDEWATER_BENCH_HOLD=0` releases it
/// at once: most hosts keep the pages populated, and other programs on the machine have room.
pub fn populate(free_gib: usize) -> Vec<Vec<u8>> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("the machine's memory");
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_ascii_whitespace().next()?.parse::<usize>().ok());
    let available = kib.expect("the kernel says what is available") << 10;
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

pub fn run(_: &Run, field: &Field) {
    println!("after the rows above\n\n| | resident | greatest so far |\n|---|---|---|");
    let kafka = field.kafka.as_ref().map(|kafka| ("Kafka, heap 1 GiB", kafka.pid()));
    for (name, pid) in [("ours", field.ours.pid())].into_iter().chain(kafka) {
        let mib = |what| process::memory(pid, what) >> 20;
        println!("| {name} | {} MiB | {} MiB |", mib("VmRSS:"), mib("VmHWM:"));
    }
}
