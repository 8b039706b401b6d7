//! Why the node does not start, in words that say what to do.

use std::path::PathBuf;

use tidewater_tiering::restore::RestoreError;

use crate::config::node::ConfigError;
use crate::net::listen::BindError;

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The failed checks, one a line.
    #[error("this machine cannot run Tidewater:\n{0}\n`tidewater check` shows all checks")]
    Unfit(String),
    #[error("the data directory {path} cannot be used: {why}")]
    DataDir {
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    #[error("another broker is running on the data directory {0}: stop it, or choose another with --data-dir")]
    Locked(PathBuf),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the bucket {url} cannot be used: {why}")]
    Bucket {
        url: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The setting, the file, and what to do.
    #[error("{0}")]
    Tokens(String),
    #[error("Iceberg tables cannot be served: {0}")]
    Tables(String),
    /// The brokers of `--seed` and this one cannot be in one cluster; what to do.
    #[error("this broker is in no cluster: {0}")]
    Cluster(String),
    /// See [`RestoreError`]; what was done is gone on with by the same command.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("shard {shard} could not start: {why}")]
    Shard { shard: u16, why: String },
    #[error("the system refused {what}: {why}")]
    System {
        what: &'static str,
        /// The system's error text.
        why: String,
    },
}
