//! `tidewater inspect`: what a file or an object of the bucket holds, and where it is damaged.
//!
//! Owns: reading pieces of a file or object (`source`), one view per format (`journal`, `segment`, `manifest`,
//! `object`), each built from the decoders of the crate that owns the format and printed as tables or JSON. Does not
//! own: the formats, nor any verdict of recovery: nothing here is ever written. Bytes are hostile: a view shows what is
//! sound up to the first damage, says where that is, and the command fails.

mod error;
mod journal;
mod manifest;
mod object;
mod segment;
mod source;
mod when;

use std::path::Path;

use serde::Serialize;

pub use error::InspectError;

use crate::cli::{CliError, output};
use source::Source;

/// What to look into, and how to print.
#[derive(Clone, Debug)]
pub struct Request {
    /// A file or directory, or a key of the bucket.
    pub path: String,
    /// The bucket's URL; a path that exists on this machine is read there all the same.
    pub bucket: Option<String>,
    /// Print JSON.
    pub json: bool,
}

/// What a view is: printable, and sound or damaged.
trait View: Serialize {
    /// As tables.
    fn print(&self) -> Result<(), CliError>;
    /// Where it is damaged.
    fn damage(&self) -> &[String];
}

/// A shard's journal, or the directory of the shard.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn journal(request: &Request) -> Result<(), InspectError> {
    show(request, &journal::view(Path::new(&request.path))?)
}

/// A segment file.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn segment(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { segment::view(&open(request).await?).await })?)
}

/// A manifest, page, root or catalogue.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn manifest(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { manifest::view(&open(request).await?).await })?)
}

/// A data object.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn object(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { object::view(&open(request).await?).await })?)
}

/// Threads for the bucket's client; nothing here is long.
fn runtime() -> Result<tokio::runtime::Runtime, InspectError> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    built.map_err(|error| InspectError::Runtime(error.to_string()))
}

async fn open(request: &Request) -> Result<Source, InspectError> {
    let path = Path::new(&request.path);
    match &request.bucket {
        Some(bucket) if !path.exists() => Source::object(bucket, &request.path).await,
        _ => Source::file(path),
    }
}

fn show(request: &Request, view: &impl View) -> Result<(), InspectError> {
    if request.json {
        output::json(view)?;
    } else {
        view.print()?;
    }
    match view.damage() {
        [] => Ok(()),
        [first, rest @ ..] => {
            Err(InspectError::Damaged { what: request.path.clone(), first: first.clone(), more: rest.len() })
        }
    }
}

/// Prints what is damaged, if anything.
fn print_damage(damage: &[String]) -> Result<(), CliError> {
    for line in damage {
        output::line(&format!("DAMAGED: {line}"))?;
    }
    Ok(())
}
