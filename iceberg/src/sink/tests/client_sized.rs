//! Values as long and as awkward as a client likes: no part of them enters a footer, an index or a manifest.

use bytes::Bytes;
use futures::executor::block_on;
use iceberg::spec::ManifestList;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use tidewater_storage::model::record::{Record, RecordHeader};

use super::*;
use crate::bounds;
use crate::schema;

/// Such a prefix has no upper bound that is shorter.
fn awkward(bytes: usize) -> Bytes {
    Bytes::from([&[0xff; 64][..], &vec![b'x'; bytes]].concat())
}

fn record(bytes: usize) -> Record {
    let mut record = Record::new(NOW, Some(awkward(bytes)), Some(awkward(bytes)));
    let name = Bytes::from("\u{10ffff}".repeat(16) + &"n".repeat(bytes));
    record.headers = vec![RecordHeader { key: name, value: Some(awkward(bytes)) }];
    record
}

/// Bytes of everything in a Parquet file that is not a data or dictionary page.
fn metadata_bytes(body: &Bytes) -> usize {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = reader.parse_and_finish(body).expect("parses");
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    body.len() - columns.map(|column| usize::try_from(column.compressed_size()).expect("positive")).sum::<usize>()
}

/// The longest bound of the table, the largest manifest and the largest of its data files' metadata. Bytes.
async fn sizes(world: &World) -> (usize, usize, usize) {
    let catalog = world.catalog();
    let (files, table) = (catalog.files(), catalog.load(&world.table()).await.expect("loads"));
    let list = files.read(table.metadata.current_snapshot().expect("one").manifest_list()).await.expect("list");
    let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
    let mut largest = (0, 0, 0);
    for manifest in list.entries() {
        let bytes = files.read(&manifest.manifest_path).await.expect("reads").len();
        assert_eq!(bytes as i64, manifest.manifest_length);
        largest.1 = bytes.max(largest.1);
        for entry in manifest.load_manifest(&files.io()).await.expect("loads").entries() {
            largest.0 = bounds::longest(entry.data_file()).max(largest.0);
            largest.2 = metadata_bytes(&files.read(entry.file_path()).await.expect("reads")).max(largest.2);
        }
    }
    largest
}

#[test]
fn a_value_that_cannot_be_shortened_stays_out_of_footers_and_manifests() {
    block_on(async {
        for (seed, count, bytes) in [(60, 1, 500_000), (61, 4, 1 << 20), (62, 1, 31 << 20)] {
            let mut world = World::new(seed);
            (0..count).for_each(|_| world.log.append_record(0, record(bytes)));
            let mut sink = world.sink(1);
            drain(&mut sink, NOW).await;
            let (bound, manifest, metadata) = sizes(&world).await;
            assert!(bound <= 16, "{bytes}: a bound of {bound} bytes");
            assert!(manifest < 8_000, "{bytes}: a manifest of {manifest} bytes");
            assert!(metadata < 8_000, "{bytes}: a footer and indexes of {metadata} bytes");
        }
    });
}

#[test]
fn the_keys_bounds_and_the_null_counts_are_in_the_manifest() {
    block_on(async {
        let mut world = World::new(63);
        for key in [Some("b-0123456789abcdef"), Some("a-0123456789abcdef"), None] {
            world.log.append_record(0, Record::new(NOW, key.map(Bytes::from), None));
        }
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let catalog = world.catalog();
        let (files, table) = (catalog.files(), catalog.load(&world.table()).await.expect("loads"));
        let list = files.read(table.metadata.current_snapshot().expect("one").manifest_list()).await.expect("list");
        let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
        let manifest = list.entries()[0].load_manifest(&files.io()).await.expect("loads");
        let file = manifest.entries()[0].data_file();
        let bound = |text: &str| Some(iceberg::spec::Datum::binary(text.bytes()));
        assert_eq!(file.lower_bounds().get(&schema::ids::KEY).cloned(), bound("a-0123456789abcd"));
        assert_eq!(file.upper_bounds().get(&schema::ids::KEY).cloned(), bound("b-0123456789abce"));
        assert_eq!(file.lower_bounds().get(&schema::ids::VALUE), None);
        let nulls = |id| file.null_value_counts().get(id).copied();
        assert_eq!((nulls(&schema::ids::KEY), nulls(&schema::ids::VALUE)), (Some(1), Some(3)));
        assert!(file.lower_bounds().contains_key(&schema::ids::OFFSET));
    });
}

#[test]
fn many_commits_of_such_values_leave_small_manifests() {
    block_on(async {
        let mut world = World::new(64);
        let mut config = world.config(1);
        config.bounds.merge_at = 20;
        let mut sink = world.sink_with(config);
        for _ in 0..50 {
            world.log.append_record(0, record(20_000));
            drain(&mut sink, NOW).await;
        }
        let (bound, manifest, _) = sizes(&world).await;
        assert!(bound <= 16 && manifest < 80_000, "bounds of {bound}, a manifest of {manifest} bytes");
    });
}
