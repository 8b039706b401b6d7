//! Whose table it is: cluster, topic and fencing epoch, kept as table properties.

use std::collections::HashMap;
use std::fmt;

use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use tidewater_storage::model::TopicId;
use uuid::Uuid;

/// Property: the cluster that writes the table.
pub const CLUSTER: &str = "tidewater.cluster-id";
/// Property: the topic it holds.
pub const TOPIC: &str = "tidewater.topic-id";
/// Property: the highest fencing epoch that committed.
pub const EPOCH: &str = "tidewater.epoch";

/// Property: the name of the topic it holds.
pub const TOPIC_NAME: &str = "tidewater.topic";
/// Property: the name that the table was made under, `namespace.table`. Tables of versions that knew one namespace lack
/// it.
pub const TABLE: &str = "tidewater.table";
/// Property: `true` if the table is dropped with its topic (`iceberg.delete`). On the table, so that it outlives a
/// broker that is killed after the topic's deletion.
pub const DELETE: &str = "tidewater.delete-with-topic";
/// Property: the id of the topic that a table was of before it was given up (`iceberg detach`).
pub const DETACHED: &str = "tidewater.detached";

/// A writer of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOwner {
    pub cluster: Uuid,
    pub topic: TopicId,
    /// Its fencing epoch: higher for every later writer of the same topic (lineage epoch first, then the lane's term).
    pub epoch: u64,
}

/// A table that another cluster or topic writes, that was given up, or that no Tidewater made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub table: TableIdent,
    /// The cluster it names, if any.
    pub found_cluster: Option<String>,
    /// The topic it names, if any.
    pub found_topic: Option<String>,
    /// It was a topic's before, and was given up.
    pub is_detached: bool,
    pub cluster: Uuid,
    pub topic: TopicId,
}

impl Foreign {
    /// Whether no cluster and no topic owns it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.found_cluster.is_none() && self.found_topic.is_none()
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, found_cluster, found_topic, is_detached, cluster, topic } = self;
        if self.is_free() && *is_detached {
            return write!(
                f,
                "table {table} was given up by tidewater iceberg detach and is not written any more. Rename or drop it \
                 in the catalog, or give the topic another one with iceberg.table; to go on in this one, run \
                 tidewater iceberg adopt with the topic and --table {table}"
            );
        }
        if self.is_free() {
            return write!(
                f,
                "table {table} was made by another program and has no topic; it is left alone. For the topic to go on \
                 in it, run tidewater iceberg adopt with the topic and --table {table}; else rename or drop it in the \
                 catalog, or give the topic another one with iceberg.table"
            );
        }
        write!(
            f,
            "table {table} belongs to cluster {found_cluster:?} topic {found_topic:?}, not to cluster {cluster} topic \
             {topic}; it is left alone. Rename or drop that table in the catalog, or give the topic another one"
        )
    }
}

impl std::error::Error for Foreign {}

impl TableOwner {
    /// The table properties that record it.
    #[must_use]
    pub fn properties(&self) -> HashMap<String, String> {
        HashMap::from([
            (CLUSTER.to_owned(), self.cluster.to_string()),
            (TOPIC.to_owned(), self.topic.to_string()),
            (EPOCH.to_owned(), self.epoch.to_string()),
        ])
    }

    /// The writer that a table's properties record; `None` if no Tidewater made it.
    #[must_use]
    pub fn of(metadata: &TableMetadata) -> Option<Self> {
        let found = |key: &str| metadata.properties().get(key);
        let cluster = Uuid::try_parse(found(CLUSTER)?).ok()?;
        let topic = TopicId(Uuid::try_parse(found(TOPIC)?).ok()?);
        Some(Self { cluster, topic, epoch: epoch(metadata) })
    }

    /// Checks that the table is ours.
    ///
    /// # Errors
    /// [`Foreign`] if it carries other ids, or none.
    pub fn check(&self, table: &TableIdent, metadata: &TableMetadata) -> Result<(), Foreign> {
        let found = |key: &str| metadata.properties().get(key).cloned();
        let (found_cluster, found_topic) = (found(CLUSTER), found(TOPIC));
        let ours = found_cluster.as_deref() == Some(&*self.cluster.to_string())
            && found_topic.as_deref() == Some(&*self.topic.to_string());
        if ours {
            return Ok(());
        }
        let is_detached = found(DETACHED).is_some();
        let (table, cluster, topic) = (table.clone(), self.cluster, self.topic);
        Err(Foreign { table, found_cluster, found_topic, is_detached, cluster, topic })
    }
}

/// Whether the table is dropped with its topic.
#[must_use]
pub fn goes_with_topic(metadata: &TableMetadata) -> bool {
    metadata.properties().get(DELETE).is_some_and(|value| value == "true")
}

/// The table's fencing epoch; 0 if it has none.
#[must_use]
pub fn epoch(metadata: &TableMetadata) -> u64 {
    metadata.properties().get(EPOCH).and_then(|value| value.parse().ok()).unwrap_or(0)
}
