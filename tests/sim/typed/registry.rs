//! The schema registry of a run: it knows each schema from the beginning, answers late, or cannot be asked for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidewater_iceberg::registry::{SchemaSource, SchemaSourceError, SchemaText, WriterSchema};
use tidewater_storage::env::Env;
use tidewater_tiering::store::{SimSleeper, Sleeper};
use uuid::Uuid;

use super::{Stretch, Typed, count, values, wrong};

/// The way of one sink to the registry.
pub(crate) struct Registry {
    typed: Arc<Typed>,
    sleeper: SimSleeper,
    away: Stretch,
    /// The defect: a schema is answered with two of its fields in each other's place.
    is_wrong: bool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    pub(crate) fn new(env: &Env, typed: &Arc<Typed>, is_wrong: bool) -> Self {
        let (typed, sleeper) = (Arc::clone(typed), SimSleeper::new(env));
        Self { typed, sleeper, away: Stretch::default(), is_wrong }
    }
}

#[async_trait]
impl SchemaSource for Registry {
    async fn by_id(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        if self.away.holds(&self.typed, 200, 4) {
            count(&self.typed.counts.registry_away);
            return Err(SchemaSourceError { reason: "it is away in this simulation".to_owned() });
        }
        let late = if self.typed.is_calm() { 5 } else { 400 };
        self.sleeper.sleep(Duration::from_millis(self.typed.dice.below(late))).await;
        let known = values::AVRO.iter().find(|(known, _)| *known == id);
        Ok(known.map(|(_, text)| {
            let is_swapped = self.is_wrong && id == values::THIRD;
            let text = if is_swapped { wrong::swapped(text).into() } else { (*text).into() };
            Arc::new(WriterSchema::Avro(SchemaText { text, references: Vec::new() }))
        }))
    }

    async fn by_guid(&self, _guid: Uuid) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        Ok(None)
    }

    async fn latest(&self, _subject: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError> {
        Ok(None)
    }
}
