//! The floor: a blocking thread that writes into a pre-zeroed file with O_DIRECT and syncs after each write.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use super::{Until, WARM_UP};
use crate::machine;
use crate::report::Samples;

const ALIGN: usize = 4096;
/// The file is overwritten in a circle, as recycled journal files are.
const FILE_BYTES: usize = 64 << 20;

pub fn measure(dir: &Path, bytes: usize, until: Until) -> Samples {
    let path = dir.join("raw");
    let mut options = File::options();
    let file = options.create(true).truncate(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    let file = file.expect("a file with O_DIRECT: set TIDEWATER_BENCH_DIR to a directory of a real disk");
    let memory = vec![0x5a_u8; (1 << 20) + ALIGN];
    let aligned = &memory[memory.as_ptr().align_offset(ALIGN)..];
    for at in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(&aligned[..1 << 20], at as u64).expect("write");
    }
    file.sync_all().expect("sync");

    let mut samples = Samples::default();
    let (mut start, mut cpu, mut at, mut warm) = (Instant::now(), machine::cpu_of_thread(), 0, 0);
    while warm < WARM_UP || !until.done(start, &samples) {
        let one = Instant::now();
        file.write_all_at(&aligned[..bytes], at as u64).expect("write");
        file.sync_data().expect("fdatasync");
        samples.add(one.elapsed(), bytes as u64);
        at = (at + bytes) % FILE_BYTES;
        warm += 1;
        if warm == WARM_UP {
            (samples, start, cpu) = (Samples::default(), Instant::now(), machine::cpu_of_thread());
        }
    }
    samples.cpu = machine::cpu_of_thread().saturating_sub(cpu);
    samples
}
