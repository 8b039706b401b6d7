//! `tidewater inspect`: the content of a file or of an object of the bucket, and where it is damaged.
//!
//! Owns: reading pieces of a file or object (`source`); one view per format (`journal`, `segment`, `manifest`,
//! `object`), built with the decoders of the crate that owns the format and printed as tables or JSON. Does not own:
//! the formats, and recovery; nothing is written. The bytes may be anything: a view shows what is undamaged up to the
//! first damage and says where that is, and the command fails.

mod error;
mod journal;
mod manifest;
mod object;
mod segment;
mod source;

use std::path::Path;

use serde::Serialize;

pub use error::InspectError;

use crate::console::{CliError, output};
use source::Source;

#[derive(Clone, Debug)]
pub struct Request {
    /// A file or directory, or a key of the bucket.
    pub path: String,
    /// A URL. A path that exists on this machine is read from there even if this is set.
    pub bucket: Option<String>,
    pub json: bool,
}

/// The decoded content of a file or object, for printing.
trait View: Serialize {
    /// Prints tables.
    fn print(&self) -> Result<(), CliError>;
    /// Each damage with its position; empty if there is none.
    fn damage(&self) -> &[String];
}

/// Shows a shard's journal; the path is its directory or the shard's.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn journal(request: &Request) -> Result<(), InspectError> {
    show(request, &journal::view(Path::new(&request.path))?)
}

/// Shows a segment file.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn segment(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { segment::view(&open(request).await?).await })?)
}

/// Shows a manifest, manifest page, root or catalogue.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn manifest(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { manifest::view(&open(request).await?).await })?)
}

/// Shows a data object.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn object(request: &Request) -> Result<(), InspectError> {
    let runtime = runtime()?;
    show(request, &runtime.block_on(async { object::view(&open(request).await?).await })?)
}

/// A runtime for the client of the bucket.
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

fn print_damage(damage: &[String]) -> Result<(), CliError> {
    for line in damage {
        output::line(&format!("DAMAGED: {line}"))?;
    }
    Ok(())
}
