//! How a request names a topic, by name or by id (KIP-516), and what that finds in the image.

use std::fmt;
use std::sync::Arc;

use tidewater_storage::model::TopicId;
use uuid::Uuid;

use super::error_code::ErrorCode;
use crate::controller::image::{ClusterImage, PartitionImage, TopicImage};

/// A topic as a request names it; answers name it the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicRef {
    Name(String),
    Id(Uuid),
}

impl TopicRef {
    /// From a request whose older versions carry a name and newer ones an id.
    #[must_use]
    pub fn either(by_id: bool, name: &str, id: Uuid) -> Self {
        if by_id { Self::Id(id) } else { Self::Name(name.to_owned()) }
    }

    /// The topic.
    ///
    /// # Errors
    /// There is none.
    pub fn topic<'a>(&self, image: &'a ClusterImage) -> Result<&'a Arc<TopicImage>, ErrorCode> {
        match self {
            Self::Name(name) => image.topic(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Self::Id(id) => image.topic_by_id(TopicId(*id)).ok_or(ErrorCode::UNKNOWN_TOPIC_ID),
        }
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// There is no such topic or partition.
    pub fn partition<'a>(
        &self,
        image: &'a ClusterImage,
        index: i32,
    ) -> Result<(&'a Arc<TopicImage>, &'a PartitionImage), ErrorCode> {
        let topic = self.topic(image)?;
        Ok((topic, topic.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?))
    }
}

impl fmt::Display for TopicRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => id.fmt(f),
        }
    }
}
