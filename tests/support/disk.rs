//! Disks that are worse than this machine's, below one broker: a small file system that fills up, and a disk that takes
//! long over every write.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A tmpfs in a mount namespace of its own, for as long as this lives: it can be filled, and made smaller and larger
/// while a broker runs on it. ENOSPC comes from the kernel. Needs user namespaces, not root.
pub struct SmallDisk {
    holder: Child,
    at: PathBuf,
    size: String,
}

impl SmallDisk {
    /// `size` is mount's, as in `400m`. Only commands with [`Self::wrapper`] see what is below `at`.
    pub fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).expect("directory");
        let script =
            format!("mount -t tmpfs -o size={size} tmpfs {0} && touch {0}/mounted && exec sleep 10000", at.display());
        let holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare (util-linux) runs");
        let disk = Self { holder, at, size: size.to_owned() };
        let start = Instant::now();
        while !disk.sh("test -e mounted") {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "no tmpfs in a namespace of its own: sysctl kernel.unprivileged_userns_clone=1, \
                 kernel.apparmor_restrict_unprivileged_userns=0"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(disk.sh("rm mounted"));
        disk
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The command that runs another one inside.
    pub fn wrapper(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        ["nsenter", "--target", &target, "--user", "--mount", "--preserve-credentials", "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a line of shell in the file system; true if it ends well.
    fn sh(&self, line: &str) -> bool {
        let wrapper = self.wrapper();
        let line = format!("cd {} && {line}", self.at.display());
        let run =
            Command::new(&wrapper[0]).args(&wrapper[1..]).args(["sh", "-c", &line]).stderr(Stdio::null()).status();
        run.expect("nsenter (util-linux) runs").success()
    }

    pub fn resize(&self, size: &str) {
        let line = format!("mount -o remount,size={size} tmpfs {}", self.at.display());
        assert!(self.sh(&line), "resized to {size}");
    }

    /// Leaves no free block, as if another program had taken them.
    pub fn fill(&self) {
        // What is used may grow between the two commands; the kernel then refuses the size.
        let line = format!("mount -o remount,size=$(df --output=used -k . | tail -1)k tmpfs {}", self.at.display());
        assert!((0..50).any(|_| self.sh(&line)), "it fills up");
    }

    /// Gives the blocks back.
    pub fn free(&self) {
        self.resize(&self.size);
    }

    /// Removes everything in it.
    pub fn wipe(&self) {
        assert!(self.sh("find . -mindepth 1 -delete"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A disk that takes long over every write of one process, until this is dropped.
///
/// As root with the first version of cgroups, the kernel holds the process's writes back (`blkio.throttle`). Elsewhere
/// the nearest that a test can do without a device of its own: the process is stopped for most of each 200 ms, so that
/// all it does takes longer, its network too.
pub enum SlowDisk {
    Throttled { group: PathBuf, device: String, pid: u32 },
    Stopped { over: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
}

const CGROUPS: &str = "/sys/fs/cgroup/blkio";
/// Of each period, for so long the process does not run.
const STOPPED: Duration = Duration::from_millis(120);
const RUNS: Duration = Duration::from_millis(80);

impl SlowDisk {
    /// At most so many writes a second to the device that has `data`.
    pub fn of(pid: u32, data: &Path, writes_a_second: u32) -> Self {
        Self::throttle(pid, data, writes_a_second).unwrap_or_else(|| Self::stop_and_go(pid))
    }

    fn throttle(pid: u32, data: &Path, writes_a_second: u32) -> Option<Self> {
        use std::os::linux::fs::MetadataExt as _;
        let device = std::fs::metadata(data).ok()?.st_dev();
        let device = format!("{}:{}", libc::major(device), libc::minor(device));
        let group = PathBuf::from(format!("{CGROUPS}/tidewater-{pid}"));
        std::fs::create_dir(&group).ok()?;
        let set = |file: &str, line: String| std::fs::write(group.join(file), line);
        let limit = format!("{device} {writes_a_second}");
        if set("blkio.throttle.write_iops_device", limit).and_then(|()| set("cgroup.procs", pid.to_string())).is_err() {
            let _ = std::fs::remove_dir(&group);
            return None;
        }
        Some(Self::Throttled { group, device, pid })
    }

    fn stop_and_go(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let signal = move |name: &str| {
            let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
        };
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                signal("STOP");
                std::thread::sleep(STOPPED);
                signal("CONT");
                std::thread::sleep(RUNS);
            }
        });
        Self::Stopped { over, thread: Some(thread) }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        match self {
            Self::Throttled { group, device, pid } => {
                let _ = std::fs::write(group.join("blkio.throttle.write_iops_device"), format!("{device} 0"));
                let _ = std::fs::write(format!("{CGROUPS}/cgroup.procs"), pid.to_string());
                // A process that was killed leaves the group a moment later.
                let removed = || std::fs::remove_dir(&*group).is_ok() || (std::thread::sleep(RUNS), false).1;
                let _ = (0..20).any(|_| removed());
            }
            Self::Stopped { over, thread } => {
                over.store(true, Ordering::Relaxed);
                thread.take().map(JoinHandle::join);
            }
        }
    }
}
