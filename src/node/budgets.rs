//! Disk shared out: what `--disk-bytes` and `--cache-bytes` come to, and what a directory bucket takes of it.
//!
//! Without `--disk-bytes` the share is nine tenths of what is free and what the data directory holds. Counting the latter
//! means to look at every file, the bucket's included, so a start goes by what the one before found and counts on the side
//! while it serves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidewater_storage::budget::{DiskBudget, DiskUse};
use tidewater_tiering::store::RequestKind;

use super::error::StartError;
use super::preflight;
use super::side::Side;
use crate::archival::run::Tier;
use crate::config::node::NodeConfig;

/// How often the size of a directory bucket is looked at.
const BUCKET_LOOK: Duration = Duration::from_secs(10);

/// Where a data directory remembers its share of the disk: decimal digits. May be missing, or be nonsense.
const SHARE_FILE: &str = "disk-share";

/// The node's budgets.
pub(super) struct Budgets {
    /// For everything on the disk.
    pub(super) disk: DiskBudget,
    /// For the chunk caches of all shards. Bytes.
    pub(super) cache: u64,
    /// The share is not given and has to be found out.
    remembered: bool,
}

impl Budgets {
    /// As the settings and the data directory say.
    ///
    /// # Errors
    /// The disk cannot be asked.
    pub(super) fn of(config: &NodeConfig) -> Result<Self, StartError> {
        let dir = &config.data_dir;
        let remembered = if config.disk_bytes.is_none() { recall(dir) } else { None };
        let disk = match config.disk_bytes.or(remembered) {
            Some(bytes) => bytes,
            None => preflight::disk_share(dir).inspect(|share| remember(dir, *share))?,
        };
        let cache = config.cache_bytes.unwrap_or(disk / 10).min(disk / 2);
        let disk = DiskBudget::new(disk);
        // What the cache may take is taken from the start: it fills without asking.
        disk.account(DiskUse::Cache).add(cache);
        Ok(Self { disk, cache, remembered: remembered.is_some() })
    }

    /// Looks on the side at what takes long: the data directory, once, and a directory bucket, again whenever anything was
    /// asked of it that may have changed it.
    pub(super) fn watch(&self, config: &NodeConfig, tier: &Tier, side: &Side) {
        if self.remembered {
            let (budget, dir) = (self.disk.clone(), config.data_dir.clone());
            side.handle().spawn_blocking(move || match preflight::disk_share(&dir) {
                Ok(share) => {
                    budget.set_limit(share);
                    remember(&dir, share);
                }
                Err(error) => tracing::warn!(%error, "the disk cannot be asked; its share stays what it was"),
            });
        }
        let Some(dir) = config.bucket.strip_prefix("file://").map(PathBuf::from) else { return };
        let account = self.disk.account(DiskUse::Bucket);
        let tier = tier.clone();
        side.handle().spawn(async move {
            let (mut known, mut seen) = (0, None);
            loop {
                let changes = [RequestKind::Put, RequestKind::PutLarge, RequestKind::Delete];
                let changes: u64 = changes.iter().map(|kind| tier.stats().requests(*kind)).sum();
                if seen.replace(changes) != Some(changes) {
                    let looked = dir.clone();
                    let now = tokio::task::spawn_blocking(move || preflight::held(&looked)).await.unwrap_or(known);
                    account.change(known, now);
                    known = now;
                }
                tokio::time::sleep(BUCKET_LOOK).await;
            }
        });
    }
}

fn recall(dir: &Path) -> Option<u64> {
    std::fs::read_to_string(dir.join(SHARE_FILE)).ok()?.trim().parse().ok().filter(|share| *share > 0)
}

/// Not synced: it is worth no more than the time it saves.
fn remember(dir: &Path, share: u64) {
    if let Err(error) = std::fs::write(dir.join(SHARE_FILE), share.to_string()) {
        tracing::debug!(%error, "the share of the disk is not remembered; the next start counts before it serves");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
