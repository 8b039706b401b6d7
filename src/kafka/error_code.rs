//! Kafka's error numbers, and the one mapping from our errors to them. No other file names a number.
//!
//! Matches are exhaustive, so a new variant below must decide here what clients see. The choice follows what clients do
//! with a code: retriable ones only where trying again can help, and never one that makes a producer skip a record.

use crate::controller::ask::TopicError;
use crate::group::GroupError;
use crate::partition::message::{ProduceError, ReadError, TrimError};
use tidewater_storage::model::BatchError;

/// A code as the wire carries it (Kafka's `Errors.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(i16);

macro_rules! codes {
    ($($name:ident = $number:literal: $doc:literal,)*) => {
        impl ErrorCode {
            $(#[doc = $doc] pub const $name: Self = Self($number);)*

            /// Kafka's name of the code.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    UNKNOWN_SERVER_ERROR = -1: "Something unexpected.",
    NONE = 0: "Done.",
    OFFSET_OUT_OF_RANGE = 1: "Before the log start or after the end.",
    CORRUPT_MESSAGE = 2: "CRC or structure of a batch does not hold.",
    UNKNOWN_TOPIC_OR_PARTITION = 3: "Not here; retriable, since it may just have been made.",
    LEADER_NOT_AVAILABLE = 5: "No leader yet; retriable.",
    NOT_LEADER_OR_FOLLOWER = 6: "Ask for metadata and try again.",
    REQUEST_TIMED_OUT = 7: "Not committed within the request's timeout; it may be later.",
    MESSAGE_TOO_LARGE = 10: "A batch over `max.message.bytes`.",
    OFFSET_METADATA_TOO_LARGE = 12: "Metadata of a committed offset too long.",
    COORDINATOR_LOAD_IN_PROGRESS = 14: "Try again.",
    COORDINATOR_NOT_AVAILABLE = 15: "Try again.",
    NOT_COORDINATOR = 16: "Find the coordinator again.",
    INVALID_TOPIC_EXCEPTION = 17: "Not a legal topic name.",
    NOT_ENOUGH_REPLICAS = 19: "Not appended; try again.",
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20: "It may be appended; send the same again.",
    INVALID_REQUIRED_ACKS = 21: "Acks other than 0, 1, -1.",
    ILLEGAL_GENERATION = 22: "Not the group's generation.",
    INCONSISTENT_GROUP_PROTOCOL = 23: "No protocol in common.",
    INVALID_GROUP_ID = 24: "Not a group id.",
    UNKNOWN_MEMBER_ID = 25: "Not a member.",
    INVALID_SESSION_TIMEOUT = 26: "Outside the broker's bounds.",
    REBALANCE_IN_PROGRESS = 27: "Join again.",
    INVALID_COMMIT_OFFSET_SIZE = 28: "A commit too large.",
    INVALID_TIMESTAMP = 32: "A timestamp out of the accepted range.",
    UNSUPPORTED_VERSION = 35: "A version not served.",
    TOPIC_ALREADY_EXISTS = 36: "A topic of that name exists.",
    INVALID_PARTITIONS = 37: "A number of partitions that cannot be.",
    INVALID_REPLICATION_FACTOR = 38: "More replicas than brokers.",
    INVALID_REPLICA_ASSIGNMENT = 39: "A placement that cannot be followed.",
    INVALID_CONFIG = 40: "A setting unknown, malformed or refused.",
    NOT_CONTROLLER = 41: "The controller is elsewhere or not ready; retriable.",
    INVALID_REQUEST = 42: "A request that makes no sense.",
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43: "A record format not served.",
    POLICY_VIOLATION = 44: "Not allowed here, by a rule that the message names.",
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45: "Sequences leave a gap.",
    DUPLICATE_SEQUENCE_NUMBER = 46: "Appended before, too long ago to tell where.",
    INVALID_PRODUCER_EPOCH = 47: "A newer instance of the producer exists.",
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53: "Transactions are not served.",
    SECURITY_DISABLED = 54: "There is no authorizer.",
    KAFKA_STORAGE_ERROR = 56: "Disk, journal or bucket cannot serve now; retriable.",
    NON_EMPTY_GROUP = 68: "The group has members.",
    GROUP_ID_NOT_FOUND = 69: "No such group.",
    FETCH_SESSION_ID_NOT_FOUND = 70: "No such fetch session.",
    INVALID_FETCH_SESSION_EPOCH = 71: "Not the next request of its fetch session.",
    FENCED_LEADER_EPOCH = 74: "The client's epoch is older.",
    UNKNOWN_LEADER_EPOCH = 75: "The client's epoch is newer.",
    UNSUPPORTED_COMPRESSION_TYPE = 76: "A codec not known.",
    OFFSET_NOT_AVAILABLE = 78: "The end is not known yet; retriable.",
    MEMBER_ID_REQUIRED = 79: "Join again with the id given.",
    PREFERRED_LEADER_NOT_AVAILABLE = 80: "The preferred replica cannot lead now.",
    GROUP_MAX_SIZE_REACHED = 81: "The group is full.",
    FENCED_INSTANCE_ID = 82: "The static identity was taken over.",
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83: "No replica can lead.",
    ELECTION_NOT_NEEDED = 84: "The preferred replica leads.",
    NO_REASSIGNMENT_IN_PROGRESS = 85: "Nothing to cancel.",
    GROUP_SUBSCRIBED_TO_TOPIC = 86: "Members subscribe to the topic.",
    INVALID_RECORD = 87: "A batch that is not accepted.",
    RESOURCE_NOT_FOUND = 91: "No such user or setting.",
    DUPLICATE_RESOURCE = 92: "Named more than once.",
    UNKNOWN_TOPIC_ID = 100: "No topic of that id.",
    INCONSISTENT_TOPIC_ID = 103: "The name has come to mean a topic of another id.",
    FETCH_SESSION_TOPIC_ID_ERROR = 106: "A session goes by names or by ids, not by both.",
    MISMATCHED_ENDPOINT_TYPE = 114: "Asked of the wrong kind of listener.",
    UNSUPPORTED_ENDPOINT_TYPE = 115: "No such kind of listener.",
}

impl ErrorCode {
    /// As an answer carries it.
    #[must_use]
    pub const fn of(number: i16) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn number(self) -> i16 {
        self.0
    }

    /// Is it `NONE`?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl From<&ProduceError> for ErrorCode {
    fn from(error: &ProduceError) -> Self {
        match error {
            ProduceError::UnknownPartition(_) => Self::UNKNOWN_TOPIC_OR_PARTITION,
            ProduceError::NotLeader(_) => Self::NOT_LEADER_OR_FOLLOWER,
            // Not NOT_LEADER_OR_FOLLOWER, by which librdkafka knows that nothing was written, and may cut the records
            // into other batches, whose sequences no broker can take for a repetition.
            ProduceError::Unconfirmed => Self::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ProduceError::NotEnoughReplicas { .. } => Self::NOT_ENOUGH_REPLICAS,
            ProduceError::OutOfOrder { .. } => Self::OUT_OF_ORDER_SEQUENCE_NUMBER,
            ProduceError::Fenced { .. } => Self::INVALID_PRODUCER_EPOCH,
            ProduceError::TooLarge { .. } => Self::MESSAGE_TOO_LARGE,
            ProduceError::Invalid(_) => Self::INVALID_RECORD,
            // Clients retry it until their delivery timeout: retention or archiving may free space by then.
            ProduceError::NoSpace(_) => Self::KAFKA_STORAGE_ERROR,
            // The one retriable code by which every client knows that nothing was appended.
            ProduceError::Busy | ProduceError::Copying { .. } | ProduceError::Early { .. } => Self::NOT_ENOUGH_REPLICAS,
            // Not retriable in any client; they show the text to the application. NOT_LEADER_OR_FOLLOWER would have
            // them look for another leader until their delivery timeout.
            ProduceError::Superseded(_) => Self::POLICY_VIOLATION,
        }
    }
}

impl From<&ReadError> for ErrorCode {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::UnknownPartition(_) => Self::UNKNOWN_TOPIC_OR_PARTITION,
            ReadError::NotLeader(_) => Self::NOT_LEADER_OR_FOLLOWER,
            ReadError::FencedEpoch(_) => Self::FENCED_LEADER_EPOCH,
            ReadError::UnknownEpoch => Self::UNKNOWN_LEADER_EPOCH,
            ReadError::OutOfRange { .. } => Self::OFFSET_OUT_OF_RANGE,
            ReadError::BucketUnavailable(_) | ReadError::Unavailable => Self::KAFKA_STORAGE_ERROR,
            ReadError::Corrupt(_) => Self::CORRUPT_MESSAGE,
        }
    }
}

impl From<&TopicError> for ErrorCode {
    fn from(error: &TopicError) -> Self {
        match error {
            TopicError::Exists(_) => Self::TOPIC_ALREADY_EXISTS,
            TopicError::Unknown(_) => Self::UNKNOWN_TOPIC_OR_PARTITION,
            TopicError::UnknownId(_) => Self::UNKNOWN_TOPIC_ID,
            TopicError::InvalidName(_) => Self::INVALID_TOPIC_EXCEPTION,
            TopicError::InvalidPartitions(_) => Self::INVALID_PARTITIONS,
            TopicError::InvalidReplicationFactor(_) => Self::INVALID_REPLICATION_FACTOR,
            TopicError::InvalidAssignment(_) => Self::INVALID_REPLICA_ASSIGNMENT,
            TopicError::InvalidConfig(_) => Self::INVALID_CONFIG,
            TopicError::InvalidRequest(_) => Self::INVALID_REQUEST,
            TopicError::Followed { .. } => Self::POLICY_VIOLATION,
            TopicError::TimedOut => Self::REQUEST_TIMED_OUT,
            TopicError::Unavailable => Self::NOT_CONTROLLER,
        }
    }
}

impl From<&GroupError> for ErrorCode {
    fn from(error: &GroupError) -> Self {
        match error {
            GroupError::InvalidGroupId => Self::INVALID_GROUP_ID,
            GroupError::Loading => Self::COORDINATOR_LOAD_IN_PROGRESS,
            GroupError::NotAvailable => Self::COORDINATOR_NOT_AVAILABLE,
            GroupError::NotCoordinator => Self::NOT_COORDINATOR,
            GroupError::UnknownMember => Self::UNKNOWN_MEMBER_ID,
            GroupError::MemberIdRequired(_) => Self::MEMBER_ID_REQUIRED,
            GroupError::Fenced(_) => Self::FENCED_INSTANCE_ID,
            GroupError::IllegalGeneration { .. } => Self::ILLEGAL_GENERATION,
            GroupError::RebalanceInProgress => Self::REBALANCE_IN_PROGRESS,
            GroupError::InconsistentProtocol => Self::INCONSISTENT_GROUP_PROTOCOL,
            GroupError::MemberTooLarge { .. } => Self::INVALID_REQUEST,
            GroupError::InvalidSessionTimeout(_) => Self::INVALID_SESSION_TIMEOUT,
            GroupError::Full(_) => Self::GROUP_MAX_SIZE_REACHED,
            GroupError::NotFound => Self::GROUP_ID_NOT_FOUND,
            GroupError::NotEmpty => Self::NON_EMPTY_GROUP,
            GroupError::Subscribed => Self::GROUP_SUBSCRIBED_TO_TOPIC,
            GroupError::MetadataTooLarge { .. } => Self::OFFSET_METADATA_TOO_LARGE,
            GroupError::CommitTooLarge { .. } => Self::INVALID_COMMIT_OFFSET_SIZE,
            GroupError::UnknownPartition => Self::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }
}

/// The code of an outcome.
pub fn code_of<T>(outcome: &Result<T, GroupError>) -> i16 {
    outcome.as_ref().map_or_else(|error| ErrorCode::from(error).number(), |_| ErrorCode::NONE.number())
}

impl From<&TrimError> for ErrorCode {
    fn from(error: &TrimError) -> Self {
        match error {
            TrimError::UnknownPartition(_) => Self::UNKNOWN_TOPIC_OR_PARTITION,
            TrimError::OutOfRange { .. } => Self::OFFSET_OUT_OF_RANGE,
            TrimError::NotLeader(_) | TrimError::Unavailable => Self::NOT_LEADER_OR_FOLLOWER,
        }
    }
}

impl From<&BatchError> for ErrorCode {
    fn from(error: &BatchError) -> Self {
        match error {
            BatchError::Short { .. } | BatchError::Length(_) | BatchError::Crc { .. } => Self::CORRUPT_MESSAGE,
            BatchError::Magic(_) => Self::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            BatchError::Field { .. } => Self::INVALID_RECORD,
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::error::ResponseError;

    use super::*;

    #[test]
    fn numbers_and_names_are_kafkas() {
        let of = |e: ResponseError| e.code();
        assert_eq!(ErrorCode::OFFSET_OUT_OF_RANGE.number(), of(ResponseError::OffsetOutOfRange));
        assert_eq!(ErrorCode::KAFKA_STORAGE_ERROR.number(), of(ResponseError::KafkaStorageError));
        assert_eq!(ErrorCode::UNKNOWN_TOPIC_ID.number(), of(ResponseError::UnknownTopicId));
        assert_eq!(ErrorCode::INVALID_RECORD.number(), of(ResponseError::InvalidRecord));
        assert_eq!(ErrorCode::FENCED_INSTANCE_ID.number(), of(ResponseError::FencedInstanceId));
        assert_eq!(ErrorCode::INVALID_PRODUCER_EPOCH.name(), "INVALID_PRODUCER_EPOCH");
    }
}
