//! Deleting a dropped table's files: what its metadata reaches, nothing else. Directories are never listed.
//!
//! Metadata may come from any client (`register`, a commit), so what it names goes through [`TableFiles::delete`],
//! which keeps to the warehouse.
//!
//! [`TableFiles::delete`]: crate::files::TableFiles::delete

use std::collections::HashSet;

use iceberg::spec::{ManifestList, TableMetadata};

use super::object_store::ObjectStoreCatalog;

impl ObjectStoreCatalog {
    /// Deletes everything the metadata at `location` reaches. Failures leave garbage and are only logged: the table
    /// is dropped already.
    pub(super) async fn purge(&self, location: &str) {
        let metadata = match self.read_metadata(location).await {
            Ok(metadata) => metadata,
            Err(error) => {
                tracing::warn!(%location, %error, "files of a dropped table are left: its metadata cannot be read");
                return;
            }
        };
        if metadata.properties().get("gc.enabled").is_some_and(|value| value == "false") {
            return;
        }
        let mut seen = HashSet::new();
        for snapshot in metadata.snapshots() {
            self.purge_snapshot(&metadata, snapshot.manifest_list(), &mut seen).await;
        }
        let mut rest: Vec<String> = metadata.metadata_log().iter().map(|past| past.metadata_file.clone()).collect();
        rest.extend(metadata.statistics_iter().map(|s| s.statistics_path.clone()));
        rest.extend(metadata.partition_statistics_iter().map(|s| s.statistics_path.clone()));
        rest.push(location.to_owned());
        self.discard(&rest).await;
    }

    async fn purge_snapshot(&self, metadata: &TableMetadata, list: &str, seen: &mut HashSet<String>) {
        let io = self.files.io();
        let Ok(body) = self.files.read(list).await else { return };
        let Ok(manifests) = ManifestList::parse_with_version(&body, metadata.format_version()) else { return };
        for manifest in manifests.entries() {
            if !seen.insert(manifest.manifest_path.clone()) {
                continue;
            }
            if let Ok(loaded) = manifest.load_manifest(&io).await {
                let files: Vec<_> = loaded.entries().iter().map(|entry| entry.file_path().to_owned()).collect();
                self.discard(&files).await;
            }
            self.discard(std::slice::from_ref(&manifest.manifest_path)).await;
        }
        self.discard(&[list.to_owned()]).await;
    }
}
