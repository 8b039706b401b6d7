//! Tables of followed topics: which source a table's name belongs to, and reading the table from that source's bucket.
//!
//! Owns: which tables of sources are seen here. Does not own: what a pointer says (`ReadOnlyCatalog`), tables of this
//! cluster, HTTP (`catalog_http`). Node-wide; runs on the side runtime.
//!
//! The table of a topic stays the source's, and so does that of its dead letters: nothing of them is kept here, each
//! load reads the source's catalog, and the source's brokers commit to them. A topic of this cluster wins over a
//! followed one of its name, and so do its tables.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tidewater_iceberg::catalog::{CatalogError, Loaded, NamespaceIdent, ReadOnlyCatalog, TableIdent};
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::sink::{NAMESPACE, dead_letter_table, is_dead_letter_name, topic_of_default_table};
use tidewater_read_replica::TopicPattern;
use tidewater_storage::model::TopicName;
use tokio::sync::watch;
use tokio::time::timeout;

use super::published::{Published, Subscriber};
use crate::config::topic::{IcebergMode, TopicConfig};
use crate::controller::followed::FollowedTopic;
use crate::controller::image::ClusterImage;

/// How long a source's bucket may take for one table.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the buckets of all sources may take for a listing.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// Tables that a listing looks at side by side.
const LOOKS_AT_ONCE: usize = 16;

/// The tables of followed topics. Cheap to clone.
#[derive(Clone)]
pub struct FollowedTables {
    /// The cluster's own topics, and its sources.
    images: watch::Receiver<Arc<ClusterImage>>,
    published: Subscriber,
}

/// Whose table a name is.
#[derive(Debug)]
pub enum Owner {
    /// This cluster's, or no one's.
    Own,
    /// A followed topic's; whether it has a table is not known yet.
    Source(SourceTable),
    /// It cannot be said now.
    Unknown(SourceError),
}

/// A table that a followed topic has or may get.
#[derive(Clone, Debug)]
pub struct SourceTable {
    table: TableIdent,
    /// The source's name.
    name: String,
    url: String,
    catalog: ReadOnlyCatalog,
}

/// Why a source's table is not read, or not written.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "{table} is the table of a topic that is followed from the source {name}, and can only be read here; write to \
         it through the catalog of the cluster whose bucket is {url}"
    )]
    ReadOnly { table: TableIdent, name: String, url: String },
    #[error(
        "{table} is the table of a topic that is followed from the source {name}, and its files are in the bucket {url}: \
         have requests for them signed by the catalog of that cluster, or give the engine keys of that bucket"
    )]
    Elsewhere { table: TableIdent, name: String, url: String },
    #[error(
        "Table already exists: {table} is the name of the table of a topic that is followed from the source {name} \
         ({url}); choose another name"
    )]
    Reserved { table: TableIdent, name: String, url: String },
    /// The source's topics are not known since this broker's start.
    #[error(
        "{table} may be a table of the source {name}, whose topics are not known here: {why}; try again, or follow the \
         source no longer (tidewater replica delete {name})"
    )]
    Unread { table: TableIdent, name: String, why: String },
    #[error("{table} may be a table of a source, and this broker does not know its sources yet; try again")]
    Starting { table: TableIdent },
    #[error("the source {name} ({url}): {error}")]
    Failed { name: String, url: String, error: CatalogError },
    #[error("the source {name}: its bucket {url} has not answered for {table} within {PATIENCE:?}; try again")]
    TimedOut { table: TableIdent, name: String, url: String },
}

impl fmt::Debug for FollowedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowedTables").finish_non_exhaustive()
    }
}

impl FollowedTables {
    /// `images` are the controller's, without topics of sources.
    #[must_use]
    pub fn new(images: watch::Receiver<Arc<ClusterImage>>, published: Subscriber) -> Self {
        Self { images, published }
    }

    fn now(&self) -> (Arc<ClusterImage>, Arc<Published>) {
        (Arc::clone(&self.images.borrow()), Arc::clone(&self.published.borrow()))
    }

    /// Is it there because the cluster has sources?
    #[must_use]
    pub fn has_namespace(&self, namespace: &NamespaceIdent) -> bool {
        let (image, published) = self.now();
        let is_here = |table: &TableIdent| table.namespace == *namespace;
        (namespace.iter().eq([NAMESPACE]) && !image.sources.is_empty())
            || named(&image, &published).any(|(_, table)| is_here(&table))
    }

    /// The namespaces that are there because the cluster has sources.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<NamespaceIdent> {
        let (image, published) = self.now();
        let topics = (!image.sources.is_empty()).then(|| NamespaceIdent::new(NAMESPACE.to_owned()));
        named(&image, &published).map(|(_, table)| table.namespace).chain(topics).collect()
    }

    /// Whose table `table` is. Asks no bucket.
    #[must_use]
    pub fn owner(&self, table: &TableIdent) -> Owner {
        let (image, published) = self.now();
        owner(&image, &published, table)
    }

    /// The tables in `namespace` of followed topics with `iceberg.mode`. One that a source's bucket does not answer for
    /// in time is among them: loading it says why. Those of a source whose topics are not known are missing, as its
    /// topics are.
    pub async fn list(&self, namespace: &NamespaceIdent) -> BTreeSet<String> {
        let (image, published) = self.now();
        let mut tables = tables(&image, &published);
        tables.retain(|table| table.table.namespace == *namespace);
        let mut names: BTreeSet<String> = tables.iter().map(|table| table.table.name.clone()).collect();
        let look = |table: SourceTable| async move {
            let found = table.catalog.table_exists(&table.table).await;
            (table.table.name, found)
        };
        let mut looks = stream::iter(tables).map(look).buffer_unordered(LOOKS_AT_ONCE);
        let absent = async {
            while let Some((name, found)) = looks.next().await {
                if matches!(found, Ok(false)) {
                    names.remove(&name);
                }
            }
        };
        if timeout(LIST_PATIENCE, absent).await.is_err() {
            tracing::info!("sources did not answer for all of their tables, which are listed unseen");
        }
        names
    }
}

fn owner(image: &ClusterImage, published: &Published, table: &TableIdent) -> Owner {
    if image.revision == 0 {
        return Owner::Unknown(SourceError::Starting { table: table.clone() });
    }
    if image.sources.is_empty() || image.topics.values().any(|topic| has(&topic.name, &topic.config, table)) {
        return Owner::Own;
    }
    let shown = published.followed.shown(image);
    if let Some(followed) = shown.values().find(|followed| has(&followed.image.name, &followed.image.config, table)) {
        return of_topic(image, published, followed, table.clone()).map_or_else(Owner::Unknown, Owner::Source);
    }
    // Which names the topics of an unread source have chosen is not known.
    let is_free = |topic: &TopicName| !image.topics.contains_key(topic) && !shown.contains_key(topic);
    let Some(topic) = topic_of_default_table(table).filter(is_free) else { return Owner::Own };
    let open = |id| published.sources.get(id).is_some_and(|source| source.open.is_some());
    // A pattern was checked when the source was made.
    let may_have = |topics: &str| topics.parse::<TopicPattern>().map_or(true, |pattern| pattern.matches(&topic));
    let mut unread = image.sources.iter().filter(|(id, record)| !open(*id) && may_have(&record.spec.topics));
    match unread.next() {
        Some((id, record)) => {
            let why = published.sources.get(id).and_then(|source| source.reason.clone());
            let why = why.unwrap_or_else(|| "its catalogue was not read yet".to_owned());
            Owner::Unknown(SourceError::Unread { table: table.clone(), name: record.spec.name.to_string(), why })
        }
        None => Owner::Own,
    }
}

/// Whether `table` has, or would have, the rows or the dead letters of `topic`.
fn has(topic: &TopicName, config: &TopicConfig, table: &TableIdent) -> bool {
    let of_rows = config.table_of(topic);
    table.namespace.iter().eq([of_rows.namespace])
        && (table.name == of_rows.name || is_dead_letter_name(&table.name, of_rows.name))
}

/// The tables that followed topics have or will have soon, and those of dead letters that they may have.
fn tables(image: &ClusterImage, published: &Published) -> Vec<SourceTable> {
    let named = named(image, published);
    named.filter_map(|(followed, table)| of_topic(image, published, followed, table).ok()).collect()
}

/// The names of those tables, each with its topic.
fn named<'a>(
    image: &'a ClusterImage,
    published: &'a Published,
) -> impl Iterator<Item = (&'a FollowedTopic, TableIdent)> {
    let shown = published.followed.shown(image).into_values();
    shown.flat_map(|followed| {
        let config = &followed.image.config;
        let name = config.table_of(&followed.image.name);
        let of_rows = TableIdent::new(NamespaceIdent::new(name.namespace.to_owned()), name.name.to_owned());
        let of_dead = config.has_dead_letters().then(|| dead_letter_table(&of_rows));
        let is_kept = config.iceberg_mode != IcebergMode::Disabled;
        is_kept.then_some(of_rows).into_iter().chain(of_dead).map(move |table| (followed, table))
    })
}

/// `table` of a topic that is shown.
fn of_topic(
    image: &ClusterImage,
    published: &Published,
    followed: &FollowedTopic,
    table: TableIdent,
) -> Result<SourceTable, SourceError> {
    let open = published.sources.get(&followed.source).and_then(|source| source.open.as_ref());
    let (Some(record), Some(open)) = (image.sources.get(&followed.source), open) else {
        // It comes and goes with the image; the two are not changed at once.
        return Err(SourceError::Starting { table });
    };
    let (name, url) = (record.spec.name.to_string(), record.spec.url.clone());
    let warehouse = Warehouse::new(&url, &open.name.warehouse_prefix()).map_err(|error| SourceError::Failed {
        name: name.clone(),
        url: url.clone(),
        error: error.into(),
    })?;
    let catalog = ReadOnlyCatalog::new(TableFiles::new(Arc::clone(&open.store), warehouse));
    Ok(SourceTable { table, name, url, catalog })
}

impl SourceTable {
    /// The table as the source committed it last.
    ///
    /// # Errors
    /// [`SourceError::Failed`] with [`CatalogError::NoSuchTable`] if the source has no such table; why the source
    /// cannot be read.
    pub async fn load(&self) -> Result<Loaded, SourceError> {
        self.within(self.catalog.load(&self.table)).await
    }

    /// Has the source this table?
    ///
    /// # Errors
    /// Why the source cannot be read.
    pub async fn exists(&self) -> Result<bool, SourceError> {
        self.within(self.catalog.table_exists(&self.table)).await
    }

    async fn within<T>(&self, asked: impl Future<Output = Result<T, CatalogError>>) -> Result<T, SourceError> {
        let (name, url) = (self.name.clone(), self.url.clone());
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(SourceError::Failed { name, url, error }),
            Err(_) => Err(SourceError::TimedOut { table: self.table.clone(), name, url }),
        }
    }

    /// Why it is not changed from here.
    #[must_use]
    pub fn read_only(self) -> SourceError {
        SourceError::ReadOnly { table: self.table, name: self.name, url: self.url }
    }

    /// Why no requests for its files are signed here.
    #[must_use]
    pub fn elsewhere(self) -> SourceError {
        SourceError::Elsewhere { table: self.table, name: self.name, url: self.url }
    }

    /// Why no table is made under its name.
    #[must_use]
    pub fn reserved(self) -> SourceError {
        SourceError::Reserved { table: self.table, name: self.name, url: self.url }
    }
}

#[cfg(test)]
pub(crate) mod tests;
