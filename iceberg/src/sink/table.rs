//! The table of a sink: found or made, marked as its topic's settings say, given their properties, dropped.

use std::collections::{BTreeMap, HashMap};

use tidewater_storage::model::TimestampMs;

use super::{SinkError, TableSink, make};
use crate::catalog::{CatalogError, Loaded};
use crate::commit::{CommitError, garbage, identity};

/// A table that nothing is added to is loaded again after this long: a user may have dropped or changed it.
pub(super) const LOOK_AGAIN_MS: i64 = 5 * 60 * 1000;

/// Properties that a catalog answered with another value than it was given: both values.
#[derive(Debug, Default)]
pub(super) struct Reworded(HashMap<String, (String, Option<String>)>);

impl Reworded {
    /// Those of `wanted` that `held` lacks, or has with other values.
    fn to_give(&self, wanted: &BTreeMap<String, String>, held: &HashMap<String, String>) -> BTreeMap<String, String> {
        let differs = |(key, value): &(&String, &String)| {
            let is = held.get(*key);
            let known = self.0.get(*key).is_some_and(|(given, kept)| given == *value && kept.as_ref() == is);
            is != Some(*value) && !known
        };
        wanted.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn note(&mut self, given: BTreeMap<String, String>, held: &HashMap<String, String>) {
        for (key, value) in given {
            match held.get(&key) {
                Some(kept) if *kept == value => drop(self.0.remove(&key)),
                kept => drop(self.0.insert(key, (value, kept.cloned()))),
            }
        }
    }
}

impl TableSink {
    /// The table as last seen, or loaded; made if it is not there.
    pub(super) async fn base(&mut self, now: TimestampMs) -> Result<Loaded, SinkError> {
        let fresh = (0..LOOK_AGAIN_MS).contains(&now.since_ms(self.looked_at));
        if let Some(base) = self.committer.current().filter(|_| fresh) {
            return Ok(base.clone());
        }
        self.looked_at = now;
        let known = self.committer.current().is_some();
        match self.committer.refresh().await {
            Ok(base) => {
                if !known && self.catalog.refusals_are_final() {
                    garbage::recover(&self.catalog.files(), &base).await;
                }
                Ok(base)
            }
            Err(error) if error.is_table_gone() => {
                let table = &self.config.table;
                let unmade = || CatalogError::Refused {
                    detail: format!(
                        "{table} cannot be made: the catalog says that its name is taken, and that there is no such table \
                         (is it a view, or is the warehouse gone?)"
                    ),
                };
                match make::make_table(&*self.catalog, &self.config, table).await {
                    Err(SinkError::Commit(error)) if error.is_table_gone() => Err(unmade().into()),
                    Err(error) => Err(error),
                    Ok(()) => self.committer.refresh().await.map_err(|error| match error.is_table_gone() {
                        true => unmade().into(),
                        false => error.into(),
                    }),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the table's mark by which it is dropped with its topic, if it differs from the setting.
    pub(super) async fn mark(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        if identity::goes_with_topic(&base.metadata) == self.config.delete {
            return Ok(base);
        }
        let value = if self.config.delete { "true" } else { "false" };
        Ok(self.committer.set_property(&base, identity::DELETE, value).await?)
    }

    /// Gives the table the properties of the setting that it lacks, or has with other values. What the catalog has in
    /// words of its own since it was given is left so.
    pub(super) async fn give_properties(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        let updates = self.reworded.to_give(&self.config.properties, base.metadata.properties());
        if updates.is_empty() {
            return Ok(base);
        }
        let given = self.committer.set_properties(&base, updates.clone().into_iter().collect()).await?;
        self.reworded.note(updates, given.metadata.properties());
        Ok(given)
    }

    /// Drops the topic's table and that of its dead letters with their files (`iceberg.delete=true`). Another owner's
    /// table is left alone, also one that took the name after this one was loaded.
    ///
    /// # Errors
    /// The catalog; [`CommitError::Foreign`].
    pub async fn drop_table(&mut self) -> Result<(), SinkError> {
        self.drop_dead().await?;
        let dropped = match self.committer.refresh().await {
            Ok(base) => self.catalog.drop_one(&self.config.table, Some(base.metadata.uuid()), true).await,
            Err(CommitError::Catalog(error)) => Err(error),
            Err(error) => return Err(error.into()),
        };
        match dropped {
            Ok(()) | Err(CatalogError::NoSuchTable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the marks by which the tables are dropped with their topic: no sink keeps them up to date from here on.
    ///
    /// # Errors
    /// The catalog; the table is another's.
    pub async fn unmark(&mut self) -> Result<(), SinkError> {
        self.config.delete = false;
        self.unmark_dead().await?;
        match self.committer.refresh().await {
            Ok(base) => self.mark(base).await.map(drop),
            // It is not dropped with its topic.
            Err(CommitError::Foreign(foreign)) if foreign.is_free() => Ok(()),
            Err(error) if error.is_table_gone() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties<T: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> T {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_catalog_keeps_in_its_own_words_is_given_once() {
        let mut reworded = Reworded::default();
        let wanted = properties(&[("a", "1"), ("b", "TRUE"), ("c", "x")]);
        let given = reworded.to_give(&wanted, &properties(&[("a", "1")]));
        assert_eq!(given, properties(&[("b", "TRUE"), ("c", "x")]));
        let kept = properties(&[("a", "1"), ("b", "true")]);
        reworded.note(given, &kept);
        assert_eq!(reworded.to_give(&wanted, &kept), BTreeMap::new());
        // An owner's change, and one of the setting, are neither.
        let changed = properties(&[("a", "2"), ("b", "false")]);
        assert_eq!(reworded.to_give(&wanted, &changed), properties(&[("a", "1"), ("b", "TRUE")]));
        assert_eq!(reworded.to_give(&properties(&[("b", "yes")]), &kept), properties(&[("b", "yes")]));
    }
}
