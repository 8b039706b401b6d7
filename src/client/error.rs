//! What can go wrong for a client, with what to do.

use std::io;
use std::time::Duration;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No address.
    #[error("{given:?} is not an address; write HOST:PORT, for example 127.0.0.1:9092")]
    Address {
        /// What was given.
        given: String,
    },
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
        Some(error) => (format!("{error:?}"), words(&error).map_or_else(|| error.to_string(), ToOwned::to_owned)),
        None => ("UnknownServerError".to_owned(), format!("error {code}")),
    };
    let message = message.filter(|m| !m.is_empty()).map_or(general, ToOwned::to_owned);
    Err(ClientError::Refused { what: what(), code, name, message })
}

/// What an error says of which brokers give no more than the number, and what to do.
fn words(error: &kafka_protocol::ResponseError) -> Option<&'static str> {
    use kafka_protocol::ResponseError as E;
    Some(match error {
        E::OffsetOutOfRange => "the log has no such offset; `tidewater topic describe` shows where it starts and ends",
        E::GroupIdNotFound => "there is no such group; `tidewater group list` shows those there are",
        E::NonEmptyGroup => "the group has members; stop its consumers first",
        E::UnknownMemberId => "the group has members that would overwrite it; stop its consumers first",
        E::UnknownTopicOrPartition => "there is no such topic or partition; `tidewater topic list` shows the topics",
        E::CoordinatorNotAvailable | E::CoordinatorLoadInProgress | E::NotCoordinator => {
            "the group's coordinator is starting; try again in a moment"
        }
        E::LeaderNotAvailable | E::NotLeaderOrFollower => "the partition's leader is starting; try again in a moment",
        E::RequestTimedOut => "not done in time; the broker is busy or stands still, see its log",
        E::MessageTooLarge | E::RecordListTooLarge => "a batch is larger than the topic's max.message.bytes",
        E::KafkaStorageError => "the broker's disk refuses it; see its log",
        E::PolicyViolation => "the broker's disk budget or a policy refuses it; see its log",
        _ => return None,
    })
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

    /// Is there no such topic (or partition)?
    #[must_use]
    pub fn is_unknown_topic(&self) -> bool {
        let unknown = kafka_protocol::ResponseError::UnknownTopicOrPartition.code();
        matches!(self, Self::UnknownTopic(_)) || self.code() == Some(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_put_into_words() {
        let said = |code, message| check(|| "delete group g".into(), code, message).expect_err("refused").to_string();
        let group = "delete group g: there is no such group; `tidewater group list` shows those there are";
        assert_eq!(said(69, None), format!("{group} (GroupIdNotFound)"));
        assert_eq!(said(69, Some("not here")), "delete group g: not here (GroupIdNotFound)");
        assert_eq!(said(9999, None), "delete group g: Unknown error code: 9999 (Unknown(9999))");
    }
}
