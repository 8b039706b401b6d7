//! Between our words and those of the generated codec.

use kafka_protocol::messages;
use kafka_protocol::protocol::StrBytes;

#[must_use]
pub fn topic_name(name: &str) -> messages::TopicName {
    text(name).into()
}

#[must_use]
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// What an error says, for people.
#[must_use]
pub fn message(error: &impl std::fmt::Display) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}
