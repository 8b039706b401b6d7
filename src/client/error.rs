//! What can go wrong for a client, with what to do.

use std::io;
use std::time::Duration;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "cannot reach {addr}: {source}; is a broker running? start one with `tidewater`, or name another with --bootstrap HOST:PORT"
    )]
    Unreachable {
        /// Where.
        addr: String,
        /// The system's words.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {addr} broke during {api}: {source}; the broker may have stopped, see its log")]
    Lost {
        /// Where.
        addr: String,
        /// During which call.
        api: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{addr} did not answer {api} within {after:?}; the broker may be starting or overloaded: try again")]
    Timeout {
        /// Where.
        addr: String,
        /// Which call.
        api: &'static str,
        /// How long.
        after: Duration,
    },
    /// The broker does not serve a call that is needed.
    #[error("{addr} does not serve {api} in a version this client speaks; is it a Kafka broker of 2.1 or later?")]
    Unsupported {
        /// Where.
        addr: String,
        /// Which call.
        api: &'static str,
    },
    /// What came is not what Kafka's protocol says.
    #[error("{addr} answered {api} with bytes that cannot be read: {why}; is another service listening there?")]
    Malformed {
        /// Where.
        addr: String,
        /// Which call.
        api: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The broker says no.
    #[error("{what}: {message} ({name})")]
    Refused {
        /// What was wanted.
        what: String,
        /// Kafka's number.
        code: i16,
        /// Kafka's name of it.
        name: String,
        /// The broker's words, or Kafka's.
        message: String,
    },
    /// An answer lacks what was asked for.
    #[error("{0}: the broker's answer says nothing about it")]
    Missing(String),
    /// There is no such topic.
    #[error(
        "topic {0} does not exist; `tidewater topic list` shows those that do, `tidewater topic create {0}` makes it"
    )]
    UnknownTopic(String),
    /// There is no such partition.
    #[error("topic {topic} has partitions 0 to {last}, not {partition}")]
    UnknownPartition {
        /// Topic.
        topic: String,
        /// Asked for.
        partition: i32,
        /// The last there is.
        last: i32,
    },
    /// Records that cannot be read.
    #[error("records of {topic}/{partition} at offset {offset} cannot be read: {why}")]
    Records {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

/// `Ok` for code 0; else the refusal, in the broker's words if it gave any.
pub(super) fn check(what: impl FnOnce() -> String, code: i16, message: Option<&str>) -> Result<(), ClientError> {
    if code == 0 {
        return Ok(());
    }
    let (name, general) = match kafka_protocol::ResponseError::try_from_code(code) {
        Some(error) => (format!("{error:?}"), error.to_string()),
        None => ("UnknownServerError".to_owned(), format!("error {code}")),
    };
    let message = message.filter(|m| !m.is_empty()).map_or(general, ToOwned::to_owned);
    Err(ClientError::Refused { what: what(), code, name, message })
}

impl ClientError {
    /// Kafka's code, if the broker refused.
    #[must_use]
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}
