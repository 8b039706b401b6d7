//! [`DataFileName`]: `hour=<n>/<uuid>.parquet` or `part=<hash>/<uuid>.parquet`, the names of the data files that this
//! crate writes below a table's `data`. Files of other names are an engine's.

use uuid::Uuid;

use crate::partition::Folder;

/// See the header. Ordered by folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataFileName {
    pub folder: Folder,
    pub id: Uuid,
}

impl DataFileName {
    /// Of a file below `data`, given relative to that; `None` if it is not such a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (folder, file) = name.split_once('/')?;
        let folder = Folder::parse(folder)?;
        let id = Uuid::try_parse(file.strip_suffix(".parquet")?).ok()?;
        Some(Self { folder, id })
    }

    /// Of a file of the table at `location`; `None` if it has another place or name.
    #[must_use]
    pub fn of_path(location: &str, path: &str) -> Option<Self> {
        let name = path.strip_prefix(location)?.strip_prefix("/data/")?;
        // One spelling alone, so that the name leads back to the path.
        Self::parse(name).filter(|parsed| parsed.relative() == name)
    }

    /// Where the file of the table at `location` lies.
    #[must_use]
    pub fn path(&self, location: &str) -> String {
        format!("{location}/data/{}", self.relative())
    }

    fn relative(&self) -> String {
        format!("{}/{}.parquet", self.folder, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_path() {
        let id = Uuid::from_u128(5);
        for folder in [Folder::Hour(-3), Folder::Part(7)] {
            let name = DataFileName { folder, id };
            assert_eq!(DataFileName::of_path("s3://b/t", &name.path("s3://b/t")), Some(name));
        }
        for other in [
            format!("s3://b/u/data/hour=1/{id}.parquet"),
            format!("s3://b/t/data/hour=01/{id}.parquet"),
            format!("s3://b/t/data/part=7/{id}.parquet"),
            format!("s3://b/t/data/{id}.parquet"),
            format!("s3://b/t/data/hour=1/{}.parquet", id.simple()),
            format!("s3://b/t/data/tidewater_hour=1/{id}.parquet"),
            format!("s3://b/t/data/hour=1/00000-0-{id}.parquet"),
        ] {
            assert_eq!(DataFileName::of_path("s3://b/t", &other), None, "{other}");
        }
    }
}
