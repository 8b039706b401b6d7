//! Why something cannot be looked into.

use std::io;
use std::path::PathBuf;

use tidewater_storage::journal::JournalOpenError;
use tidewater_tiering::format::FormatError;
use tidewater_tiering::keys::KeyError;
use tidewater_tiering::manifest::PointerError;
use tidewater_tiering::store::{OpenError, StoreError};

use crate::cli::CliError;

/// A failed look.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file or directory.
    #[error("cannot read {}: {source}; for an object of a bucket give --bucket URL and its key", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// No journal there.
    #[error("{} holds no journal: name a shard's directory (<data-dir>/shard-0) or its journal directory", .0.display())]
    NoJournal(PathBuf),
    /// The journal cannot be read at all.
    #[error(transparent)]
    Journal(#[from] JournalOpenError),
    /// Not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bucket cannot be opened.
    #[error(transparent)]
    Bucket(#[from] OpenError),
    /// The bucket does not give the object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not what it should be.
    #[error("{what}: {source}")]
    Format {
        /// Which file or object.
        what: String,
        /// What is wrong.
        source: FormatError,
    },
    /// Root or catalogue.
    #[error("{what}: {source}")]
    Pointer {
        /// Which file or object.
        what: String,
        /// What is wrong.
        source: PointerError,
    },
    /// Another kind of thing.
    #[error("{what} is {found}; use `tidewater inspect {instead}`")]
    Other {
        /// Which file or object.
        what: String,
        /// What it is.
        found: &'static str,
        /// What looks into that.
        instead: &'static str,
    },
    /// It is larger than anything of this format.
    #[error("{what} has {size} bytes, more than any manifest: it is none")]
    TooLarge {
        /// Which file or object.
        what: String,
        /// Its bytes.
        size: u64,
    },
    /// No executor or runtime.
    #[error("cannot start a runtime: {0}; `tidewater check` says what this machine lacks")]
    Runtime(String),
    /// Something is wrong with it; what is sound was printed.
    #[error("{what} is damaged: {first}{}", and_more(*more))]
    Damaged {
        /// Which file or object.
        what: String,
        /// The first damage.
        first: String,
        /// Further ones.
        more: usize,
    },
    /// Printing failed.
    #[error(transparent)]
    Output(#[from] CliError),
}

fn and_more(n: usize) -> String {
    if n == 0 { String::new() } else { format!(" (and {n} more)") }
}
