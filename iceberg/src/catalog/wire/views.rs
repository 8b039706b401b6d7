//! JSON of the routes of views.

use std::collections::HashMap;

use iceberg::spec::{Schema, ViewVersion};
use serde::{Deserialize, Serialize};

use crate::catalog::{LoadedView, NewView, ViewRequirement, ViewUpdate};

/// Request: create a view.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CreateView {
    pub name: String,
    pub location: Option<String>,
    pub schema: Schema,
    pub view_version: ViewVersion,
    #[serde(default)]
    pub properties: HashMap<String, String>,
}

impl CreateView {
    /// As the catalog takes it.
    #[must_use]
    pub fn into_new(self) -> NewView {
        NewView {
            schema: self.schema,
            version: self.view_version,
            location: self.location,
            properties: self.properties,
        }
    }
}

/// Request: replace a view.
#[derive(Debug, Deserialize)]
pub struct CommitView {
    #[serde(default)]
    pub requirements: Vec<ViewRequirement>,
    #[serde(default)]
    pub updates: Vec<ViewUpdate>,
}

/// Answer: a view.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ViewAnswer {
    pub metadata_location: String,
    pub metadata: serde_json::Value,
    pub config: HashMap<String, String>,
}

impl From<LoadedView> for ViewAnswer {
    fn from(loaded: LoadedView) -> Self {
        Self { metadata_location: loaded.location, metadata: loaded.metadata, config: HashMap::new() }
    }
}
