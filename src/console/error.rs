//! Why a command failed, with what to do.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::config::node::ConfigError;

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The text of an error of `node` or `demo`.
    #[error("{0}")]
    Process(String),
    #[error("this machine or these settings cannot run a broker; see the checks above")]
    Unfit,
    /// Standard output fails; see [`Self::is_broken_pipe`].
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    #[error("cannot read {path}: {source}")]
    Input { path: PathBuf, source: io::Error },
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The admin port does not answer as it should.
    #[error("cannot ask the admin port {addr}: {why}; if it is at another address, name it with --admin HOST:PORT")]
    Admin { addr: String, why: String },
    /// The Schema Registry does not answer as it should.
    #[error(
        "cannot ask the schema registry {addr}: {why}; if it is at another address, name it with --registry HOST:PORT"
    )]
    Registry { addr: String, why: String },
    /// The broker, or a rule of the command, says no; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The command worked and found damage; exit code 3.
    #[error("{0}")]
    Damaged(String),
    /// The command line contradicts itself; exit code 2.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// 2 for a command line or settings that are wrong, 3 for damage that was looked for, 1 for everything that failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Client(ClientError::Address { .. }) => 2,
            Self::Damaged(_) => 3,
            _ => 1,
        }
    }

    /// The reader of standard output has closed it: no failure of the command.
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
    fn exit_codes_separate_wrong_usage_from_failures() {
        assert_eq!(CliError::Usage("?".into()).exit_code(), 2);
        assert_eq!(CliError::from(ClientError::Address { given: "x".into() }).exit_code(), 2);
        assert_eq!(CliError::Refused("no".into()).exit_code(), 1);
        assert_eq!(CliError::Damaged("bytes".into()).exit_code(), 3);
        assert_eq!(CliError::from(ClientError::UnknownTopic("t".into())).exit_code(), 1);
    }
}
