//! Locations as engines read them: URIs with a scheme, never bare paths.
//!
//! Owns: the warehouse's prefix in the bucket, the two-way mapping between an object key and its URI, the spellings
//! under which writers name the same file (`file:/d` next to `file:///d`, `s3a://` next to `s3://`).
//! Does not own: any I/O. Everything here is *node-wide* (immutable after start).

use std::path::PathBuf;

use tidewater_tiering::store::ObjectKey;

/// Why a location cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// No scheme in front.
    #[error("location {location:?} has no scheme; give a URI such as file:///dir or s3://bucket/prefix")]
    NoScheme { location: String },
    /// `..` and the like.
    #[error("location {location:?} contains a relative path segment; give an absolute one")]
    Relative { location: String },
    /// Not in this warehouse, and not reachable otherwise.
    #[error("location {location:?} lies outside the warehouse {warehouse:?}; this catalog reads and writes only there")]
    Outside { location: String, warehouse: String },
}

/// Where the bytes of a location are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePlace {
    /// An object of the bucket.
    Object(ObjectKey),
    /// A file of this machine beside a directory bucket (a location that a client chose).
    Local(PathBuf),
}

/// The warehouse: the part of the bucket that holds tables. *Node-wide*.
#[derive(Clone, Debug)]
pub struct Warehouse {
    bucket: String,
    prefix: String,
}

impl Warehouse {
    /// The warehouse at `prefix` (may be empty) of the bucket at `bucket` (`file:///dir`, `s3://bucket/prefix`, …).
    /// Keys of the store are relative to `bucket`.
    ///
    /// # Errors
    /// If `bucket` is not an absolute URI.
    pub fn new(bucket: &str, prefix: &str) -> Result<Self, LocationError> {
        let bucket = normalise(bucket)?;
        Ok(Self { bucket: bucket.trim_end_matches('/').to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }

    /// URI of the warehouse, without a slash at the end.
    #[must_use]
    pub fn uri(&self) -> String {
        if self.prefix.is_empty() { self.bucket.clone() } else { format!("{}/{}", self.bucket, self.prefix) }
    }

    /// URI of the bucket that it is in, without a slash at the end.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Prefix of its keys in the bucket, with a slash at the end unless empty.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Is this the key of a table's file? Below the warehouse, and no object of the catalog's own, of which some file
    /// systems know other spellings.
    #[must_use]
    pub fn holds(&self, key: &ObjectKey) -> bool {
        self.holds_name(key.as_str())
    }

    /// As [`Warehouse::holds`], for a key that an engine chose, which may have characters that ours do not have.
    #[must_use]
    pub fn holds_name(&self, key: &str) -> bool {
        key.strip_prefix(&self.key_prefix()).is_some_and(|rest| {
            let rest = rest.to_ascii_lowercase();
            let own = ["tables/", "namespaces/", "views/", "transactions/"];
            !rest.is_empty()
                && !rest.strip_prefix("catalog/").is_some_and(|rest| own.iter().any(|kind| rest.starts_with(kind)))
        })
    }

    /// What the keys of all files at `location` begin with, a slash at the end. It holds no object of the catalog.
    ///
    /// # Errors
    /// The location is not in the bucket, is not below the warehouse, or has the catalog's objects in it.
    pub fn folder(&self, location: &str) -> Result<String, LocationError> {
        let outside = || LocationError::Outside { location: location.to_owned(), warehouse: self.uri() };
        let FilePlace::Object(key) = self.locate(location.trim_end_matches('/'))? else { return Err(outside()) };
        let folder = format!("{key}/");
        let catalog = folder.strip_prefix(&self.key_prefix()).is_some_and(|rest| rest.eq_ignore_ascii_case("catalog/"));
        if catalog || !self.holds_name(&folder) { Err(outside()) } else { Ok(folder) }
    }

    /// The directory of the bucket, if it is one of this machine.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        self.bucket.strip_prefix("file://").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }

    /// Is the bucket a directory of this machine?
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.bucket.starts_with("file:///")
    }

    /// Maps a location to an object or a file.
    ///
    /// # Errors
    /// If it is not a URI, or one that this warehouse cannot reach.
    pub fn locate(&self, location: &str) -> Result<FilePlace, LocationError> {
        let uri = normalise(location)?;
        let inside = uri.strip_prefix(&self.bucket).and_then(|rest| rest.strip_prefix('/'));
        if let Some(key) = inside.and_then(|rest| ObjectKey::new(rest).ok()) {
            return Ok(FilePlace::Object(key));
        }
        match uri.strip_prefix("file://") {
            Some(path) if self.is_directory() => Ok(FilePlace::Local(PathBuf::from(path))),
            _ => Err(LocationError::Outside { location: location.to_owned(), warehouse: self.uri() }),
        }
    }
}

/// One spelling for each location: `file:/d`, `file://localhost/d` → `file:///d`; `s3a://`, `s3n://` → `s3://`.
///
/// # Errors
/// If there is no scheme, or a `.` or `..` segment.
pub fn normalise(location: &str) -> Result<String, LocationError> {
    let no_scheme = || LocationError::NoScheme { location: location.to_owned() };
    let (scheme, rest) = location.split_once(':').ok_or_else(no_scheme)?;
    if scheme.len() < 2 || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
        return Err(no_scheme());
    }
    if rest.split('/').any(|segment| segment == ".." || segment == ".") {
        return Err(LocationError::Relative { location: location.to_owned() });
    }
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "file" {
        let path =
            rest.strip_prefix("//localhost/").or_else(|| rest.strip_prefix("///")).or_else(|| rest.strip_prefix('/'));
        let path = path.filter(|p| !rest.starts_with("//") || p.len() < rest.len() - 1).ok_or_else(no_scheme)?;
        let segments: Vec<_> = path.split('/').filter(|s| !s.is_empty()).collect();
        return Ok(format!("file:///{}", segments.join("/")));
    }
    let rest = rest.strip_prefix("//").ok_or_else(no_scheme)?;
    let scheme = if scheme == "s3a" || scheme == "s3n" { "s3".to_owned() } else { scheme };
    Ok(format!("{scheme}://{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for (given, wanted) in [
            ("file:/d/t", "file:///d/t"),
            ("file:///d/t", "file:///d/t"),
            ("file:///d//t/", "file:///d/t"),
            ("file://localhost/d/t", "file:///d/t"),
            ("s3a://b/k", "s3://b/k"),
            ("gs://b/k", "gs://b/k"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(wanted), "{given}");
        }
        assert!(normalise("/bare/path").is_err());
        assert!(normalise("file:///d/../etc").is_err());
    }

    #[test]
    fn a_folder_holds_one_table_and_nothing_of_the_catalog() {
        let house = Warehouse::new("s3://b/p", "lake").expect("warehouse");
        for (location, wanted) in [
            ("s3://b/p/lake/topics/t-1", Some("lake/topics/t-1/")),
            ("s3a://b/p/lake/topics/t-1//", Some("lake/topics/t-1/")),
            ("s3://b/p/lake/catalog/t-1", Some("lake/catalog/t-1/")),
            ("s3://b/p/lake", None),
            ("s3://b/p/lake/", None),
            ("s3://b/p/lakes/t", None),
            ("s3://b/p/topics/t", None),
            ("s3://b/p", None),
            ("s3://b/lake/t", None),
            ("s3://c/p/lake/t", None),
            ("s3://b/p/lake/catalog", None),
            ("s3://b/p/lake/Catalog/tables", None),
            ("s3://b/p/lake/catalog/views/x", None),
            ("s3://b/p/lake/t/../u", None),
            ("file:///p/lake/t", None),
        ] {
            assert_eq!(house.folder(location).ok().as_deref(), wanted, "{location}");
        }
        let whole = Warehouse::new("s3://b", "").expect("warehouse");
        assert!(whole.folder("s3://b").is_err() && whole.folder("s3://b/").is_err());
        assert_eq!(whole.folder("s3://b/t").as_deref(), Ok("t/"));
    }

    #[test]
    fn places() {
        let house = Warehouse::new("file:///b", "lake").expect("warehouse");
        assert_eq!(house.uri(), "file:///b/lake");
        let key = ObjectKey::new("lake/t/x").expect("key");
        assert_eq!(house.locate("file:/b/lake/t/x"), Ok(FilePlace::Object(key)));
        assert_eq!(house.locate("file:/tmp/x"), Ok(FilePlace::Local("/tmp/x".into())));
        for (key, held) in [
            ("lake/topics/t-1/data/x", true),
            ("lake/catalog/tables-1/data/x", true),
            ("lake/catalog/tables/topics/t.json", false),
            ("lake/Catalog/namespaces/topics.json", false),
            ("lake/catalog/views/topics/v/1.json", false),
            ("lake/catalog/transactions/1.json", false),
            ("lakes/x", false),
            ("root", false),
        ] {
            assert_eq!(house.holds(&ObjectKey::new(key).expect("key")), held, "{key}");
        }
        let house = Warehouse::new("s3://b/p", "lake").expect("warehouse");
        assert!(matches!(house.locate("s3://other/x"), Err(LocationError::Outside { .. })));
        assert!(matches!(house.locate("file:///tmp/x"), Err(LocationError::Outside { .. })));
    }
}
