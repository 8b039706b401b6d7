//! Why a call failed, with what to do.

use std::io;
use std::time::Duration;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{given:?} is not an address; write HOST:PORT, for example 127.0.0.1:9092")]
    Address { given: String },
    #[error(
        "cannot reach {addr}: {source}; is a broker running? start one with `tidewater`, or name another with --bootstrap HOST:PORT"
    )]
    Unreachable { addr: String, source: io::Error },
    #[error("the connection to {addr} broke during {api}: {source}; the broker may have stopped, see its log")]
    Lost { addr: String, api: &'static str, source: io::Error },
    /// A broker of the cluster that cannot be reached, though others can.
    #[error(
        "the leader of {topic}/{partition}, {addr}, cannot be reached, and no other broker leads it yet; `tidewater cluster health` shows what is wrong"
    )]
    Away { topic: String, partition: i32, addr: String },
    #[error("{addr} did not answer {api} within {after:?}; the broker may be starting or overloaded: try again")]
    Timeout { addr: String, api: &'static str, after: Duration },
    #[error("{addr} does not serve {api} in a version this client speaks; is it a Kafka broker of 2.1 or later?")]
    Unsupported { addr: String, api: &'static str },
    /// The answer does not follow the Kafka protocol.
    #[error("{addr} answered {api} with bytes that cannot be read: {why}; is another service listening there?")]
    Malformed { addr: String, api: &'static str, why: String },
    /// The broker answers with an error code.
    #[error("{what}: {message} ({name})")]
    Refused {
        what: String,
        code: i16,
        name: String,
        /// The broker's text, or Kafka's.
        message: String,
    },
    /// The answer has no entry for what was asked.
    #[error("{0}: the broker's answer does not mention it")]
    Missing(String),
    #[error(
        "topic {0} does not exist; `tidewater topic list` shows those that do, `tidewater topic create {0}` makes it"
    )]
    UnknownTopic(String),
    #[error("topic {topic} has partitions 0 to {last}, not {partition}")]
    UnknownPartition { topic: String, partition: i32, last: i32 },
    #[error("records of {topic}/{partition} at offset {offset} cannot be read: {why}")]
    Records { topic: String, partition: i32, offset: u64, why: String },
}

/// `Ok` for code 0; else the refusal with the broker's text, if it sent one.
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

/// Text, with what to do, for errors that brokers answer without a text.
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
        E::LeaderNotAvailable | E::NotLeaderOrFollower => {
            "the partition has no leader at the moment; try again, and see `tidewater cluster health`"
        }
        E::RequestTimedOut => "not done in time; the broker is busy or stands still, see its log",
        E::MessageTooLarge | E::RecordListTooLarge => "a batch is larger than the topic's max.message.bytes",
        E::KafkaStorageError => "the broker's disk refuses it; see its log",
        E::PolicyViolation => {
            "a rule of the broker refuses it: a topic that is followed from a source can only be read (tidewater replica list)"
        }
        _ => return None,
    })
}

impl ClientError {
    /// A connection that was closed meanwhile.
    pub(super) fn gone(addr: &str) -> Self {
        Self::Lost { addr: addr.to_owned(), api: "a request", source: io::ErrorKind::NotConnected.into() }
    }

    /// Nothing reached the broker, or its answer was lost: another broker may answer.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. } | Self::Timeout { .. } | Self::Away { .. })
    }

    /// Kafka's code, if the broker refused.
    #[must_use]
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The topic or partition does not exist.
    #[must_use]
    pub fn is_unknown_topic(&self) -> bool {
        let unknown = kafka_protocol::ResponseError::UnknownTopicOrPartition.code();
        matches!(self, Self::UnknownTopic(_) | Self::UnknownPartition { .. }) || self.code() == Some(unknown)
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
