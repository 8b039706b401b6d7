//! What a table's standard properties ask of the sink (Iceberg documentation, "Table properties"). Pure.
//!
//! Owns: names, ranges and defaults. An invalid value counts as not set and is reported in [`TableSettings::invalid`];
//! the sink logs each once. Does not own: what the catalog and iceberg's metadata builder honour by themselves
//! (`write.metadata.previous-versions-max`, `write.metadata.delete-after-commit.enabled`).
//!
//! Unset does not always mean Iceberg's default; DESIGN.md, "A table's own settings", gives the table and the reasons.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use iceberg::spec::TableProperties;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};

use crate::commit::Bounds;

/// `false`: no snapshot expires and no file is deleted.
pub const GC_ENABLED: &str = "gc.enabled";
pub(crate) const MAX_SNAPSHOT_AGE: &str = "history.expire.max-snapshot-age-ms";
const MIN_SNAPSHOTS: &str = "history.expire.min-snapshots-to-keep";
const MAX_REF_AGE: &str = "history.expire.max-ref-age-ms";
const FILE_BYTES: &str = "write.target-file-size-bytes";
const CODEC: &str = "write.parquet.compression-codec";
const LEVEL: &str = "write.parquet.compression-level";
const ROW_GROUP_BYTES: &str = "write.parquet.row-group-size-bytes";
const PAGE_BYTES: &str = "write.parquet.page-size-bytes";
const PAGE_ROWS: &str = "write.parquet.page-row-limit";
const DICTIONARY_BYTES: &str = "write.parquet.dict-size-bytes";
const MERGE_ENABLED: &str = "commit.manifest-merge.enabled";
const MERGE_MIN_COUNT: &str = "commit.manifest.min-count-to-merge";
const MANIFEST_BYTES: &str = "commit.manifest.target-size-bytes";
const RETRIES: &str = "commit.retry.num-retries";
const RETRY_MIN_WAIT: &str = "commit.retry.min-wait-ms";
const RETRY_MAX_WAIT: &str = "commit.retry.max-wait-ms";
const RETRY_TOTAL: &str = "commit.retry.total-timeout-ms";

/// Iceberg's default of `history.expire.max-snapshot-age-ms`: five days.
pub const MAX_SNAPSHOT_AGE_MS: i64 = 5 * 24 * 3_600_000;
/// The largest file, row group or manifest that a property may ask for. A turn holds less than that in memory, so a
/// larger value changes nothing.
const LARGEST: u64 = 1 << 40;
/// The largest row group: a reader and the writer hold one in memory.
const ROW_GROUP_BYTES_MAX: u64 = 128 << 20;
/// The largest data page and the largest dictionary: both are held per column.
const PAGE_BYTES_MAX: u64 = 16 << 20;
/// The longest wait between two attempts at a commit. The turn holds its rows' files meanwhile.
const WAIT_MS_MAX: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// A file is closed once it has this many bytes.
    pub file_bytes: usize,
    pub compression: Compression,
    pub row_group_bytes: usize,
    pub page_bytes: usize,
    pub page_rows: usize,
    pub dictionary_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Snapshots of a branch younger than this stay.
    pub max_age_ms: i64,
    /// So many of the newest of a branch stay, however old; at least 1.
    pub min_snapshots: usize,
    /// Branches and tags whose snapshot is older than this are removed; main never is.
    pub max_ref_age_ms: i64,
    /// The owner has set one of the first two: only the largest allowed metadata file comes before it.
    pub is_chosen: bool,
    /// `gc.enabled` is not `false`.
    pub may_delete: bool,
}

/// When manifests are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeSettings {
    pub enabled: bool,
    /// Small manifests are merged once there are this many.
    pub min_count: usize,
    /// A manifest of so many bytes is full.
    pub manifest_bytes: u64,
}

/// How often a commit that lost against others is tried, and the waits between, which double from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    pub attempts: usize,
    pub min_wait_ms: u64,
    pub max_wait_ms: u64,
    pub total_ms: u64,
}

/// A property whose value was not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvalidProperty {
    pub name: &'static str,
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    pub files: FileSettings,
    pub retention: Retention,
    pub merge: MergeSettings,
    pub retry: RetrySettings,
    pub invalid: Vec<InvalidProperty>,
}

/// What the names of properties that Tidewater keeps for itself begin with.
pub const OWN_PREFIX: &str = "tidewater.";

/// Checks properties that a topic's owner gives to its table.
///
/// # Errors
/// Iceberg or Tidewater keeps one of them for itself, or one that the sink acts on has no valid value.
pub fn check<'a>(given: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    let mut properties = HashMap::new();
    for (name, value) in given {
        if name.to_ascii_lowercase().starts_with(OWN_PREFIX) {
            return Err(format!("{name} is one of those that Tidewater keeps for itself ({OWN_PREFIX}*)"));
        }
        if TableProperties::RESERVED_PROPERTIES.contains(&name) {
            return Err(format!("{name} is one of those that Iceberg keeps for itself"));
        }
        properties.insert(name.to_owned(), value.to_owned());
    }
    match TableSettings::of(&properties, &Bounds::default()).invalid.into_iter().next() {
        None => Ok(()),
        Some(InvalidProperty { name, expected, .. }) => Err(format!("{name} must be {expected}")),
    }
}

impl TableSettings {
    /// The settings of a table with these properties; `defaults` where one is not set.
    #[must_use]
    pub fn of(properties: &HashMap<String, String>, defaults: &Bounds) -> Self {
        let mut read = PropertyReader { properties, invalid: Vec::new() };
        let all = 0..=u64::MAX >> 1;
        let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (age, least) = (read.number(MAX_SNAPSHOT_AGE, all.clone()), read.number(MIN_SNAPSHOTS, 1..=1 << 31));
        let retention = Retention {
            max_age_ms: age.map_or(defaults.snapshot_age_ms, ms),
            min_snapshots: least.map_or(1, to_usize),
            max_ref_age_ms: read.number(MAX_REF_AGE, all.clone()).map_or(i64::MAX, ms),
            is_chosen: age.is_some() || least.is_some(),
            may_delete: read.flag(GC_ENABLED).unwrap_or(true),
        };
        let bytes = |value: Option<u64>, default: usize| value.map_or(default, to_usize);
        let files = FileSettings {
            file_bytes: bytes(read.number(FILE_BYTES, 1..=LARGEST), defaults.file_bytes),
            compression: read.compression(),
            row_group_bytes: bytes(
                read.number(ROW_GROUP_BYTES, 1..=LARGEST).map(|asked| asked.clamp(1 << 10, ROW_GROUP_BYTES_MAX)),
                128 << 20,
            ),
            page_bytes: bytes(read.number(PAGE_BYTES, 1..=LARGEST).map(|asked| asked.min(PAGE_BYTES_MAX)), 1 << 20),
            page_rows: bytes(read.number(PAGE_ROWS, 1..=1 << 31), 20_000),
            dictionary_bytes: bytes(
                read.number(DICTIONARY_BYTES, 1..=LARGEST).map(|asked| asked.min(PAGE_BYTES_MAX)),
                64 << 10,
            ),
        };
        let merge = MergeSettings {
            enabled: read.flag(MERGE_ENABLED).unwrap_or(true),
            min_count: bytes(read.number(MERGE_MIN_COUNT, 2..=1 << 31), defaults.merge_at),
            manifest_bytes: read.number(MANIFEST_BYTES, 1..=LARGEST).unwrap_or(defaults.manifest_bytes),
        };
        let retries = read.number(RETRIES, 0..=1000);
        let waits = [RETRY_MIN_WAIT, RETRY_MAX_WAIT].map(|name| read.number(name, all.clone()));
        let [min_wait, max_wait] = waits.map(|wait| wait.map(|ms| ms.min(WAIT_MS_MAX)));
        let max_wait_ms = max_wait.unwrap_or(WAIT_MS_MAX);
        let retry = RetrySettings {
            attempts: retries.map_or(defaults.commit_attempts, |retries| to_usize(retries) + 1),
            min_wait_ms: min_wait.unwrap_or(0).min(max_wait_ms),
            max_wait_ms,
            total_ms: read.number(RETRY_TOTAL, all).unwrap_or(30 * 60_000),
        };
        Self { files, retention, merge, retry, invalid: read.invalid }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Reads properties and notes those that are not valid.
struct PropertyReader<'a> {
    properties: &'a HashMap<String, String>,
    invalid: Vec<InvalidProperty>,
}

impl PropertyReader<'_> {
    fn read<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.properties.get(name)?;
        match parse(value.trim()) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                let value = value.chars().take(100).collect();
                self.invalid.push(InvalidProperty { name, value, expected });
                None
            }
        }
    }

    fn number(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.read(name, |text| {
            text.parse()
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.read(name, |text| text.to_ascii_lowercase().parse().map_err(|_| "true or false".to_owned()))
    }

    fn compression(&mut self) -> Compression {
        let codec = self.read(CODEC, |text| match text.to_ascii_lowercase().as_str() {
            codec @ ("zstd" | "gzip" | "brotli" | "snappy" | "lz4" | "lz4_raw" | "uncompressed") => {
                Ok(codec.to_owned())
            }
            _ => Err("zstd, gzip, brotli, snappy, lz4, lz4_raw or uncompressed".to_owned()),
        });
        let codec = codec.as_deref().unwrap_or("zstd");
        // iceberg-java writes the table's default level as null.
        if self.properties.get(LEVEL).is_none_or(|level| level == "null" || level.is_empty()) {
            return with_level(codec, None).unwrap_or(Compression::UNCOMPRESSED);
        }
        let chosen = self.read(LEVEL, |text| {
            let level = text.parse().map_err(|_| "a whole number".to_owned())?;
            with_level(codec, Some(level)).ok_or_else(|| format!("a level that {codec} has"))
        });
        chosen.or_else(|| with_level(codec, None)).unwrap_or(Compression::UNCOMPRESSED)
    }
}

/// `codec` at `level`, or at its default level; `None` for a level it does not have. Codecs without levels take any.
fn with_level(codec: &str, level: Option<i32>) -> Option<Compression> {
    let unsigned = || level.map(u32::try_from).transpose().ok();
    Some(match codec {
        "zstd" => Compression::ZSTD(ZstdLevel::try_new(level.unwrap_or(1)).ok()?),
        "gzip" => Compression::GZIP(GzipLevel::try_new(unsigned()?.unwrap_or(6)).ok()?),
        "brotli" => Compression::BROTLI(BrotliLevel::try_new(unsigned()?.unwrap_or(1)).ok()?),
        "snappy" => Compression::SNAPPY,
        // What Parquet calls LZ4 is deprecated: its framing was never specified.
        "lz4" | "lz4_raw" => Compression::LZ4_RAW,
        _ => Compression::UNCOMPRESSED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> TableSettings {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        TableSettings::of(&properties, &Bounds::default())
    }

    #[test]
    fn unset_is_the_default_and_no_warning() {
        let unset = settings(&[]);
        assert_eq!(unset.invalid, []);
        assert_eq!(unset.files.compression, Compression::ZSTD(ZstdLevel::try_new(1).expect("legal")));
        assert_eq!((unset.retention.max_age_ms, unset.retention.min_snapshots), (432_000_000, 1));
        assert!(unset.retention.may_delete && !unset.retention.is_chosen && unset.merge.enabled);
    }

    #[test]
    fn each_property_is_read() {
        let set = settings(&[
            (MAX_SNAPSHOT_AGE, "60000"),
            (MIN_SNAPSHOTS, "7"),
            (MAX_REF_AGE, "5"),
            (GC_ENABLED, "False"),
            (FILE_BYTES, "1000000"),
            (CODEC, "GZIP"),
            (LEVEL, "9"),
            (ROW_GROUP_BYTES, "999999999999"),
            (PAGE_BYTES, "4096"),
            (PAGE_ROWS, "100"),
            (DICTIONARY_BYTES, "8192"),
            (MERGE_ENABLED, "false"),
            (MERGE_MIN_COUNT, "3"),
            (MANIFEST_BYTES, "123456"),
            (RETRIES, "2"),
            (RETRY_MIN_WAIT, "10"),
            (RETRY_MAX_WAIT, "20"),
            (RETRY_TOTAL, "30"),
        ]);
        assert_eq!(set.invalid, []);
        assert_eq!(
            set.retention,
            Retention { max_age_ms: 60_000, min_snapshots: 7, max_ref_age_ms: 5, is_chosen: true, may_delete: false }
        );
        let compression = Compression::GZIP(GzipLevel::try_new(9).expect("legal"));
        let (file_bytes, page_bytes, page_rows, dictionary_bytes) = (1_000_000, 4096, 100, 8192);
        let row_group_bytes = 128 << 20;
        let files = FileSettings { file_bytes, compression, row_group_bytes, page_bytes, page_rows, dictionary_bytes };
        assert_eq!(set.files, files);
        assert_eq!(set.merge, MergeSettings { enabled: false, min_count: 3, manifest_bytes: 123_456 });
        assert_eq!(set.retry, RetrySettings { attempts: 3, min_wait_ms: 10, max_wait_ms: 20, total_ms: 30 });
    }

    #[test]
    fn an_invalid_value_is_named_and_the_default_holds() {
        let wrong = settings(&[
            (MAX_SNAPSHOT_AGE, "5 days"),
            (MIN_SNAPSHOTS, "0"),
            (FILE_BYTES, "-1"),
            (CODEC, "zstandard"),
            (LEVEL, "99"),
            (MERGE_ENABLED, "yes"),
        ]);
        let names: Vec<_> = wrong.invalid.iter().map(|invalid| invalid.name).collect();
        assert_eq!(names, [MAX_SNAPSHOT_AGE, MIN_SNAPSHOTS, FILE_BYTES, CODEC, LEVEL, MERGE_ENABLED]);
        assert_eq!(TableSettings { invalid: Vec::new(), ..wrong }, settings(&[]));
    }

    #[test]
    fn an_owner_gives_no_property_that_is_kept_for_others() {
        assert_eq!(check([(CODEC, "snappy"), ("comment", "of sales")].into_iter()), Ok(()));
        for (name, value, part) in [
            ("tidewater.epoch", "0", "Tidewater keeps"),
            ("Tidewater.x", "0", "Tidewater keeps"),
            ("format-version", "3", "Iceberg keeps"),
            (FILE_BYTES, "large", "a whole number"),
        ] {
            let refused = check([(CODEC, "zstd"), (name, value)].into_iter()).expect_err("refused");
            assert!(refused.contains(part) && refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn every_codec_has_a_default_level() {
        for codec in ["zstd", "gzip", "brotli", "snappy", "lz4", "lz4_raw", "uncompressed"] {
            let set = settings(&[(CODEC, codec), (LEVEL, "null")]);
            assert_eq!(set.invalid, [], "{codec}");
            assert_eq!(set.files.compression == Compression::UNCOMPRESSED, codec == "uncompressed", "{codec}");
        }
    }
}
