//! Keys of the catalog's objects: the only file that builds or parses one.
//!
//! `<warehouse>/catalog/namespaces/<namespace>.json` and `<warehouse>/catalog/tables/<namespace>/<table>.json`. Names
//! are written with letters, digits, `-` and `_` as they are (a table's also with `.`) and any other byte as `=XX`;
//! the levels of a namespace are joined by `.`.

use iceberg::{NamespaceIdent, TableIdent};
use tidewater_tiering::store::ObjectKey;

use super::CatalogError;

const SUFFIX: &str = ".json";

/// Builds keys under one warehouse.
#[derive(Clone, Debug)]
pub(super) struct CatalogKeys {
    prefix: String,
}

impl CatalogKeys {
    /// `warehouse`: its key prefix, with a slash at the end or empty.
    pub(super) fn new(warehouse: &str) -> Self {
        Self { prefix: format!("{warehouse}catalog/") }
    }

    pub(super) fn namespaces(&self) -> String {
        format!("{}namespaces/", self.prefix)
    }

    pub(super) fn namespace(&self, namespace: &NamespaceIdent) -> Result<ObjectKey, CatalogError> {
        key(format!("{}{}{SUFFIX}", self.namespaces(), levels(namespace)))
    }

    pub(super) fn tables(&self, namespace: &NamespaceIdent) -> String {
        format!("{}tables/{}/", self.prefix, levels(namespace))
    }

    pub(super) fn table(&self, table: &TableIdent) -> Result<ObjectKey, CatalogError> {
        key(format!("{}{}{SUFFIX}", self.tables(&table.namespace), escape(&table.name, true)))
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
}

fn key(text: String) -> Result<ObjectKey, CatalogError> {
    ObjectKey::new(&text).map_err(|e| CatalogError::Invalid { detail: format!("name cannot be stored: {e}") })
}

/// A name as part of a path under the warehouse.
pub(super) fn path_segment(name: &str) -> String {
    escape(name, false)
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

    proptest! {
        #[test]
        fn names_round_trip(levels in proptest::collection::vec(".{1,12}", 1..4), name in ".{1,20}") {
            let keys = CatalogKeys::new("lake/");
            let namespace = NamespaceIdent::from_vec(levels).expect("not empty");
            let table = TableIdent::new(namespace.clone(), name);
            let key = keys.table(&table).expect("legal");
            prop_assert_eq!(keys.parse_table(&namespace, &key), Some(table));
            let key = keys.namespace(&namespace).expect("legal");
            prop_assert_eq!(keys.parse_namespace(&key), Some(namespace));
        }
    }
}
