//! The catalog as the sinks of a typed run reach it: answers of commits are late or lost, and for a while it cannot be
//! asked. Beside that, it is the bucket's catalog, whose objects have the bucket's own faults.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidewater_iceberg::catalog::{
    Catalog, CatalogError, Loaded, NamespaceIdent, NewTable, TableIdent, TableRequirement, TableUpdate,
};
use tidewater_iceberg::files::TableFiles;
use tidewater_storage::env::Env;
use tidewater_tiering::store::{SimSleeper, Sleeper};
use uuid::Uuid;

use super::{Stretch, Typed, count, wrong};
use crate::defect::Defect;

/// Commits of which the answer is lost, and those of which it is late, in 1,000.
const LOST: u64 = 120;
const LATE: u64 = 300;
const LATE_MS: u64 = 400;

/// See the header. One for each life of a sink.
pub(crate) struct Doubtful {
    below: Arc<dyn Catalog>,
    typed: Arc<Typed>,
    sleeper: SimSleeper,
    away: Stretch,
    defect: Option<Defect>,
}

impl Doubtful {
    pub(crate) fn new(below: Arc<dyn Catalog>, env: &Env, typed: &Arc<Typed>, defect: Option<Defect>) -> Self {
        let (typed, sleeper) = (Arc::clone(typed), SimSleeper::new(env));
        Self { below, typed, sleeper, away: Stretch::default(), defect }
    }

    fn asked(&self) -> Result<(), CatalogError> {
        if self.away.holds(&self.typed, 30, 5) {
            count(&self.typed.counts.catalog_away);
            return Err(CatalogError::Busy { detail: "the catalog is away in this simulation".to_owned() });
        }
        Ok(())
    }

    fn may(&self, odds: u64) -> bool {
        !self.typed.is_calm() && self.typed.dice.chance(odds)
    }

    fn lost(&self, table: &TableIdent) -> CatalogError {
        count(&self.typed.counts.lost_answers);
        CatalogError::Unknown { table: table.clone(), detail: "the simulation lost the answer".to_owned() }
    }
}

#[async_trait]
impl Catalog for Doubtful {
    fn files(&self) -> TableFiles {
        self.below.files()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        self.asked()?;
        self.below.ensure_namespace(namespace).await
    }

    async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError> {
        self.asked()?;
        self.below.load(table).await
    }

    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError> {
        self.asked()?;
        let made = self.below.create(table, new).await?;
        if self.may(LOST) { Err(self.lost(table)) } else { Ok(made) }
    }

    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CatalogError> {
        self.asked()?;
        let done = match self.defect {
            Some(Defect::RowsWithoutOffsets) if wrong::appends_rows(table, &updates) && self.may(300) => {
                let updates = updates.into_iter().map(wrong::without_offsets).collect();
                self.below.commit(table, requirements, updates).await?;
                return Err(self.lost(table));
            }
            Some(Defect::DeadLettersInMemory) => {
                let (pending, updates) = wrong::without_pending(updates);
                let done = self.below.commit(table, requirements, updates).await?;
                wrong::with_pending(done, pending)
            }
            _ => self.below.commit(table, requirements, updates).await?,
        };
        if self.may(LATE) {
            self.sleeper.sleep(Duration::from_millis(self.typed.dice.below(LATE_MS))).await;
        }
        if self.may(LOST) { Err(self.lost(table)) } else { Ok(done) }
    }

    async fn drop_one(&self, table: &TableIdent, uuid: Option<Uuid>, purge: bool) -> Result<(), CatalogError> {
        self.below.drop_one(table, uuid, purge).await
    }
}
