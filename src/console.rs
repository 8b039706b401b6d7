//! What commands stand on: printing (`output`), their errors (`error`), questions to the admin port (`admin`).
//!
//! Below `cli`, `demo` and `inspect`, which share it and do not use each other's parts.

pub(crate) mod admin;
mod error;
pub(crate) mod output;

pub use error::CliError;
