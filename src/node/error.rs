//! Why the node does not start, in words that say what to do.

use std::path::PathBuf;

use crate::config::node::ConfigError;
use crate::net::listen::BindError;

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine cannot run it.
    #[error("this machine cannot run Tidewater:\n{0}\n`tidewater check` shows all checks")]
    Unfit(String),
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be used: {why}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Another broker holds the data directory.
    #[error("another broker is running on the data directory {0}: stop it, or choose another with --data-dir")]
    Locked(PathBuf),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The bucket cannot be used.
    #[error("the bucket {url} cannot be used: {why}")]
    Bucket {
        /// Which.
        url: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A shard could not start.
    #[error("shard {shard} could not start: {why}")]
    Shard {
        /// Which.
        shard: u16,
        /// What is wrong.
        why: String,
    },
    /// The system refused a thread or a runtime.
    #[error("the system refused {what}: {why}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Its words.
        why: String,
    },
}
