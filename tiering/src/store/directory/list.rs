//! Lists a directory tree in key order, opening only directories that can hold something asked for.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{PRIVATE, modified};
use crate::store::{Listed, ObjectKey};

/// At most `max` files whose keys begin with `prefix` and come after `after`, in key order.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>, max: usize) -> io::Result<Vec<Listed>> {
    let mut walk = Walk { prefix, after: after.unwrap_or_default(), max, out: Vec::new() };
    walk.directory(root, "")?;
    Ok(walk.out)
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    max: usize,
    out: Vec<Listed>,
}

impl Walk<'_> {
    /// `base` is the directory's key with a `/` behind it, or nothing for the root.
    fn directory(&mut self, path: &Path, base: &str) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        // A directory sorts as its name with a `/` behind it, as the keys inside do.
        let mut keys: Vec<(String, fs::DirEntry)> = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if base.is_empty() && name == PRIVATE {
                continue;
            }
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            keys.push((format!("{base}{name}{slash}"), entry));
        }
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, entry) in keys {
            if self.out.len() >= self.max {
                return Ok(());
            }
            match key.ends_with('/') {
                true if self.may_hold(&key) => self.directory(&entry.path(), &key)?,
                true => {}
                false => self.file(&key, &entry)?,
            }
        }
        Ok(())
    }

    fn may_hold(&self, directory: &str) -> bool {
        let on_the_way = self.prefix.starts_with(directory) || directory.starts_with(self.prefix);
        on_the_way && (directory > self.after || self.after.starts_with(directory))
    }

    fn file(&mut self, key: &str, entry: &fs::DirEntry) -> io::Result<()> {
        if !key.starts_with(self.prefix) || key <= self.after {
            return Ok(());
        }
        let (Ok(key), found) = (ObjectKey::new(key), entry.metadata()) else { return Ok(()) };
        match found {
            Ok(found) => self.out.push(Listed { key, size: found.len(), modified: modified(&found) }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
