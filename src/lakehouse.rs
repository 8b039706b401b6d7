//! Tables on this broker: one sink for each topic with `iceberg.mode`, and the built-in catalog's port.
//!
//! Everything here runs on the side runtimes: the ports on that of HTTP, the rest on that of tables, whose threads give
//! way to shards. Owns: which sinks run (`run`), their turns (`drive`), when small files are compacted (`compact`),
//! what operators ask of them (`orders`, `operate`), tables left over by topics that are gone (`left_over`), the
//! settings of an external catalog (`external`), the log as sinks read it (`reader`), the registry's schemas as sinks
//! ask for them (`schemas`), what others see of them (`states`). Does not own: how a table is written
//! (`tidewater_iceberg`). Without the feature `lakehouse` no sink runs and the port stays closed.

mod orders;
mod states;

#[cfg(feature = "lakehouse")]
mod compact;
#[cfg(feature = "lakehouse")]
mod drive;
#[cfg(feature = "lakehouse")]
pub mod external;
#[cfg(feature = "lakehouse")]
mod left_over;
#[cfg(feature = "lakehouse")]
mod operate;
#[cfg(feature = "lakehouse")]
pub mod reader;
#[cfg(feature = "lakehouse")]
mod run;
#[cfg(feature = "lakehouse")]
pub mod schemas;

pub use orders::{
    AdoptOrder, AdoptedTable, DetachedTables, LeavingRows, OrderRefused, RewindOrder, RewoundTables, SinkOrder,
    TableOrder,
};
#[cfg(feature = "lakehouse")]
pub use run::start;
pub use states::{Compaction, DeadLetter, DeadLettersState, TableState, TableStates, TableSums, TableView};

#[cfg(not(feature = "lakehouse"))]
mod without {
    use std::sync::Arc;

    use tokio::runtime::Handle;
    use tokio::sync::watch;

    use super::TableStates;
    use crate::archival::run::Tier;
    use crate::config::node::ExternalCatalog;
    use crate::controller::ask::ControllerRequest;
    use crate::controller::image::ClusterImage;
    use crate::net::http::HttpPort;
    use crate::partition::message::PartitionRequest;
    use crate::replica::published::Subscriber;
    use crate::schema_registry::SchemaRegistry;
    use crate::shard::mesh::Mesh;

    /// Nothing to start: this binary was built without tables.
    pub fn start(
        _tier: &Tier,
        _images: watch::Receiver<Arc<ClusterImage>>,
        _sources: Subscriber,
        _asked: (Mesh<PartitionRequest>, Mesh<ControllerRequest>, SchemaRegistry),
        _states: TableStates,
        _handles: (&Handle, &Handle),
        (_catalog, external): (HttpPort, Option<&ExternalCatalog>),
    ) -> Result<bool, String> {
        match external {
            Some(_) => Err("this binary was built without tables (feature lakehouse)".to_owned()),
            None => Ok(false),
        }
    }
}

#[cfg(not(feature = "lakehouse"))]
pub use without::start;
