//! Reads a journal without changing it: for `tidewater inspect journal`, tests and emergencies.
//!
//! Owns: a walk over all commits of the files that the layout names, in order. It reports where reading stops and why;
//! whether that is an error, [`super::Journal::open`] decides. Does not own: printing.

use std::path::{Path, PathBuf};

use super::JournalOpenError;
use super::format::{BLOCK, CommitHeader, FormatError, Located};
use super::layout::{LAYOUT_FILE, Layout, file_name};
use super::scan::Scanner;
use crate::env::{Env, OpenMode};
use crate::model::FilePos;

/// One valid commit.
#[derive(Clone, Debug)]
pub struct SeenCommit {
    pub file: PathBuf,
    pub at: FilePos,
    pub header: CommitHeader,
    pub records: Vec<Located>,
}

/// Where reading a file stopped, usually at its free end.
#[derive(Clone, Debug)]
pub struct SeenEnd {
    pub file: PathBuf,
    pub at: FilePos,
    /// Number of the commit that would be next.
    pub expected: u64,
    pub error: FormatError,
}

/// Reads the journal in `dir` and calls `visit` with every commit.
///
/// # Errors
/// The layout cannot be read, or a file cannot.
pub async fn walk(
    env: &Env,
    dir: &Path,
    mut visit: impl FnMut(SeenCommit),
) -> Result<(Layout, Vec<SeenEnd>), JournalOpenError> {
    let path = dir.join(LAYOUT_FILE);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error| JournalOpenError::Io { action: "reading", path, error }
    };
    let bytes = env.disk.read_all(&path).await.map_err(failed(&path))?;
    let layout = Layout::decode(&bytes).map_err(|error| JournalOpenError::Layout { path: path.clone(), error })?;
    let mut live: Vec<_> = layout.files.iter().filter(|file| file.generation > 0).collect();
    live.sort_by_key(|file| file.generation);
    let mut expected = live.first().map_or(1, |file| file.first_sequence);
    let mut ends = Vec::new();
    for row in live {
        let path = dir.join(file_name(row.number));
        let file = env.disk.open(&path, OpenMode::Read).await.map_err(failed(&path))?;
        let (mut scanner, mut at) = (Scanner::new(&file, row.bytes), 0);
        loop {
            let read = scanner.commit(layout.journal, row.generation, at, expected).await;
            match read.map_err(failed(&path))? {
                Ok((header, records)) => {
                    visit(SeenCommit { file: path.clone(), at: FilePos(at), header, records });
                    at += (header.total_len() as u64).next_multiple_of(BLOCK as u64);
                    expected += 1;
                }
                Err(error) => {
                    ends.push(SeenEnd { file: path, at: FilePos(at), expected, error });
                    break;
                }
            }
        }
    }
    Ok((layout, ends))
}
