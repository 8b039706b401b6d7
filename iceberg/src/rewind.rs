//! Taking a table back: the rows at and above given offsets leave it, in one snapshot (Iceberg's operation
//! `overwrite`).
//!
//! 1. [`find`] looks at every data file, an engine's too: wholly below the offsets it stays, wholly at or above them it
//!    leaves, and of one that has both the rows below are written again;
//! 2. [`crate::commit::Committer::cut`] commits that on the snapshot that was looked at, with the offsets that the
//!    table has then.
//!
//! Most files need no look inside: those of snapshots that reach no further than the offsets stay (`safe`), others are
//! judged by the bounds that their manifest entry has of partition and offset (`by_bounds`). The rest is read, one file
//! at a time.
//!
//! Owns: which files and rows. Does not own: to where, and what is done about dead letters (`sink::rewind`). Rows that
//! an engine deleted below the offsets stay deleted. **Refused**: tables of format 3, since iceberg 0.10 does not give
//! row ids of existing files; a file to be written again while the table has delete files, which may concern its rows,
//! or whose partition spec is none of those that can be written.

use std::collections::BTreeSet;

use iceberg::TableIdent;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestEntryRef, ManifestFile, PartitionSpecRef, PrimitiveLiteral,
    TableMetadata,
};
use tidewater_storage::model::{Offset, PartitionIndex};

use crate::commit::snapshot::read_list;
use crate::commit::{CommitError, offsets};
use crate::compact::{FilePart, RewriteError};
use crate::files::TableFiles;
use crate::names::Names;
use crate::partition::Partitioner;
use crate::plan::Offsets;
use crate::properties::FileSettings;
use crate::schema::ids;
use crate::schema::system::SystemColumns;
use crate::write::{DataFileWriter, WriteError};

/// What leaves a table, in figures. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    pub rows: u64,
    /// Files that leave it, those among them that are written again without some rows, and the bytes of all.
    pub files: u64,
    pub rewritten: u64,
    pub bytes: u64,
}

/// What [`find`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) leaving: Leaving,
    /// Paths of the files that leave.
    pub(crate) removed: BTreeSet<String>,
    /// Files with the rows of those that stay, with their data sequence numbers, by partition spec.
    pub(crate) added: Vec<(PartitionSpecRef, DataFile, i64)>,
    /// Paths of the manifests that have files which leave.
    pub(crate) touched: BTreeSet<String>,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Leaves,
    /// So many of its rows leave.
    Splits(u64),
}

/// A table that is looked at.
pub(crate) struct Sought<'a> {
    pub(crate) files: &'a TableFiles,
    pub(crate) table: &'a TableIdent,
    pub(crate) base: &'a TableMetadata,
    /// The first offset of each partition that leaves; a partition that is not there stays as it is.
    pub(crate) to: &'a Offsets,
    /// The key under which the summary of a snapshot says below which offsets all of its rows are.
    pub(crate) reach: &'static str,
    /// How files are written again; `None`: they are only counted.
    pub(crate) write: Option<(&'a Names, &'a FileSettings)>,
}

/// Finds what leaves the current snapshot of a table.
///
/// # Errors
/// A manifest or a file cannot be read or written; [`CommitError::Unfit`] where the table cannot be taken back.
pub(crate) async fn find(sought: &Sought<'_>) -> Result<Found, CommitError> {
    let mut found = Found::default();
    if sought.base.format_version() != FormatVersion::V2 {
        return Err(sought.unfit(format!("it has format {}; only format 2 goes back", sought.base.format_version())));
    }
    let Some(snapshot) = sought.base.current_snapshot() else { return Ok(found) };
    let safe = safe(sought.base, sought.to, sought.reach);
    let manifests = read_list(sought.files, sought.base, snapshot).await?;
    let is_alive = |manifest: &&ManifestFile| manifest.has_added_files() || manifest.has_existing_files();
    let has_deletes = manifests.iter().filter(is_alive).any(|it| it.content == ManifestContentType::Deletes);
    for manifest in manifests.iter().filter(is_alive).filter(|it| it.content == ManifestContentType::Data) {
        // Each of its entries has a sequence number up to that of the manifest.
        if manifest.sequence_number <= safe {
            continue;
        }
        let loaded = manifest.load_manifest(&sought.files.io()).await?;
        for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
            let fate = sought.fate(entry, safe).await?;
            if fate == Fate::Stays {
                continue;
            }
            let file = entry.data_file();
            found.leaving.files += 1;
            found.leaving.bytes += file.file_size_in_bytes();
            found.leaving.rows += file.record_count();
            if let Fate::Splits(rows) = fate {
                found.leaving.rows -= file.record_count() - rows;
                found.leaving.rewritten += 1;
                if has_deletes {
                    return Err(sought.unfit(format!(
                        "data file {} has rows that stay, and the table has delete files, which may concern them; \
                         compact the table in the engine that wrote those, or choose offsets at which a commit ended",
                        file.file_path()
                    )));
                }
                sought.split(manifest.partition_spec_id, entry, rows, &mut found).await?;
            }
            found.removed.insert(file.file_path().to_owned());
            found.touched.insert(manifest.manifest_path.clone());
        }
    }
    Ok(found)
}

impl Sought<'_> {
    fn unfit(&self, detail: String) -> CommitError {
        CommitError::Unfit { table: self.table.clone(), detail }
    }

    fn failed(&self, error: RewriteError) -> CommitError {
        match error {
            RewriteError::File { source, .. } if source.disposition().passes() => source.into(),
            RewriteError::Write(WriteError::Iceberg(source)) => source.into(),
            error => self.unfit(format!("it cannot be taken back: {error}")),
        }
    }

    async fn fate(&self, entry: &ManifestEntryRef, safe: i64) -> Result<Fate, CommitError> {
        let file = entry.data_file();
        if entry.sequence_number().is_some_and(|sequence| sequence <= safe) || file.record_count() == 0 {
            return Ok(Fate::Stays);
        }
        if let Some(fate) = by_bounds(file, SystemColumns::of(self.base), self.to) {
            return Ok(fate);
        }
        let part = FilePart { files: self.files, table: self.base, file };
        match part.rows_from(self.to).await.map_err(|error| self.failed(error))? {
            0 => Ok(Fate::Stays),
            rows if rows == file.record_count() => Ok(Fate::Leaves),
            rows => Ok(Fate::Splits(rows)),
        }
    }

    /// Writes the rows of a file that stay again.
    async fn split(
        &self,
        spec_id: i32,
        entry: &ManifestEntryRef,
        leave: u64,
        found: &mut Found,
    ) -> Result<(), CommitError> {
        let file = entry.data_file();
        let spec = self.base.partition_spec_by_id(spec_id).cloned();
        let key = spec.as_ref().and_then(|spec| Partitioner::of_spec(spec, self.base)?.key_of_entry(file.partition()));
        let (Some(spec), Some(key), Some(sequence)) = (spec, key, entry.sequence_number()) else {
            return Err(self.unfit(format!(
                "data file {} has rows that stay, and is of a partition spec with which files cannot be written; choose \
                 offsets at which a commit ended",
                file.file_path()
            )));
        };
        let Some((names, settings)) = self.write else { return Ok(()) };
        let location = self.base.location();
        let writer = DataFileWriter::new(self.files.clone(), names.clone(), location, spec_id, settings.clone());
        let part = FilePart { files: self.files, table: self.base, file };
        let written = part.write_below(self.to, &writer, key).await.map_err(|error| self.failed(error))?;
        let rows: u64 = written.iter().map(DataFile::record_count).sum();
        assert_eq!(rows, file.record_count() - leave, "the rows that stay are written again");
        found.added.extend(written.into_iter().map(|file| (spec.clone(), file, sequence)));
        Ok(())
    }
}

/// The greatest sequence number of a snapshot all of whose rows are below `to`; 0 without one. A file with such a
/// number or a smaller one has rows of that snapshot alone.
fn safe(base: &TableMetadata, to: &Offsets, reach: &str) -> i64 {
    let is_below = |text: &String| {
        let reached = offsets::decode(text);
        reached.is_some_and(|reached| reached.iter().all(|(at, next)| to.get(at).is_none_or(|to| next <= to)))
    };
    let snapshots = offsets::lineage(base);
    let below = snapshots.filter(|it| it.summary().additional_properties.get(reach).is_some_and(is_below));
    below.map(iceberg::spec::Snapshot::sequence_number).max().unwrap_or(0)
}

/// What the bounds of a file's partitions and offsets say; `None` if that is not enough.
fn by_bounds(file: &DataFile, system: SystemColumns, to: &Offsets) -> Option<Fate> {
    let bound =
        |bounds: &std::collections::HashMap<i32, iceberg::spec::Datum>, id| match bounds.get(&system.id(id))?.literal()
        {
            PrimitiveLiteral::Int(value) => Some(i64::from(*value)),
            PrimitiveLiteral::Long(value) => Some(*value),
            _ => None,
        };
    let (lower, upper) = (file.lower_bounds(), file.upper_bounds());
    let partitions = bound(lower, ids::PARTITION)?..=bound(upper, ids::PARTITION)?;
    let (least, greatest) = (bound(lower, ids::OFFSET)?, bound(upper, ids::OFFSET)?);
    let concerned: Vec<i64> = to
        .iter()
        .filter(|(at, _)| partitions.contains(&i64::from(at.0)))
        .map(|(_, to)| i64::try_from(to.get()).unwrap_or(i64::MAX))
        .collect();
    if concerned.iter().all(|to| greatest < *to) {
        return Some(Fate::Stays);
    }
    let all = partitions.end() - partitions.start() + 1;
    let leaves = i64::try_from(concerned.len()).ok() == Some(all) && concerned.iter().all(|to| least >= *to);
    // Bounds leave nulls out: an adopted table's rows of before have no partition and no offset, and stay.
    let has_all = |id| file.null_value_counts().get(&system.id(id)) == Some(&0);
    (leaves && has_all(ids::PARTITION) && has_all(ids::OFFSET)).then_some(Fate::Leaves)
}

/// The offsets of a table that goes back from `held` to `to`.
#[must_use]
pub(crate) fn lowered(held: &Offsets, to: &Offsets) -> Offsets {
    let lower = |(at, next): (&PartitionIndex, &Offset)| (*at, to.get(at).map_or(*next, |to| (*to).min(*next)));
    held.iter().map(lower).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, Struct};

    use super::*;

    fn file(partitions: (i32, i32), offsets: (i64, i64)) -> DataFile {
        with_nulls(partitions, offsets, &[(ids::PARTITION, 0), (ids::OFFSET, 0)])
    }

    fn with_nulls(partitions: (i32, i32), offsets: (i64, i64), nulls: &[(i32, u64)]) -> DataFile {
        let bounds = |partition, offset| {
            HashMap::from([(ids::PARTITION, Datum::int(partition)), (ids::OFFSET, Datum::long(offset))])
        };
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path("s3://b/t/data/f.parquet".to_owned())
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::empty())
            .record_count(10)
            .file_size_in_bytes(100)
            .lower_bounds(bounds(partitions.0, offsets.0))
            .upper_bounds(bounds(partitions.1, offsets.1))
            .null_value_counts(nulls.iter().copied().collect())
            .build()
            .expect("complete")
    }

    fn at(offsets: &[(i32, u64)]) -> Offsets {
        offsets.iter().map(|(partition, next)| (PartitionIndex(*partition), Offset::new(*next))).collect()
    }

    #[test]
    fn bounds_decide_where_they_are_clear() {
        let one = file((1, 1), (50, 99));
        assert_eq!(
            by_bounds(&one, SystemColumns::default(), &at(&[(0, 0), (2, 0)])),
            Some(Fate::Stays),
            "of another partition"
        );
        assert_eq!(by_bounds(&one, SystemColumns::default(), &at(&[(1, 100)])), Some(Fate::Stays));
        assert_eq!(by_bounds(&one, SystemColumns::default(), &at(&[(1, 99)])), None);
        assert_eq!(by_bounds(&one, SystemColumns::default(), &at(&[(1, 51)])), None);
        assert_eq!(by_bounds(&one, SystemColumns::default(), &at(&[(1, 50)])), Some(Fate::Leaves));
        let two = file((0, 1), (50, 99));
        assert_eq!(by_bounds(&two, SystemColumns::default(), &at(&[(0, 10)])), None, "rows of partition 1 stay");
        assert_eq!(by_bounds(&two, SystemColumns::default(), &at(&[(0, 10), (1, 50)])), Some(Fate::Leaves));
        assert_eq!(by_bounds(&two, SystemColumns::default(), &at(&[(0, 10), (1, 70)])), None);
        assert_eq!(by_bounds(&two, SystemColumns::default(), &at(&[(0, 100), (1, 200)])), Some(Fate::Stays));
    }

    #[test]
    fn a_file_that_an_engine_made_of_rows_of_ours_and_others_is_read() {
        let all = at(&[(1, 50)]);
        for nulls in [&[][..], &[(ids::PARTITION, 0)], &[(ids::PARTITION, 3), (ids::OFFSET, 3)]] {
            let mixed = with_nulls((1, 1), (50, 99), nulls);
            assert_eq!(by_bounds(&mixed, SystemColumns::default(), &all), None, "{nulls:?}");
            assert_eq!(by_bounds(&mixed, SystemColumns::default(), &at(&[(1, 100)])), Some(Fate::Stays), "{nulls:?}");
        }
    }

    #[test]
    fn offsets_only_fall() {
        let held = at(&[(0, 10), (1, 20), (2, 5)]);
        assert_eq!(lowered(&held, &at(&[(0, 7), (1, 30), (9, 1)])), at(&[(0, 7), (1, 20), (2, 5)]));
    }
}
