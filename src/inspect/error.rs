//! Why a file or object cannot be shown.

use std::io;
use std::path::PathBuf;

use tidewater_storage::journal::JournalOpenError;
use tidewater_tiering::format::FormatError;
use tidewater_tiering::keys::KeyError;
use tidewater_tiering::manifest::PointerError;
use tidewater_tiering::store::{OpenError, StoreError};

use crate::console::CliError;

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read {}: {source}; for an object of a bucket give --bucket URL and its key", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} holds no journal: name a shard's directory (<data-dir>/shard-0) or its journal directory", .0.display())]
    NoJournal(PathBuf),
    #[error(transparent)]
    Journal(#[from] JournalOpenError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Bucket(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{what}: {source}")]
    Format { what: String, source: FormatError },
    /// A root or catalogue that does not decode.
    #[error("{what}: {source}")]
    Pointer { what: String, source: PointerError },
    /// Another subcommand shows this.
    #[error("{what} is {found}; use `tidewater inspect {instead}`")]
    Other {
        what: String,
        found: &'static str,
        /// A subcommand of `tidewater inspect`.
        instead: &'static str,
    },
    #[error("{what} has {size} bytes, more than any manifest")]
    TooLarge { what: String, size: u64 },
    /// No executor or tokio runtime.
    #[error("cannot start a runtime: {0}; `tidewater check` says what this machine lacks")]
    Runtime(String),
    /// The undamaged part was printed.
    #[error("{what} is damaged: {first}{}", and_more(*more))]
    Damaged {
        what: String,
        first: String,
        /// Further damages.
        more: usize,
    },
    #[error(transparent)]
    Output(#[from] CliError),
}

fn and_more(n: usize) -> String {
    if n == 0 { String::new() } else { format!(" (and {n} more)") }
}
