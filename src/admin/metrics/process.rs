//! The process as the kernel sees it, under the names every Prometheus client uses.

use super::samples::{Sheet, label};

/// Ticks of CPU time a second: `USER_HZ`, 100 on every Linux since 2.6.
const TICKS: f64 = 100.0;
/// Bytes a page of `/proc/self/statm`.
const PAGE: f64 = 4096.0;

pub(super) fn fill(sheet: &mut Sheet) {
    sheet.gauges(
        "tidewater_build_info",
        "The version that runs; always 1",
        vec![(label("version", env!("CARGO_PKG_VERSION")), 1.0)],
    );
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    if let Some(ticks) = cpu_ticks(&read("stat")) {
        sheet.amount("process_cpu_seconds", "CPU time used, user and system, in seconds", ticks / TICKS);
    }
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(started) = started_seconds(&read("stat"), &boot) {
        sheet.gauge("process_start_time_seconds", "When the process began, in seconds since 1970", started);
    }
    if let Some((size, resident)) = pages(&read("statm")) {
        sheet.gauge("process_virtual_memory_bytes", "Address space, in bytes", size * PAGE);
        sheet.gauge("process_resident_memory_bytes", "Memory resident, in bytes", resident * PAGE);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        sheet.gauge("process_open_fds", "File handles open", open.count() as f64);
    }
    if let Some(most) = open_files_limit(&read("limits")) {
        sheet.gauge("process_max_fds", "File handles that may be open (ulimit -n)", most);
    }
}

/// Fields 14 and 15 of `/proc/self/stat`; the second field may hold spaces, in parentheses.
pub(super) fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Field 22 of `/proc/self/stat`, ticks after boot, on top of `btime` of `/proc/stat`.
fn started_seconds(stat: &str, boot: &str) -> Option<f64> {
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let booted: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / TICKS)
}

fn pages(statm: &str) -> Option<(f64, f64)> {
    let mut fields = statm.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn open_files_limit(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "1 (a (b) c) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(200.0));
        assert_eq!(started_seconds(&format!("{stat} 0 1 0 250"), "cpu 1\nbtime 1000\n"), Some(1002.5));
        assert_eq!(pages("10 4 3 2 1 0 0"), Some((10.0, 4.0)));
        assert_eq!(open_files_limit("Max open files            1024       4096       files"), Some(1024.0));
        assert_eq!(cpu_ticks(""), None);
    }
}
