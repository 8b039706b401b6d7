//! Keys of the catalog's objects: the only file that builds or parses one.
//!
//! `<warehouse>/catalog/namespaces/<namespace>.json`, `<warehouse>/catalog/tables/<namespace>/<table or view>.json` and
//! `<warehouse>/catalog/views/<namespace>/<view>/<entry>.json`, `<warehouse>/catalog/transactions/<uuid>.json`. Names
//! are written with letters, digits, `-` and `_` as they are (a table's also with `.`) and any other byte as `=XX`; the
//! levels of a namespace are joined by `.`. Names that a directory bucket could not hold as file names are refused;
//! every legal topic name fits.

use iceberg::{NamespaceIdent, TableIdent};
use tidewater_tiering::store::ObjectKey;
use uuid::Uuid;

use super::CatalogError;

const SUFFIX: &str = ".json";
/// Bytes of a file name at most, on every file system in use.
const FILE_NAME_BYTES_MAX: usize = 255;
/// Bytes that a name adds to a table's default location at most; a random suffix follows.
const SEGMENT_BYTES_MAX: usize = 200;

/// Builds keys under one warehouse.
#[derive(Clone, Debug)]
pub(super) struct CatalogKeys {
    prefix: String,
    /// The bucket is a directory.
    directory: bool,
}

impl CatalogKeys {
    /// `warehouse`: its key prefix, with a slash at the end or empty.
    pub(super) fn new(warehouse: &str, directory: bool) -> Self {
        Self { prefix: format!("{warehouse}catalog/"), directory }
    }

    fn key(&self, text: &str) -> Result<ObjectKey, CatalogError> {
        let invalid = |detail| CatalogError::Invalid { detail };
        let longest = text.split('/').map(str::len).max().unwrap_or_default();
        if self.directory && longest > FILE_NAME_BYTES_MAX {
            return Err(invalid(format!(
                "the name is too long: written down it takes {longest} bytes, and a directory bucket holds file names \
                 of {FILE_NAME_BYTES_MAX}; choose a shorter one, or one of letters and digits, which take a byte each"
            )));
        }
        ObjectKey::new(text).map_err(|e| invalid(format!("the name cannot be stored: {e}")))
    }

    pub(super) fn namespaces(&self) -> String {
        format!("{}namespaces/", self.prefix)
    }

    pub(super) fn namespace(&self, namespace: &NamespaceIdent) -> Result<ObjectKey, CatalogError> {
        self.key(&format!("{}{}{SUFFIX}", self.namespaces(), levels(namespace)))
    }

    pub(super) fn tables(&self, namespace: &NamespaceIdent) -> String {
        format!("{}tables/{}/", self.prefix, levels(namespace))
    }

    /// Entries of the list of views.
    pub(super) fn views(&self, namespace: &NamespaceIdent) -> String {
        format!("{}views/{}/", self.prefix, levels(namespace))
    }

    pub(super) fn view_entry(&self, view: &TableIdent, entry: Uuid) -> Result<ObjectKey, CatalogError> {
        self.key(&format!("{}{}/{entry}{SUFFIX}", self.views(&view.namespace), escape(&view.name, false)))
    }

    pub(super) fn transaction(&self, id: Uuid) -> Result<ObjectKey, CatalogError> {
        self.key(&format!("{}transactions/{id}{SUFFIX}", self.prefix))
    }

    /// The folder of all tables' keys.
    pub(super) fn all_tables(&self) -> String {
        format!("{}tables/", self.prefix)
    }

    /// The pointer of a table or view.
    pub(super) fn table(&self, table: &TableIdent) -> Result<ObjectKey, CatalogError> {
        self.key(&format!("{}{}{SUFFIX}", self.tables(&table.namespace), escape(&table.name, true)))
    }

    /// The namespace whose key this is.
    pub(super) fn parse_namespace(&self, key: &ObjectKey) -> Option<NamespaceIdent> {
        let name = key.as_str().strip_prefix(&self.namespaces())?.strip_suffix(SUFFIX)?;
        NamespaceIdent::from_vec(name.split('.').map(unescape).collect::<Option<_>>()?).ok()
    }

    /// The table of `namespace` whose key this is.
    pub(super) fn parse_table(&self, namespace: &NamespaceIdent, key: &ObjectKey) -> Option<TableIdent> {
        let name = key.as_str().strip_prefix(&self.tables(namespace))?.strip_suffix(SUFFIX)?;
        Some(TableIdent::new(namespace.clone(), unescape(name)?))
    }

    /// The view of `namespace` and the entry whose key this is.
    pub(super) fn parse_view_entry(&self, namespace: &NamespaceIdent, key: &ObjectKey) -> Option<(TableIdent, Uuid)> {
        let rest = key.as_str().strip_prefix(&self.views(namespace))?.strip_suffix(SUFFIX)?;
        let (name, entry) = rest.split_once('/')?;
        Some((TableIdent::new(namespace.clone(), unescape(name)?), entry.parse().ok()?))
    }

    /// The table whose key this is, in any namespace.
    pub(super) fn parse_any_table(&self, key: &ObjectKey) -> Option<TableIdent> {
        let (levels, _) = key.as_str().strip_prefix(&self.all_tables())?.split_once('/')?;
        let namespace = NamespaceIdent::from_vec(levels.split('.').map(unescape).collect::<Option<_>>()?).ok()?;
        self.parse_table(&namespace, key)
    }
}

/// A name as part of a path under the warehouse, cut where a directory bucket could not hold it: what follows in the
/// path makes it unique.
pub(super) fn path_segment(name: &str) -> String {
    let mut segment = escape(name, false);
    segment.truncate(SEGMENT_BYTES_MAX);
    segment
}

fn levels(namespace: &NamespaceIdent) -> String {
    namespace.iter().map(|level| escape(level, false)).collect::<Vec<_>>().join(".")
}

fn escape(name: &str, dots: bool) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'-' | b'_' => out.push(char::from(byte)),
            b'.' if dots => out.push('.'),
            b if b.is_ascii_alphanumeric() => out.push(char::from(b)),
            b => out.push_str(&format!("={b:02X}")),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let digits = [rest.next()?, rest.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_topic_name_fits_a_directory_and_what_does_not_is_refused() {
        let (directory, bucket) = (CatalogKeys::new("lake/", true), CatalogKeys::new("lake/", false));
        let table = |name: &str| TableIdent::new(NamespaceIdent::new("topics".to_owned()), name.to_owned());
        for name in ["a".repeat(249), ".".repeat(249), "_-".repeat(124)] {
            directory.table(&table(&name)).expect("a topic may have this name");
            assert!(path_segment(&name).len() + "-12345678".len() <= FILE_NAME_BYTES_MAX);
        }
        for name in ["a".repeat(251), "\u{e4}".repeat(60)] {
            let refused = directory.table(&table(&name)).expect_err("no file can have this name");
            assert!(matches!(refused, CatalogError::Invalid { .. }), "{refused}");
            bucket.table(&table(&name)).expect("an object can");
        }
        let level = NamespaceIdent::new("n".repeat(256));
        assert!(
            directory.namespace(&level).is_err() && directory.table(&TableIdent::new(level, "t".to_owned())).is_err()
        );
    }

    proptest! {
        #[test]
        fn names_round_trip(levels in proptest::collection::vec(".{1,12}", 1..4), name in ".{1,20}") {
            let keys = CatalogKeys::new("lake/", false);
            let namespace = NamespaceIdent::from_vec(levels).expect("not empty");
            let table = TableIdent::new(namespace.clone(), name);
            let key = keys.table(&table).expect("legal");
            prop_assert_eq!(keys.parse_table(&namespace, &key), Some(table.clone()));
            prop_assert_eq!(keys.parse_any_table(&key), Some(table.clone()));
            let key = keys.view_entry(&table, Uuid::from_u128(7)).expect("legal");
            prop_assert_eq!(keys.parse_view_entry(&namespace, &key), Some((table, Uuid::from_u128(7))));
            let key = keys.namespace(&namespace).expect("legal");
            prop_assert_eq!(keys.parse_namespace(&key), Some(namespace));
        }
    }
}
