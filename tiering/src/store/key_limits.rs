//! How long object keys may be, by kind of store.
//!
//! Owns: the limits and their check, so that a name from outside (a topic, a table) which cannot become a key is
//! refused when it is set, not each time something is written under it. Pure.

use crate::keys::KEY_BYTES_MAX;

/// Longest name of a file or directory on the file systems in use (ext4, XFS, Btrfs, tmpfs). Bytes.
const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest key that S3, Google Cloud Storage and Azure take, with the prefix of the store's URL. Bytes.
const OBJECT_KEY_BYTES_MAX: usize = 1024;

/// Bounds on keys, in bytes of their text. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Of one part between slashes.
    pub part_bytes_max: usize,
    /// Of a whole key, without the prefix of the store's URL.
    pub key_bytes_max: usize,
}

/// A key that the store would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTooLong {
    /// One part of it.
    #[error("{part:?} has {bytes} bytes, but in this bucket a part of a key has at most {max}; use a shorter name")]
    Part { part: String, bytes: usize, max: usize },
    /// All of it.
    #[error("the key {key:?} has {bytes} bytes, but in this bucket a key has at most {max}; use shorter names")]
    Whole { key: String, bytes: usize, max: usize },
}

impl KeyLimits {
    /// Of a directory bucket: each part is a file's or a directory's name.
    pub const DIRECTORY: Self = Self { part_bytes_max: FILE_NAME_BYTES_MAX, key_bytes_max: KEY_BYTES_MAX };

    /// Of a cloud store below `prefix`: parts have no bound of their own.
    #[must_use]
    pub fn object_store(prefix: &str) -> Self {
        let key_bytes_max = OBJECT_KEY_BYTES_MAX.saturating_sub(prefix.len()).min(KEY_BYTES_MAX);
        Self { part_bytes_max: key_bytes_max, key_bytes_max }
    }

    /// Of the bucket at `url`, for callers that have not opened it.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        if url.starts_with("file://") {
            return Self::DIRECTORY;
        }
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        match path.trim_matches('/') {
            "" => Self::object_store(""),
            prefix => Self::object_store(&format!("{prefix}/")),
        }
    }

    /// Would the store take `key`, a whole key or any part of one?
    ///
    /// # Errors
    /// [`KeyTooLong`]: which part is too long, and the limit.
    pub fn check(&self, key: &str) -> Result<(), KeyTooLong> {
        if key.len() > self.key_bytes_max {
            return Err(KeyTooLong::Whole { key: key.to_owned(), bytes: key.len(), max: self.key_bytes_max });
        }
        match key.split('/').find(|part| part.len() > self.part_bytes_max) {
            Some(part) => Err(KeyTooLong::Part { part: part.to_owned(), bytes: part.len(), max: self.part_bytes_max }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_bounds_each_part_and_a_cloud_store_the_whole() {
        let long = "x".repeat(256);
        let (directory, cloud) = (KeyLimits::of_url("file:///bucket"), KeyLimits::of_url("s3://bucket"));
        assert!(directory.check(&format!("a/{}", &long[1..])).is_ok());
        assert!(matches!(directory.check(&format!("a/{long}")), Err(KeyTooLong::Part { bytes: 256, max: 255, .. })));
        assert!(cloud.check(&format!("a/{long}")).is_ok());
        assert!(matches!(cloud.check(&"x".repeat(801)), Err(KeyTooLong::Whole { max: KEY_BYTES_MAX, .. })));
        let prefix = "p".repeat(400);
        let below = KeyLimits::of_url(&format!("s3://bucket/{prefix}/"));
        assert_eq!(below.key_bytes_max, 1024 - 401, "the prefix counts");
    }
}
