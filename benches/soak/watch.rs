//! Samples the broker's process once a second: memory, open files, threads, processor time, disk, and the lags of
//! archive, table and groups. Owns the sampling thread and the CSV file.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::load::{Counts, TOPIC};
use super::process;
use super::support::broker::http_get;

const EVERY: Duration = Duration::from_secs(1);

/// One sample.
#[derive(Clone, Default)]
pub struct Sample {
    pub second: f64,
    pub resident_mib: u64,
    pub handles: u64,
    pub threads: u64,
    /// Processor time since the last sample as a share of one core.
    pub cpu_percent: u64,
    pub disk_mib: u64,
    pub archive_lag_records: u64,
    pub table_lag_records: u64,
    pub produced: u64,
    pub consumed: u64,
}

/// The sampling thread.
pub struct Watch {
    stop: Arc<AtomicBool>,
    /// Held while a sample is taken.
    paused: Arc<Mutex<bool>>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Watch {
    pub fn start(pid: Arc<AtomicU32>, counts: Arc<Counts>, admin: String, data: PathBuf) -> Self {
        let (stop, paused) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, held): (_, Arc<Mutex<bool>>) = (Arc::clone(&stop), Arc::clone(&paused));
        let thread = std::thread::spawn(move || {
            let (begin, mut samples, mut last) = (Instant::now(), Vec::new(), (0, Duration::ZERO, Instant::now()));
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                let paused = held.lock().expect("no thread panics");
                if *paused {
                    continue;
                }
                let pid = pid.load(Ordering::Relaxed);
                let (cpu, now) = (process::cpu(pid), Instant::now());
                let used = if pid == last.0 { cpu.saturating_sub(last.1) } else { Duration::ZERO };
                let share = 100.0 * used.as_secs_f64() / (now - last.2).as_secs_f64();
                last = (pid, cpu, now);
                let Some(mut sample) = take(pid, &counts, &admin, &data) else {
                    println!("no sample at {:.0} s: the admin port does not answer", begin.elapsed().as_secs_f64());
                    continue;
                };
                (sample.second, sample.cpu_percent) = (begin.elapsed().as_secs_f64(), share as u64);
                samples.push(sample);
            }
            samples
        });
        Self { stop, paused, thread }
    }

    /// No sample is taken while the broker restarts; one that is being taken is finished first.
    pub fn pause(&self, paused: bool) {
        *self.paused.lock().expect("no thread panics") = paused;
    }

    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch ends well")
    }
}

/// `None` if the broker does not report its lags.
fn take(pid: u32, counts: &Counts, admin: &str, data: &Path) -> Option<Sample> {
    let (archive_lag_records, table_lag_records) = lags(admin)?;
    Some(Sample {
        resident_mib: process::resident(pid) >> 20,
        handles: process::files(pid) as u64,
        threads: process::threads(pid),
        disk_mib: size(data) >> 20,
        archive_lag_records,
        table_lag_records,
        produced: counts.produced.load(Ordering::Relaxed),
        consumed: counts.consumed.load(Ordering::Relaxed),
        ..Sample::default()
    })
}

/// Records that the bucket lacks, and records that the table lacks.
fn lags(admin: &str) -> Option<(u64, u64)> {
    let (_, body) = http_get(admin, &format!("/v1/topics/{TOPIC}"))?;
    let status: serde_json::Value = serde_json::from_str(&body).ok()?;
    let behind = |name: &str| -> u64 {
        let partitions = status["partitions"].as_array().into_iter().flatten();
        partitions
            .map(|p| p["high_watermark"].as_u64().unwrap_or(0).saturating_sub(p[name].as_u64().unwrap_or(0)))
            .sum()
    };
    Some((behind("archived_end_offset"), behind("table_offset")))
}

/// Bytes that the files of a directory take on disk.
fn size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

pub fn write_csv(path: &Path, samples: &[Sample]) {
    let mut text = String::from(
        "second,resident_mib,handles,threads,cpu_percent,disk_mib,archive_lag_records,table_lag_records,\
         produced,consumed\n",
    );
    for s in samples {
        let lags = format!("{},{}", s.archive_lag_records, s.table_lag_records);
        let process = format!("{},{},{},{},{}", s.resident_mib, s.handles, s.threads, s.cpu_percent, s.disk_mib);
        writeln!(text, "{:.0},{process},{lags},{},{}", s.second, s.produced, s.consumed).expect("text");
    }
    std::fs::write(path, text).expect("the samples");
}
