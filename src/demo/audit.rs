//! The table's rows, read from the bucket by a separate client: pointer, metadata, manifests, every data file.

use std::collections::{BTreeMap, HashMap};

use tidewater_iceberg::audit;
use tidewater_iceberg::catalog::{ObjectStoreCatalog, TableIdent};
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_tiering::keys::ClusterName;
use tidewater_tiering::store::{self, StoreOptions};
use tokio::runtime::Handle;

use super::broker::DemoBroker;
use super::error::DemoError;
use super::progress::Phase;
use super::table::{Found, Rows};
use super::write::Written;

/// Reads `topics.<topic>`; the checksum is over the rows in `written`.
pub(super) async fn rows(
    broker: &DemoBroker,
    topic: &str,
    written: &BTreeMap<i32, Written>,
    phase: &Phase,
) -> Result<Found, DemoError> {
    fn failed(error: impl ToString) -> DemoError {
        DemoError::Table(error.to_string())
    }
    let store = store::open(&broker.bucket, Handle::current(), &StoreOptions::default()).map_err(failed)?;
    let prefix = ClusterName::new(&broker.cluster_name).map_err(failed)?.warehouse_prefix();
    let files = TableFiles::new(store, Warehouse::new(&broker.bucket, &prefix).map_err(failed)?);
    let catalog = ObjectStoreCatalog::new(files, Names::random(), HashMap::new());
    let table = TableIdent::from_strs(["topics", topic]).map_err(failed)?;
    let mut found = Found::default();
    let audited = audit::read(&catalog, &table, |row| {
        let rows: &mut Rows = found.rows.entry(row.partition).or_default();
        rows.count += 1;
        phase.add(1);
        let own = written.get(&row.partition).copied().unwrap_or_default();
        if let Some(offset) = u64::try_from(row.offset).ok().filter(|offset| (own.start..own.end).contains(offset)) {
            // Records have milliseconds; -1 is no timestamp in Kafka.
            rows.sum.take(offset, row.timestamp_us.map_or(-1, |us| us / 1000), row.key, row.value);
        }
    });
    found.files = audited.await.map_err(failed)?.files;
    Ok(found)
}
