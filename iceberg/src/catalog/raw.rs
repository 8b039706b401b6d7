//! Metadata files as they are, not as this version's types write them: for loads, which hand them out unchanged, and
//! for the check before a commit that nothing would be lost.

use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use serde_json::Value;

use super::object_store::{METADATA_BYTES_MAX, ObjectStoreCatalog};
use super::own::Known;
use super::pointer::Pointer;
use super::{CatalogError, Loaded, members};

/// A table's state at one commit, its metadata as in the file. *Message*.
#[derive(Clone, Debug)]
pub struct RawLoaded {
    pub metadata: Value,
    /// URI of the file it is in; `None` for a table that is only staged.
    pub location: Option<String>,
}

impl TryFrom<Loaded> for RawLoaded {
    type Error = CatalogError;

    /// # Errors
    /// If the metadata cannot be serialised: a defect.
    fn try_from(loaded: Loaded) -> Result<Self, CatalogError> {
        Ok(Self { metadata: super::json::ordered(&loaded.metadata)?, location: loaded.location })
    }
}

impl ObjectStoreCatalog {
    /// A metadata file as JSON, unpacked if it is gzip.
    pub(super) async fn read_json(&self, location: &str) -> Result<Value, CatalogError> {
        let body = self.files.read(location).await?;
        parse(&body).map_err(|error| CatalogError::Invalid {
            detail: format!("{location} is no metadata file that can be read: {error}"),
        })
    }

    /// The metadata that a commit is applied to.
    ///
    /// # Errors
    /// [`CatalogError::UnknownMembers`] if the commit would lose some of it; damage; the bucket.
    pub(super) async fn read_base(
        &self,
        table: &TableIdent,
        pointer: &Pointer,
    ) -> Result<Arc<TableMetadata>, CatalogError> {
        let location = &pointer.metadata_location;
        match self.own.known(pointer.table_uuid, location) {
            Known::Held(loaded) => return Ok(loaded.metadata),
            Known::Written => return Ok(Arc::new(self.read_metadata(location).await?)),
            Known::Nothing => {}
        }
        let file = self.read_json(location).await?;
        let metadata: TableMetadata = serde_json::from_value(file.clone()).map_err(iceberg::Error::from)?;
        keeps_all(table, &file, &super::json::ordered(&metadata)?)?;
        Ok(Arc::new(metadata))
    }

    /// A table's current state, as its file has it; `None` if `known` says that the caller has the file already.
    ///
    /// # Errors
    /// As [`super::Catalog::load`].
    pub async fn load_raw(
        &self,
        table: &TableIdent,
        known: impl Fn(&str) -> bool + Send,
    ) -> Result<Option<RawLoaded>, CatalogError> {
        let mut pointer = self.seen_table(table).await?;
        loop {
            let location = pointer.metadata_location;
            if known(&location) {
                return Ok(None);
            }
            let error = match self.read_json(&location).await {
                Ok(metadata) => return Ok(Some(RawLoaded { metadata, location: Some(location) })),
                Err(error) => error,
            };
            // The file may have fallen off the log between the two reads: then the pointer has moved.
            pointer = self.seen_table(table).await?;
            if pointer.metadata_location == location {
                return match self.files.size(&location).await? {
                    None => Err(CatalogError::MetadataMissing { table: table.clone(), location }),
                    Some(_) => Err(error),
                };
            }
        }
    }
}

/// Refuses a commit that would lose members of `file`, where `kept` is what would be written of it.
pub(super) fn keeps_all(name: &TableIdent, file: &Value, kept: &Value) -> Result<(), CatalogError> {
    match members::lost(file, kept) {
        lost if lost.is_empty() => Ok(()),
        lost => Err(CatalogError::UnknownMembers { name: name.clone(), members: lost.join(", ") }),
    }
}

fn parse(body: &[u8]) -> Result<Value, String> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return serde_json::from_slice(body).map_err(|error| error.to_string());
    }
    let mut text = Vec::new();
    let most = METADATA_BYTES_MAX as u64;
    let unpacked = MultiGzDecoder::new(body).take(most + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if unpacked > METADATA_BYTES_MAX {
        return Err(format!("unpacked it has more than {most} bytes"));
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use futures::executor::block_on;
    use iceberg::TableUpdate;
    use serde_json::json;
    use tidewater_storage::model::TimestampMs;

    use super::*;
    use crate::catalog::Catalog;
    use crate::fixture::World;

    const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

    fn packed(json: &Value) -> Bytes {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(json.to_string().as_bytes()).expect("packs");
        out.finish().expect("packs").into()
    }

    #[test]
    fn a_file_of_another_writer_is_handed_out_whole_and_a_commit_that_would_lose_some_of_it_is_refused() {
        block_on(async {
            let mut world = World::new(1);
            world.log.append(0, 3, NOW);
            world.sink(1).run_once(NOW).await;
            let catalog = world.catalog();
            let made = catalog.load_raw(&world.table(), |_| false).await.expect("loads").expect("is new");
            let mut file = made.metadata;
            file["labels"] = json!({"owner": "me"});
            file["snapshots"][0]["tint"] = json!("blue");
            for packs in [false, true] {
                let location = format!("s3://bucket/lake/other/metadata/{packs}.metadata.json");
                let body = if packs { packed(&file) } else { file.to_string().into() };
                catalog.files.write(&location, body).await.expect("written");
                let name = TableIdent::from_strs(["topics", &format!("other-{packs}")]).expect("legal");
                catalog.register(&name, &location).await.expect("registered");
                let read = catalog.load_raw(&name, |_| false).await.expect("loads").expect("is new");
                assert_eq!(read.metadata, file);
                assert!(catalog.load_raw(&name, |known| known == location).await.expect("loads").is_none());
                let set = vec![TableUpdate::RemoveProperties { removals: vec!["tidewater.topic".to_owned()] }];
                let refused = catalog.commit(&name, Vec::new(), set).await.expect_err("is refused");
                let text = refused.to_string();
                assert!(text.contains("labels, snapshots[].tint"), "{text}");
                assert_eq!(catalog.load_raw(&name, |_| false).await.expect("loads").expect("is new").metadata, file);
            }
        });
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..65 {
            out.write_all(&zeros).expect("packs");
        }
        let text = parse(&out.finish().expect("packs")).expect_err("is refused");
        assert!(text.contains("67108864"), "{text}");
    }
}
