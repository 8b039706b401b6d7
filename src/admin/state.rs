//! What the routes share, and the shape of their errors.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::report::ReportRequest;
use crate::archival::run::Tier;
use crate::controller::image::ClusterImage;
use crate::group::GroupRequest;
use crate::lakehouse::TableStates;
use crate::net::sign_counts::SignCounts;
use crate::partition::message::PartitionRequest;
use crate::replica::published::Subscriber;
use crate::schema_registry::SchemaRegistry;
use crate::shard::mesh::{Depths, Mesh};

/// The parts of the broker that the routes ask. Node-wide, cheap to clone.
#[derive(Clone)]
pub struct Services {
    pub partitions: Mesh<PartitionRequest>,
    pub groups: Mesh<GroupRequest>,
    pub reports: Mesh<ReportRequest>,
    /// Every mesh by name, for the depth of its inboxes.
    pub queues: Arc<[(&'static str, Arc<dyn Depths>)]>,
    /// The newest image.
    pub images: watch::Receiver<Arc<ClusterImage>>,
    pub tier: Tier,
    pub tables: TableStates,
    /// Of the catalog.
    pub signs: Arc<SignCounts>,
    pub replicas: Replicas,
    pub registry: SchemaRegistry,
}

impl Services {
    /// The cluster as clients see it: the newest image with the topics of its sources.
    pub(super) fn view(&self) -> Arc<ClusterImage> {
        let image = Arc::clone(&self.images.borrow());
        self.replicas.published.borrow().followed.view(&image)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Services({} shards)", self.partitions.shards())
    }
}

/// What the routes of sources need. Node-wide, cheap to clone.
#[derive(Clone, Debug)]
pub struct Replicas {
    pub published: Subscriber,
    /// Where buckets are read.
    pub side: Handle,
}

#[derive(Clone, Debug)]
pub(super) struct AdminState {
    pub(super) services: Services,
    /// Permits for surveys that are gathered at the same time.
    pub(super) surveys: Arc<Semaphore>,
}

/// An answer that is no success: `{"error": why}`.
pub(super) fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}
