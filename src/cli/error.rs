//! Why a command failed, with what to do.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::config::node::ConfigError;

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The broker or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The settings do not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker did not start, or the demo failed; in its own words.
    #[error("{0}")]
    Process(String),
    /// The machine cannot run a broker.
    #[error("this machine or these settings will not do; see above")]
    Unfit,
    /// Standard output does not take what is printed.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// An input file cannot be read.
    #[error("cannot read {path}: {source}")]
    Input {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The client's runtime.
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The admin port.
    #[error("cannot ask the admin port {addr}: {why}; is it another one? name it with --admin HOST:PORT")]
    Admin {
        /// Where.
        addr: String,
        /// What happened.
        why: String,
    },
    /// Understood, and not to be done as things are.
    #[error("{0}")]
    Refused(String),
    /// Something said that makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// 2 for what was not understood, 1 for what failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Client(ClientError::Address { .. }) => 2,
            _ => 1,
        }
    }

    /// Did the reader of our output go away?
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_tell_what_was_said_wrong_from_what_went_wrong() {
        assert_eq!(CliError::Usage("?".into()).exit_code(), 2);
        assert_eq!(CliError::from(ClientError::Address { given: "x".into() }).exit_code(), 2);
        assert_eq!(CliError::Refused("no".into()).exit_code(), 1);
        assert_eq!(CliError::from(ClientError::UnknownTopic("t".into())).exit_code(), 1);
    }
}
