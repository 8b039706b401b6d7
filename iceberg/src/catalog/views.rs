//! Views: made, loaded, replaced, dropped, renamed and registered like tables, by pointers under the same keys.
//!
//! A view's metadata file is written once under a new name by each replacement, as a table's by each commit. Older
//! files stay: they are small, and nothing names them any more.

use std::collections::HashMap;

use bytes::Bytes;
use iceberg::TableIdent;
use iceberg::spec::{Schema, ViewFormatVersion, ViewMetadata, ViewMetadataBuilder, ViewVersion};
use serde::Deserialize;
use serde_json::Value;
use tidewater_tiering::store::{PutMode, StoreError};
use uuid::Uuid;

use super::CatalogError;
use super::object_store::{
    COMMIT_ATTEMPTS, Claim, METADATA_BYTES_MAX, ObjectStoreCatalog, Swing, failed, version_after,
};
use super::pointer::{FORMAT, Kind, Pointer, PointerState, ViewMark};

pub use iceberg::ViewUpdate;

/// The directory of metadata files, if it is not `metadata` below the location.
const METADATA_PATH: &str = "write.metadata.path";

/// A view's state at one commit. *Message*.
#[derive(Clone, Debug)]
pub struct LoadedView {
    /// Its metadata, as it is in the file.
    pub metadata: Value,
    /// URI of the file.
    pub location: String,
}

/// A view to be made.
#[derive(Clone, Debug)]
pub struct NewView {
    pub schema: Schema,
    /// Its queries, one for each dialect.
    pub version: ViewVersion,
    /// `None` lets the catalog choose.
    pub location: Option<String>,
    pub properties: HashMap<String, String>,
}

/// What must hold for a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum ViewRequirement {
    /// It is still the same view.
    #[serde(rename = "assert-view-uuid")]
    UuidMatch { uuid: Uuid },
}

impl ObjectStoreCatalog {
    /// Makes a view.
    ///
    /// # Errors
    /// [`CatalogError::ViewExists`], [`CatalogError::NameTaken`] by a table, [`CatalogError::NoSuchNamespace`];
    /// metadata that makes no sense; the bucket.
    pub async fn create_view(&self, view: &TableIdent, new: NewView) -> Result<LoadedView, CatalogError> {
        self.load_namespace(&view.namespace).await?;
        self.check_free(view, Kind::View).await?;
        let location = match new.location {
            Some(location) => location,
            None => self.default_location(view).await?,
        };
        let format = ViewFormatVersion::V1;
        let metadata = ViewMetadataBuilder::new(location, new.schema, new.version, format, new.properties)
            .and_then(|builder| builder.assign_uuid(self.names.uuid()).build())
            .map_err(|error| unfit(view, error))?
            .metadata;
        let loaded = self.write_view(&metadata, 0).await?;
        // If another was faster, our file stays: ours may have been there, and renamed before the other one came.
        self.publish_view(view, metadata.uuid(), &loaded.location).await?;
        Ok(loaded)
    }

    /// Takes a view into the catalog whose metadata file exists already.
    ///
    /// # Errors
    /// As [`ObjectStoreCatalog::create_view`]; a file that is no view metadata.
    pub async fn register_view(&self, view: &TableIdent, location: &str) -> Result<LoadedView, CatalogError> {
        self.load_namespace(&view.namespace).await?;
        self.check_free(view, Kind::View).await?;
        self.check_size(location).await?;
        let loaded = self.read_view(location).await?;
        let metadata = parse(&loaded)?;
        self.publish_view(view, metadata.uuid(), location).await?;
        Ok(loaded)
    }

    /// Puts the entry and the pointer of a new view.
    async fn publish_view(&self, view: &TableIdent, uuid: Uuid, location: &str) -> Result<(), CatalogError> {
        let entry = self.add_entry(view).await?;
        let pointer = Pointer {
            format: FORMAT,
            table_uuid: uuid,
            metadata_location: location.to_owned(),
            revision: self.names.uuid(),
            view: Some(ViewMark { entry, past: Vec::new() }),
            state: PointerState::Live,
        };
        match self.swing(view, &pointer, PutMode::IfAbsent, Claim::Revision).await? {
            Swing::Done => Ok(()),
            Swing::Lost => {
                self.drop_entry(view, Some(entry)).await;
                self.check_free(view, Kind::View).await?;
                Err(CatalogError::ViewExists(view.clone()))
            }
        }
    }

    /// A view's current state.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchView`]; damage; the bucket.
    pub async fn load_view(&self, view: &TableIdent) -> Result<LoadedView, CatalogError> {
        let (pointer, _) = self.live_one(Kind::View, view).await?;
        self.read_view(&pointer.metadata_location).await
    }

    /// Whether the view exists.
    ///
    /// # Errors
    /// The bucket.
    pub async fn view_exists(&self, view: &TableIdent) -> Result<bool, CatalogError> {
        Ok(self.seen(view).await?.is_some_and(|pointer| pointer.kind() == Kind::View))
    }

    /// Applies `updates` if all `requirements` hold.
    ///
    /// # Errors
    /// As [`super::Catalog::commit`], of a view.
    pub async fn replace_view(
        &self,
        view: &TableIdent,
        requirements: &[ViewRequirement],
        updates: &[ViewUpdate],
    ) -> Result<LoadedView, CatalogError> {
        for _ in 0..COMMIT_ATTEMPTS {
            if let Some(done) = self.try_replace(view, requirements, updates).await? {
                return Ok(done);
            }
        }
        let detail = format!("{COMMIT_ATTEMPTS} attempts lost the race");
        Err(CatalogError::Conflict { table: view.clone(), detail })
    }

    /// One attempt: `None` if another commit came first.
    async fn try_replace(
        &self,
        view: &TableIdent,
        requirements: &[ViewRequirement],
        updates: &[ViewUpdate],
    ) -> Result<Option<LoadedView>, CatalogError> {
        let (pointer, etag) = self.live_one(Kind::View, view).await?;
        let base = self.read_view(&pointer.metadata_location).await?;
        let metadata = parse(&base)?;
        super::raw::keeps_all(view, &base.metadata, &super::json::ordered_view(&metadata)?)?;
        for ViewRequirement::UuidMatch { uuid } in requirements {
            if *uuid != metadata.uuid() {
                let found = metadata.uuid();
                let detail = format!("Requirement failed: view UUID does not match: expected {found} != {uuid}");
                return Err(CatalogError::Conflict { table: view.clone(), detail });
            }
        }
        let added = updates.iter().filter_map(|update| match update {
            ViewUpdate::AddViewVersion { view_version } => Some(view_version),
            _ => None,
        });
        check_numbers(&metadata, metadata.versions().map(|version| &**version).chain(added))?;
        let mut builder = metadata.into_builder();
        for update in updates.iter().cloned() {
            builder = apply(builder, update).map_err(|error| unfit(view, error))?;
        }
        let built = builder.build().map_err(|error| unfit(view, error))?;
        if built.changes.is_empty() {
            return Ok(Some(base));
        }
        let loaded = self.write_view(&built.metadata, version_after(&base.location)).await?;
        let mut next = pointer.succeeded_by(self.names.uuid(), PointerState::Live);
        next.metadata_location.clone_from(&loaded.location);
        next.table_uuid = built.metadata.uuid();
        let claim = Claim::Past { base: pointer.revision };
        match self.swing(view, &next, PutMode::IfMatch(etag), claim).await? {
            Swing::Done => Ok(Some(loaded)),
            Swing::Lost => {
                self.files.take_back(&[loaded.location]).await;
                Ok(None)
            }
        }
    }

    /// Drops the view of that name. Its metadata files stay.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchView`], [`CatalogError::Busy`] against a writer that commits all the time; the bucket.
    pub async fn drop_view(&self, view: &TableIdent) -> Result<(), CatalogError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let (pointer, etag) = self.live_one(Kind::View, view).await?;
            match self.store().delete_if(&self.keys.table(view)?, &etag).await {
                Ok(()) => {
                    self.drop_entry(view, pointer.view.map(|mark| mark.entry)).await;
                    return Ok(());
                }
                Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Busy { detail: format!("{view} is being written by others; try again") })
    }

    /// Renames a view, across namespaces too.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchView`], [`CatalogError::RenameTaken`], [`CatalogError::NoSuchNamespace`]; a commit that
    /// came between ([`CatalogError::Conflict`]).
    pub async fn rename_view(&self, from: &TableIdent, to: &TableIdent) -> Result<(), CatalogError> {
        self.rename_one(Kind::View, from, to).await
    }

    /// Writes `metadata` to a new file of its view, `version` being how many came before.
    async fn write_view(&self, metadata: &ViewMetadata, version: u64) -> Result<LoadedView, CatalogError> {
        self.files.warehouse().locate(&format!("{}/metadata/x", metadata.location()))?;
        let directory = match metadata.properties().get(METADATA_PATH) {
            Some(path) => path.trim_end_matches('/').to_owned(),
            None => format!("{}/metadata", metadata.location()),
        };
        let location = format!("{directory}/{version:05}-{}.metadata.json", self.names.uuid());
        let json = super::json::ordered_view(metadata)?;
        let body = serde_json::to_vec(&json).map_err(iceberg::Error::from)?;
        if body.len() > METADATA_BYTES_MAX {
            let bytes = body.len();
            let detail = format!("the view's metadata would take {bytes} bytes, more than {METADATA_BYTES_MAX}");
            return Err(CatalogError::Invalid { detail });
        }
        self.files.write(&location, Bytes::from(body)).await?;
        Ok(LoadedView { metadata: json, location })
    }

    async fn read_view(&self, location: &str) -> Result<LoadedView, CatalogError> {
        let metadata = self.read_json(location).await?;
        Ok(LoadedView { metadata, location: location.to_owned() })
    }
}

/// The view's metadata with its types.
fn parse(view: &LoadedView) -> Result<ViewMetadata, CatalogError> {
    let damaged = |e: serde_json::Error| {
        let detail = format!("{} is no view metadata that this catalog can read: {e}", view.location);
        CatalogError::Invalid { detail }
    };
    serde_json::from_value(view.metadata.clone()).map_err(damaged)
}

/// Refuses ids and times that the library's arithmetic would not hold.
fn check_numbers<'a>(
    metadata: &ViewMetadata,
    mut versions: impl Iterator<Item = &'a ViewVersion>,
) -> Result<(), CatalogError> {
    const TIME_MAX: i64 = 1 << 60;
    let last = |id: i32| id == i32::MAX;
    let sane = |version: &ViewVersion| (0..TIME_MAX).contains(&version.timestamp_ms()) && !last(version.version_id());
    let logged = metadata.history().iter().all(|entry| (0..TIME_MAX).contains(&entry.timestamp_ms()));
    if logged && versions.all(sane) && !metadata.schemas_iter().any(|schema| last(schema.schema_id())) {
        return Ok(());
    }
    let detail = "an id or a time of the view is out of range; correct its metadata file and register it again";
    Err(CatalogError::Invalid { detail: detail.to_owned() })
}

/// What an iceberg error means for a view.
fn unfit(view: &TableIdent, error: iceberg::Error) -> CatalogError {
    match failed(view, error) {
        CatalogError::Invalid { detail } => CatalogError::IllegalArgument { detail },
        other => other,
    }
}

fn apply(builder: ViewMetadataBuilder, update: ViewUpdate) -> iceberg::Result<ViewMetadataBuilder> {
    match update {
        ViewUpdate::AssignUuid { uuid } => Ok(builder.assign_uuid(uuid)),
        ViewUpdate::UpgradeFormatVersion { format_version } => builder.upgrade_format_version(format_version),
        ViewUpdate::AddSchema { schema, .. } => Ok(builder.add_schema(schema)),
        ViewUpdate::SetLocation { location } => Ok(builder.set_location(location)),
        ViewUpdate::SetProperties { updates } => builder.set_properties(updates),
        ViewUpdate::RemoveProperties { removals } => Ok(builder.remove_properties(&removals)),
        ViewUpdate::AddViewVersion { view_version } => builder.add_version(view_version),
        ViewUpdate::SetCurrentViewVersion { view_version_id } => builder.set_current_version_id(view_version_id),
    }
}

#[cfg(test)]
mod tests;
