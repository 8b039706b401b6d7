//! The disk budget: what `--disk-bytes` and `--cache-bytes` amount to, and how much of it a directory bucket uses. A
//! bucket on another file system than the data directory uses nothing of it, wherever it is.
//!
//! Without `--disk-bytes` the budget is nine tenths of the free space and of the bytes in the data directory together.
//! The second number takes a look at every file, the bucket's included; so a start uses the number of the start before,
//! and counts in the background while it serves. On a disk that other programs have filled the budget is small; it
//! grows when they free space. What is free on the file system bounds every budget, also a given one: a broker that
//! looks refuses producers, one that does not has its journal wait for the next file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidewater_storage::budget::{DiskBudget, DiskUsage, DiskUse};
use tidewater_storage::env::preflight::{free_bytes, share_a_file_system};
use tidewater_tiering::store::RequestKind;

use super::error::StartError;
use super::preflight;
use super::side::Side;
use crate::archival::run::Tier;
use crate::config::node::NodeConfig;

/// Between counts of the bytes in a directory bucket.
const BUCKET_LOOK: Duration = Duration::from_secs(10);

/// Between looks at whether the budget can grow.
const GROWTH_LOOK: Duration = Duration::from_secs(10);

/// Between looks at the free space.
const FREE_LOOK: Duration = Duration::from_secs(1);

/// The file that keeps the budget for the next start, in decimal digits. It may be missing or damaged.
const SHARE_FILE: &str = "disk-share";

pub(super) struct Budgets {
    pub(super) disk: DiskBudget,
    /// Bytes for the chunk caches of all shards together.
    pub(super) cache: u64,
    share: Share,
}

/// Where the disk budget comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// `--disk-bytes`.
    Given,
    /// Counted by this start.
    Counted,
    /// Counted by an earlier start; this one counts in the background.
    Remembered,
}

impl Budgets {
    /// # Errors
    /// The file system does not report its free space.
    pub(super) fn of(config: &NodeConfig) -> Result<Self, StartError> {
        let dir = &config.data_dir;
        let remembered = if config.disk_bytes.is_none() { recall(dir) } else { None };
        let disk = match config.disk_bytes.or(remembered) {
            Some(bytes) => bytes,
            None => preflight::disk_share(dir).inspect(|share| remember(dir, *share))?,
        };
        let cache = config.cache_bytes.unwrap_or(disk / 10).min(disk / 2);
        let disk = DiskBudget::new(disk);
        // The whole cache counts as used from the start: it fills without asking the budget.
        disk.account(DiskUse::Cache).add(cache);
        let share = match (config.disk_bytes, remembered) {
            (Some(_), _) => Share::Given,
            (None, Some(_)) => Share::Remembered,
            (None, None) => Share::Counted,
        };
        Ok(Self { disk, cache, share })
    }

    /// Counts in the background: the data directory once, and a directory bucket again after each request that may have
    /// changed it. Looks at the free space; unless the budget is given, it may grow with it.
    pub(super) fn watch(&self, config: &NodeConfig, tier: &Tier, side: &Side) {
        side.handle().spawn(watch_free(self.disk.clone(), config.data_dir.clone()));
        if self.share != Share::Given {
            let (budget, dir) = (self.disk.clone(), config.data_dir.clone());
            side.handle().spawn(keep_share(budget, dir, self.share, config.bucket_is_embedded));
        }
        let Some(dir) = config.bucket.strip_prefix("file://").map(PathBuf::from) else { return };
        let account = self.disk.account(DiskUse::Bucket);
        let (tier, data_dir) = (tier.clone(), config.data_dir.clone());
        side.handle().spawn(async move {
            let (mut known, mut seen) = (0, None);
            loop {
                let changes = [RequestKind::Put, RequestKind::PutLarge, RequestKind::Delete];
                let changes: u64 = changes.iter().map(|kind| tier.stats().requests(*kind)).sum();
                if seen.replace(changes) != Some(changes) {
                    let (data_dir, dir) = (data_dir.clone(), dir.clone());
                    let look = tokio::task::spawn_blocking(move || held_beside(&data_dir, &dir));
                    let now = look.await.unwrap_or(known);
                    account.change(known, now);
                    known = now;
                }
                tokio::time::sleep(BUCKET_LOOK).await;
            }
        });
    }
}

/// Bytes in a directory bucket, as far as they take room from the data directory. A bucket that is not made yet holds
/// none.
fn held_beside(data_dir: &Path, bucket: &Path) -> u64 {
    match share_a_file_system(data_dir, bucket) {
        Ok(false) => 0,
        Ok(true) => preflight::held(bucket),
        Err(error) => {
            tracing::debug!(%error, bucket = %bucket.display(), "cannot look whether the bucket is on the data directory's file system");
            0
        }
    }
}

/// Notes what is free on the file system, and says when it is full and when it is not any more.
async fn watch_free(budget: DiskBudget, dir: PathBuf) {
    let mut full = false;
    loop {
        if let Ok(free) = free_bytes(&dir) {
            budget.set_free(free);
        }
        let usage = budget.usage();
        if usage.is_full() != full {
            full = !full;
            let (used, limit, free) = (usage.total(), usage.limit, usage.free);
            if full {
                tracing::warn!(dir = %dir.display(), used, limit, free, "the disk is full: producers are refused; free space, raise --disk-bytes or shorten local.retention.*");
            } else {
                tracing::info!(dir = %dir.display(), used, limit, free, "the disk has room for producers again");
            }
        }
        tokio::time::sleep(FREE_LOOK).await;
    }
}

/// Counts a remembered budget; then raises it when free space allows.
async fn keep_share(budget: DiskBudget, dir: PathBuf, share: Share, with_bucket: bool) {
    if share == Share::Remembered {
        let counted = dir.clone();
        match tokio::task::spawn_blocking(move || preflight::disk_share(&counted)).await {
            Ok(Ok(share)) => settle_share(&budget, &dir, share),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the disk budget stays what it was: the file system does not report its free space")
            }
            Err(_) => {}
        }
    }
    loop {
        tokio::time::sleep(GROWTH_LOOK).await;
        let Ok(free) = free_bytes(&dir) else { continue };
        if let Some(share) = grown(&budget.usage(), free, with_bucket) {
            tracing::info!(bytes = share, "the disk has more free space; the disk budget grows");
            settle_share(&budget, &dir, share);
        }
    }
}

fn settle_share(budget: &DiskBudget, dir: &Path, share: u64) {
    budget.set_limit(share);
    remember(dir, share);
}

/// The budget by the free space and the used bytes of now, if it is larger by a sixteenth at least. The bytes in the
/// cache are not known here, so the result is at most what counting would give.
fn grown(usage: &DiskUsage, free: u64, with_bucket: bool) -> Option<u64> {
    let bucket = if with_bucket { usage.bucket } else { 0 };
    let held = [usage.journal, usage.segments, usage.checkpoint, bucket];
    let share = held.iter().fold(free, |sum, held| sum.saturating_add(*held)) / 10 * 9;
    (share > usage.limit.saturating_add(usage.limit / 16)).then_some(share)
}

fn recall(dir: &Path) -> Option<u64> {
    std::fs::read_to_string(dir.join(SHARE_FILE)).ok()?.trim().parse().ok().filter(|share| *share > 0)
}

/// Not synced: without it the next start only takes longer.
fn remember(dir: &Path, share: u64) {
    if let Err(error) = std::fs::write(dir.join(SHARE_FILE), share.to_string()) {
        tracing::debug!(%error, "cannot write the disk budget down; the next start counts before it serves");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_when_others_make_room() {
        let usage =
            DiskUsage { journal: 100, segments: 300, bucket: 600, cache: 50, limit: 900, ..DiskUsage::default() };
        assert_eq!(grown(&usage, 0, true), None, "as it was counted");
        assert_eq!(grown(&usage, 60, true), None, "not worth it");
        assert_eq!(grown(&usage, 1000, true), Some(1800));
        assert_eq!(grown(&usage, 1000, false), Some(1260), "a bucket elsewhere");
        assert_eq!(grown(&DiskUsage { limit: u64::MAX, ..usage }, 1000, true), None);
    }

    #[test]
    fn a_bucket_on_another_file_system_takes_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (data, bucket) = (dir.path().join("data"), dir.path().join("bucket"));
        std::fs::create_dir(&data).expect("made");
        assert_eq!(held_beside(&data, &bucket), 0, "not made yet");
        std::fs::create_dir(&bucket).expect("made");
        std::fs::write(bucket.join("root"), [0; 100]).expect("written");
        assert_eq!(held_beside(&data, &bucket), 100);
        let elsewhere = Path::new("/proc/self/fd");
        assert_ne!(preflight::held(elsewhere), 0, "links have a length");
        assert_eq!(held_beside(&data, elsewhere), 0);
    }

    #[test]
    fn a_share_is_remembered_and_nonsense_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(recall(dir.path()), None);
        remember(dir.path(), 12_345);
        assert_eq!(recall(dir.path()), Some(12_345));
        for nonsense in ["", "0", "-1", "many", "99999999999999999999999"] {
            std::fs::write(dir.path().join(SHARE_FILE), nonsense).expect("written");
            assert_eq!(recall(dir.path()), None, "{nonsense}");
        }
    }
}
