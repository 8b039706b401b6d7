//! Tables with a column for each part of a value, or columns of keys: which schemas come up, and the changes of the
//! table that they need.
//!
//! Owns: asking the registry, the change of the table's schema in a commit of its own before any file has the new
//! columns. Does not own: which columns (`columns::evolve`), reading values (`translate`). *Message*; one task.
//!
//! **Order**: schema and map first, with the partition spec and the sort order over new columns, then files of its
//! columns, then the append. A schema that needs a change while the turn has rows ends the turn before the first record
//! that names it. **Crash, lost answer, another writer's change**: planning for the same schema on the table as it is
//! then finds what is still missing, or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use iceberg::spec::{TableMetadata, Transform};

use super::make::without_value;
use super::{SinkError, TableSink, found};
use crate::catalog::{CatalogError, Loaded};
use crate::columns::Refused;
use crate::columns::evolve::{self, OnConflict, Plan, Table};
use crate::columns::map::{self, ColumnMap};
use crate::columns::shape::{Key, Shape};
use crate::commit::{CommitError, SchemaChange};
use crate::mode::{ConflictPolicy, KeyMode, TableMode};
use crate::partition::{Partitioner, wanted};
use crate::plan::PlannedRange;
use crate::registry::{SchemaSourceError, SchemaText, WriterSchema};
use crate::schema::system::SystemColumns;
use crate::sort;
use crate::translate::Translation;
use crate::translate::decoding::{Decoding, Namings, ValueType, ValuesAs, Verdict};
use crate::translate::framing::{Naming, Part, WrittenWith};
use crate::translate::value_schema::ValueSchema;

/// Schemas kept from the registry at most; they never change.
const SCHEMAS_MAX: usize = 250;
/// Questions to the registry at once.
const ASKED_AT_ONCE: usize = 16;

/// Schemas that the registry gave.
pub(super) type KnownSchemas = HashMap<WrittenWith, Arc<WriterSchema>>;

/// Whether the translation can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The first schema that was asked for has a verdict now, or the table was changed for one.
    GoOn,
    /// The table has to change first, and the turn has rows of its present columns.
    EndTurn,
    /// The table has to stop before the record: why its schema conflicts with the columns.
    Conflict(String),
}

impl TableSink {
    /// Decoders for the table as it is in `base`: those of the last turn if it has not changed.
    pub(super) fn decoding(&mut self, base: &Loaded) -> Result<Decoding, SinkError> {
        match self.decoding.take() {
            Some(decoding) if decoding.is_for(&base.metadata) => Ok(decoding),
            _ => self.new_decoding(&base.metadata),
        }
    }

    fn new_decoding(&self, metadata: &TableMetadata) -> Result<Decoding, SinkError> {
        let values = if self.config.mode.is_typed() { ValuesAs::Columns } else { ValuesAs::Bytes };
        Ok(Decoding::new(metadata, values).map_err(CatalogError::from)?)
    }

    /// Brings the table into the form that the mode needs, without rows: a new typed one gets rid of `value`, and has a
    /// column map from then on.
    pub(super) async fn fit_to_mode(&mut self, base: Loaded) -> Result<Loaded, SinkError> {
        let metadata = &base.metadata;
        let (is_typed, has_map) = (self.config.mode.is_typed(), metadata.properties().contains_key(map::PROPERTY));
        let system = SystemColumns::of(metadata);
        let has_value = system.has_value(metadata.current_schema());
        if !is_typed && has_map && !has_value {
            let detail = format!(
                "its values are typed columns, and iceberg.mode={} needs a column value; set the mode back, or drop or \
                 rename the table",
                self.config.mode.word()
            );
            return Err(CommitError::Unfit { table: self.config.table.clone(), detail }.into());
        }
        // A table that has rows of `value` keeps it; it is null from then on.
        if !is_typed || has_map || !has_value || metadata.snapshots().len() > 0 {
            return Ok(base);
        }
        let schema = without_value(metadata.current_schema(), system)?;
        let properties = vec![(map::PROPERTY, Some(ColumnMap::default().to_text()))];
        let change = SchemaChange { schema, properties, ..SchemaChange::default() };
        Ok(self.committer.change_schema(&base, change).await?)
    }

    /// How keys and values name their schemas in the turn that begins. The newest schema of a subject is asked for once
    /// a turn, after the turn has seen where the log ends: no record of the turn is of a schema that was registered
    /// later.
    pub(super) async fn namings(&mut self, ranges: &[PlannedRange], base: &Loaded) -> Result<Namings, SinkError> {
        let key = match self.config.key {
            KeyMode::Binary => Naming::Bytes,
            KeyMode::Text => Naming::All(WrittenWith::Text),
            KeyMode::SchemaIdPrefix => Naming::Each,
        };
        Ok(Namings { key, value: self.naming_of_values(ranges, base).await? })
    }

    async fn naming_of_values(&mut self, ranges: &[PlannedRange], base: &Loaded) -> Result<Naming, SinkError> {
        let (with, schema) = match &self.config.mode {
            TableMode::KeyValue => return Ok(Naming::Bytes),
            TableMode::ValueSchemaIdPrefix => return Ok(Naming::Each),
            TableMode::ValueSchemaLatest { subject } => match self.source.latest(subject).await? {
                Some((id, schema)) => (WrittenWith::Id(id), schema),
                None => return Err(SinkError::NoSchema { subject: Arc::clone(subject) }),
            },
            TableMode::Json { schema } => {
                let text = SchemaText { text: Arc::clone(schema), references: Vec::new() };
                (WrittenWith::Setting, Arc::new(WriterSchema::Json(text)))
            }
            TableMode::JsonFound => {
                let text = self.find_columns(ranges, &base.metadata).await?;
                // Decoders of the last turn are of what was known then.
                if self.found().is_none_or(|last| **last != *text) {
                    self.decoding = None;
                }
                let text = SchemaText { text, references: Vec::new() };
                (WrittenWith::Found, Arc::new(WriterSchema::Json(text)))
            }
        };
        self.of_all = Some((with, schema));
        Ok(Naming::All(with))
    }

    /// What was found in the values of this turn and those before it.
    fn found(&self) -> Option<&Arc<str>> {
        match self.of_all.as_ref().map(|(with, schema)| (with, &**schema)) {
            Some((WrittenWith::Found, WriterSchema::Json(text))) => Some(&text.text),
            _ => None,
        }
    }

    /// Finds out what becomes of values of the schemas that stopped `translation`.
    pub(super) async fn resolve(&mut self, translation: &mut Translation) -> Result<Resolved, SinkError> {
        let undecided = translation.undecided().to_vec();
        let answers = self.ask(&undecided).await;
        for (at, (of, answer)) in undecided.into_iter().zip(answers).enumerate() {
            let Some(ends) = translation.decoding_mut().map(|decoding| decoding.ends()) else { break };
            let verdict = match answer {
                Err(error) if at == 0 => return Err(error.into()),
                Err(_) => continue,
                Ok(None) => Verdict::Unknown(ends),
                // Then its values are asked for again, each with its message.
                Ok(Some(schema)) if of.message.is_none() && matches!(*schema, WriterSchema::Protobuf(Ok(_))) => {
                    if let Some(decoding) = translation.decoding_mut() {
                        decoding.has_messages(of.with);
                    }
                    continue;
                }
                Ok(Some(schema)) => match self.verdict(of, &schema, translation).await? {
                    // What the topic's settings say is the owner's, and no fault of a value.
                    Judged::Verdict(Verdict::Dead(why)) if is_of_owner(of.with) => {
                        let detail = format!("{of}: {why}; change the setting, or drop or rename the table");
                        return Err(CommitError::Unfit { table: self.config.table.clone(), detail }.into());
                    }
                    Judged::Verdict(verdict) => verdict,
                    Judged::Changed => return Ok(Resolved::GoOn),
                    Judged::Later if at == 0 => return Ok(Resolved::EndTurn),
                    Judged::Conflict(why) if at == 0 => return Ok(Resolved::Conflict(format!("{of}: {why}"))),
                    Judged::Later | Judged::Conflict(_) => continue,
                },
            };
            if let Some(decoding) = translation.decoding_mut() {
                decoding.decide(of, verdict);
            }
        }
        Ok(Resolved::GoOn)
    }

    async fn ask(&mut self, undecided: &[ValueType]) -> Vec<Result<Option<Arc<WriterSchema>>, SchemaSourceError>> {
        let questions: Vec<_> = undecided
            .iter()
            .map(|ValueType { with, .. }| {
                let (with, known) = (*with, self.schema_of_all(*with).or_else(|| self.schemas.get(with)).cloned());
                let source = Arc::clone(&self.source);
                async move {
                    match (known, with) {
                        (Some(known), _) => Ok(Some(known)),
                        (None, WrittenWith::Id(id)) => source.by_id(id).await,
                        (None, WrittenWith::Guid(guid)) => source.by_guid(guid).await,
                        (None, WrittenWith::Text) => Ok(Some(Arc::new(WriterSchema::Text))),
                        (None, WrittenWith::Setting | WrittenWith::Found) => {
                            unreachable!("the schema of a setting or of the turn is known")
                        }
                    }
                }
            })
            .collect();
        let answers: Vec<_> = futures::stream::iter(questions).buffered(ASKED_AT_ONCE).collect().await;
        for (ValueType { with, .. }, answer) in undecided.iter().zip(&answers) {
            if let Ok(Some(schema)) = answer
                && self.schema_of_all(*with).is_none()
            {
                if self.schemas.len() >= SCHEMAS_MAX {
                    self.schemas.clear();
                }
                self.schemas.insert(*with, Arc::clone(schema));
            }
        }
        answers
    }

    /// The schema of all values, if it is the one meant.
    fn schema_of_all(&self, with: WrittenWith) -> Option<&Arc<WriterSchema>> {
        self.of_all.as_ref().filter(|(of_all, _)| *of_all == with).map(|(_, schema)| schema)
    }

    /// What becomes of keys or values of type `of`, which is of `schema`; changes the table if that is needed and
    /// the turn has no rows yet.
    async fn verdict(
        &mut self,
        of: ValueType,
        schema: &WriterSchema,
        translation: &mut Translation,
    ) -> Result<Judged, SinkError> {
        let dead = |why: String| Ok(Judged::Verdict(Verdict::Dead(why.into())));
        let base = match self.committer.current() {
            Some(base) => base.clone(),
            None => self.committer.refresh().await?,
        };
        let parsed = match ValueSchema::parse(schema, of.message) {
            Ok(parsed) => parsed,
            Err(refused) => return dead(refused.to_string()),
        };
        let format = base.metadata.format_version();
        let shape = match of.part {
            Part::Key => parsed.key_shape(format),
            Part::Value => parsed.shape(format),
        };
        let shape = match shape {
            Ok(shape) => shape,
            Err(refused) => return dead(refused.to_string()),
        };
        let (map, plan) = match self.plan(&base.metadata, &shape, of)? {
            (map, Ok(plan)) => (map, plan),
            (_, Err(refused)) => return dead(refused.to_string()),
        };
        if !plan.conflicts.is_empty() {
            let conflicts: Vec<_> = plan.conflicts.iter().take(3).map(ToString::to_string).collect();
            let why = conflicts.join("; ");
            // That of a setting pauses the table in any case.
            let pauses = self.config.conflict == ConflictPolicy::Pause && of.with != WrittenWith::Setting;
            return if pauses { Ok(Judged::Conflict(why)) } else { dead(why) };
        }
        let is_kept = |metadata: &TableMetadata| {
            let of_turn = self.found().filter(|_| of.with == WrittenWith::Found);
            of_turn.is_none_or(|text| found::kept(metadata) == Some(&**text))
        };
        if plan.changes.is_empty() && plan.map == map && is_kept(&base.metadata) {
            let Some(decoding) = translation.decoding_mut() else { return dead("values are bytes".to_owned()) };
            if !decoding.is_for(&base.metadata) {
                return Err(CommitError::Moved { table: self.config.table.clone() }.into());
            }
            let decoder = match of.part {
                Part::Key => parsed.key_decoder(&plan, decoding.layout(of.part)),
                Part::Value => parsed.decoder(&plan, decoding.layout(of.part)),
            };
            return match decoder {
                Ok(decoder) => Ok(Judged::Verdict(Verdict::Rows(decoder))),
                Err(refused) => dead(refused.to_string()),
            };
        }
        if !translation.is_empty() {
            return Ok(Judged::Later);
        }
        let changed = self.change(&base, &plan, of).await?;
        let (table, first) = (&self.config.table, plan.changes.first());
        let changes = plan.changes.len();
        tracing::info!(%table, schema = %of, changes, ?first, "columns of a table follow a schema");
        // A schema that asks for changes again would change the table for ever.
        let settled = match self.plan(&changed.metadata, &shape, of)? {
            (map, Ok(plan)) => plan.changes.is_empty() && plan.map == map,
            (_, Err(_)) => false,
        };
        let mut decoding = self.new_decoding(&changed.metadata)?;
        if !settled {
            decoding.decide(of, Verdict::Dead("its columns need changes again and again".into()));
        }
        if let Some(old) = translation.take_decoding() {
            decoding = decoding.in_turn_of(old);
        }
        let by = Partitioner::of_table(&changed.metadata).ok_or_else(|| self.no_spec(&self.config.table))?;
        translation.set_decoding(by, decoding);
        Ok(Judged::Changed)
    }

    /// The table's map, and the plan for values of `shape`, which are of type `of`.
    fn plan(
        &self,
        metadata: &TableMetadata,
        shape: &Shape,
        of: ValueType,
    ) -> Result<(ColumnMap, Result<Plan, Refused>), SinkError> {
        let map = match metadata.properties().get(map::PROPERTY) {
            None => ColumnMap::default(),
            Some(text) => ColumnMap::parse(text)
                .map_err(|e| CommitError::Unfit { table: self.config.table.clone(), detail: e.to_string() })?,
        };
        let specs: Vec<_> = metadata.partition_specs_iter().flat_map(|spec| spec.fields()).collect();
        // A column as it is sorts alike once it has grown.
        let orders = metadata.sort_orders_iter().flat_map(|order| &order.fields);
        let orders = orders.filter(|field| field.transform != Transform::Identity);
        let sources = specs.iter().map(|field| field.source_id);
        let pinned: Vec<i32> = sources.chain(orders.map(|field| field.source_id)).collect();
        let names: Vec<String> = specs.iter().map(|field| field.name.to_lowercase()).collect();
        // Whether values or keys come first must not decide which of them has the name.
        let of_keys = (of.part == Part::Value && self.config.key != KeyMode::Binary).then(|| Key::RecordKey.name());
        let taken: Vec<&str> = names.iter().chain(&of_keys).map(String::as_str).collect();
        let reserved = SystemColumns::of(metadata).reserved();
        let table = Table {
            schema: metadata.current_schema(),
            last_column_id: metadata.last_column_id(),
            map: &map,
            reserved: &reserved,
            pinned: &pinned,
            taken: &taken,
        };
        let on_conflict = match self.config.conflict {
            // What was found in the values of a turn is no fault of one of them.
            ConflictPolicy::DeadLetters if of.with == WrittenWith::Found => OnConflict::Column,
            ConflictPolicy::DeadLetters | ConflictPolicy::Pause => OnConflict::Report,
            ConflictPolicy::Column => OnConflict::Column,
        };
        let plan = evolve::plan(&table, shape, on_conflict);
        Ok((map, plan))
    }

    /// Commits the plan's schema and map.
    async fn change(&mut self, base: &Loaded, plan: &Plan, of: ValueType) -> Result<Loaded, SinkError> {
        let schema = (!plan.changes.is_empty()).then(|| plan.schema.clone());
        let mut properties = vec![(map::PROPERTY, Some(plan.map.to_text()))];
        let found = self.found().filter(|_| of.with == WrittenWith::Found);
        properties.extend(found.map(|text| (found::PROPERTY, Some(text.to_string()))));
        let next = schema.as_ref().map(|schema| wanted::next(&base.metadata, schema)).unwrap_or_default();
        let spec = next.spec;
        properties.extend(next.text.map(|text| (wanted::PROPERTY, Some(text))));
        let order = schema.as_ref().map(|schema| sort::wanted::next(&base.metadata, schema)).unwrap_or_default();
        properties.extend(order.text.map(|text| (sort::wanted::PROPERTY, text)));
        let change = SchemaChange { schema, spec, order: order.order, properties };
        Ok(self.committer.change_schema(base, change).await?)
    }
}

/// Whether the table's owner, and no producer, says what keys or values are.
fn is_of_owner(with: WrittenWith) -> bool {
    matches!(with, WrittenWith::Setting | WrittenWith::Found | WrittenWith::Text)
}

/// What is known of a schema's values.
enum Judged {
    Verdict(Verdict),
    /// The table was changed for it: decoders begin again.
    Changed,
    /// The table has to be changed for it, in another turn.
    Later,
    /// Some column has another type, and the topic's setting is to stop there.
    Conflict(String),
}
