//! What a command writes: pure functions from the state to records and an answer.
//!
//! The records take effect when they are committed and applied, and only then the answer goes out. One command is
//! planned at a time, on a state that holds everything written before: ids and versions are given here and nowhere
//! else.

use std::sync::Arc;

use super::canonical::{Parsed, Strictness};
use super::compat::{self, Earlier};
use super::definition::{Definition, Metadata};
use super::error::SchemaError;
use super::json::Json;
use super::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::lookup::{Found, ReadSchema};
use super::record::{Record, Registered};
use super::request::{Answer, Command, Submitted, VersionId};
use super::settings::{Config, Mode};
use super::state::{Deleted, State};
use super::subject::{Context, Subject};

/// Records to write, in order, and what to answer once they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub records: Vec<Record>,
    pub answer: Answer,
}

impl Plan {
    const fn nothing(answer: Answer) -> Self {
        Self { records: Vec::new(), answer }
    }
}

type Planned = Result<Plan, SchemaError>;

impl State {
    /// # Errors
    /// The command is refused; nothing is written.
    pub fn plan(&self, command: &Command) -> Planned {
        let plan = self.planned(command)?;
        // What a reader of the log would refuse is not written.
        for record in &plan.records {
            let (key, value) = record.encode();
            let value = value.map_or(0, |value| value.len());
            for (found, max) in [(key.len(), KEY_BYTES_MAX), (value, VALUE_BYTES_MAX)] {
                if found > max {
                    return Err(SchemaError::TooLarge { found, max });
                }
            }
        }
        Ok(plan)
    }

    fn planned(&self, command: &Command) -> Planned {
        match command {
            Command::Register { subject, schema, normalize } => self.plan_register(subject, schema, *normalize),
            Command::DeleteVersion { subject, version, permanent } => {
                self.plan_delete_version(subject, *version, *permanent)
            }
            Command::DeleteSubject { subject, permanent } => self.plan_delete_subject(subject, *permanent),
            Command::SetConfig { subject, config } => self.plan_config(subject.as_ref(), config),
            Command::DeleteConfig { subject } => self.plan_delete_config(subject.as_ref()),
            Command::SetMode { subject, mode, force } => self.plan_mode(subject.as_ref(), *mode, *force),
            Command::DeleteMode { subject } => self.plan_delete_mode(subject.as_ref()),
            Command::DeleteContext { context } => self.plan_delete_context(context),
        }
    }

    fn plan_register(&self, subject: &Subject, submitted: &Submitted, normalize: bool) -> Planned {
        if !subject.is_valid() || subject.is_context() {
            return Err(SchemaError::InvalidSubject(subject.to_string()));
        }
        let config = self.config_in_scope(Some(subject));
        let normalize = normalize || config.normalize == Some(true);
        // A client that registers before each run gets its id in every mode.
        if submitted.version.is_none() && !config.fills_in() && submitted.text.is_some() {
            let read = self.read(subject, submitted, Strictness::Known, normalize);
            if let Some((version, found)) = read.ok().and_then(|read| self.find(subject, &read, Deleted::Without))
                && submitted.id.is_none_or(|id| id == found.id)
            {
                return Ok(Plan::nothing(registered(found, version, None)));
            }
        }
        self.may_register(subject, submitted)?;
        let mode = self.mode_in_scope(Some(subject));
        let next_version = self.next_version(subject);
        let filled =
            if mode.is_import() { submitted.clone() } else { self.filled(subject, submitted, &config, next_version) };
        let strictness = if submitted.id.is_none() { Strictness::New } else { Strictness::Known };
        let read = self.read(subject, &filled, strictness, normalize)?;
        let changed = (filled != *submitted).then(|| Box::new(read.definition.clone()));
        if submitted.version.is_none()
            && let Some((version, found)) = self.find(subject, &read, Deleted::Without)
            && submitted.id.is_none_or(|id| id == found.id)
        {
            return Ok(Plan::nothing(registered(found, version, changed)));
        }
        if !mode.is_import() {
            self.check_fit(subject, &read, &config)?;
        }
        let version = match submitted.version.filter(|version| *version > 0) {
            None if self.version(subject, next_version, Deleted::With).is_some() => {
                return Err(SchemaError::NotPermitted(format!("Subject {subject} has no versions left")));
            }
            None => next_version,
            Some(version) if version == next_version || mode.is_import() => version,
            Some(version) => {
                let why = format!("Version {version} is not one more than the previous version; {next_version} is");
                return Err(SchemaError::InvalidSchema(why));
            }
        };
        self.write_version(subject, version, submitted.id, read.definition, changed)
    }

    fn write_version(
        &self,
        subject: &Subject,
        version: i32,
        given: Option<i32>,
        definition: Definition,
        changed: Option<Box<Definition>>,
    ) -> Planned {
        let context = subject.context();
        let print = definition.fingerprint();
        let id = match given {
            Some(id) => self.checked_id(&context, id, &definition)?,
            None => match self.id_of(&context, print) {
                Some(id) => id,
                None => Some(self.next_id(&context))
                    .filter(|id| *id < i32::MAX)
                    .ok_or_else(|| SchemaError::NotPermitted(format!("Context {context} has no schema ids left")))?,
            },
        };
        let mut records = Vec::new();
        if !context.is_default() && !self.contexts().any(|used| *used == context) {
            records.push(Record::Context { context, is_used: true });
        }
        // A soft-deleted version that is registered again moves up: one version a subject and id.
        let older = self.versions(subject, Deleted::Only).filter(|(old, schema)| schema.id == id && *old < version);
        records.extend(older.map(|(old, _)| Record::Schema { subject: subject.clone(), version: old, schema: None }));
        let schema = Registered { id, guid: Some(print.guid()), definition, deleted: false };
        let answer = registered(&schema, version, changed);
        records.push(Record::Schema { subject: subject.clone(), version, schema: Some(schema) });
        Ok(Plan { records, answer })
    }

    /// An id that another registry gave: free here, or that of the same schema.
    fn checked_id(&self, context: &Context, id: i32, definition: &Definition) -> Result<i32, SchemaError> {
        let mut places =
            self.places(context, id).filter_map(|(place, version)| self.version(place, version, Deleted::With));
        match places.next() {
            Some(holder) if holder.definition != *definition => Err(SchemaError::NotPermitted(format!(
                "Overwrite new schema with id {id} in context {context} is not permitted."
            ))),
            _ => Ok(id),
        }
    }

    fn may_register(&self, subject: &Subject, submitted: &Submitted) -> Result<(), SchemaError> {
        self.may_write(Some(subject))?;
        let mode = self.mode_in_scope(Some(subject));
        let wanted = if submitted.id.is_some() { "import" } else { "read-write" };
        if mode.is_import() == submitted.id.is_some() {
            return Ok(());
        }
        let context = subject.context();
        Err(SchemaError::NotPermitted(format!("Subject {subject} in context {context} is not in {wanted} mode")))
    }

    fn may_write(&self, subject: Option<&Subject>) -> Result<(), SchemaError> {
        if !self.mode_in_scope(subject).is_read_only() {
            return Ok(());
        }
        let (of, context) =
            subject.map_or(("null", Context::default()), |subject| (subject.as_str(), subject.context()));
        Err(SchemaError::NotPermitted(format!("Subject {of} in context {context} is in read-only mode")))
    }

    /// With the text of the latest version if none was sent, and with the metadata and rules of the settings.
    fn filled(&self, subject: &Subject, submitted: &Submitted, config: &Config, next_version: i32) -> Submitted {
        let mut filled = submitted.clone();
        let previous = self.latest(subject).map(|(_, schema)| &schema.definition);
        let is_empty = filled.text.as_ref().is_none_or(|text| text.trim().is_empty());
        if let Some(previous) = previous.filter(|_| is_empty) {
            filled.kind = previous.kind;
            filled.text = Some(previous.text.clone());
            filled.references.clone_from(&previous.references);
        }
        let own = filled.metadata.clone().or_else(|| previous.and_then(|previous| previous.metadata.clone()));
        let under = Metadata::merged(config.default_metadata.as_ref(), own.as_ref());
        filled.metadata = Metadata::merged(under.as_ref(), config.override_metadata.as_ref());
        let own = filled.rules.clone().or_else(|| previous.and_then(|previous| previous.rules.clone()));
        let under = merged_rules(config.default_rules.as_ref(), own.as_ref());
        filled.rules = merged_rules(under.as_ref(), config.override_rules.as_ref());
        let names_version = filled.metadata.as_ref().is_some_and(|metadata| metadata.version().is_some());
        if submitted.version.is_some() || names_version {
            filled.metadata.get_or_insert_default().set_version(next_version);
        }
        filled
    }

    fn check_fit(&self, subject: &Subject, read: &ReadSchema, config: &Config) -> Result<(), SchemaError> {
        let earlier = self.versions(subject, Deleted::Without).rev();
        let earlier = earlier.map(|(version, schema)| Found { subject, version, schema }).collect::<Vec<_>>();
        let messages = self.fit(read, &earlier, config)?;
        if messages.is_empty() {
            return Ok(());
        }
        Err(SchemaError::Incompatible { subject: subject.clone(), messages })
    }

    /// Why `read` does not fit `earlier`, the latest first, at the level of `config`.
    pub(super) fn fit(
        &self,
        read: &ReadSchema,
        earlier: &[Found<'_>],
        config: &Config,
    ) -> Result<Vec<String>, SchemaError> {
        let level = config.level.unwrap_or_default();
        let group = |metadata: &Option<Metadata>| {
            let name = config.group.as_ref()?;
            metadata.as_ref()?.properties.get(name).cloned()
        };
        let own = group(&read.definition.metadata);
        let compared = earlier.iter().filter(|old| group(&old.schema.definition.metadata) == own);
        let mut messages = compat::check(level, &read.parsed, compared.map(|found| Old { state: self, found }))?;
        if !messages.is_empty() {
            let fields = config.validate_fields.unwrap_or_default();
            messages.push(format!("{{validateFields: '{fields}', compatibility: '{level}'}}"));
        }
        Ok(messages)
    }

    fn plan_delete_version(&self, subject: &Subject, version: VersionId, permanent: bool) -> Planned {
        let Some(Found { version, schema, .. }) = self.get(subject, version, Deleted::With) else {
            return Err(if self.has(Some(subject), Deleted::With) {
                let version = if let VersionId::Number(version) = version { version } else { -1 };
                SchemaError::VersionNotFound(version)
            } else {
                SchemaError::SubjectNotFound(subject.clone())
            });
        };
        if schema.deleted && !permanent {
            return Err(SchemaError::VersionSoftDeleted(subject.clone(), version));
        }
        self.may_write(Some(subject))?;
        self.is_free(subject, version)?;
        if permanent {
            if !schema.deleted {
                return Err(SchemaError::VersionNotSoftDeleted(subject.clone(), version));
            }
            let records = vec![Record::Schema { subject: subject.clone(), version, schema: None }];
            return Ok(Plan { records, answer: Answer::Number(version) });
        }
        let deleted = Registered { deleted: true, ..schema.clone() };
        let mut records = vec![Record::Schema { subject: subject.clone(), version, schema: Some(deleted) }];
        if self.versions(subject, Deleted::Without).count() == 1 {
            self.unset(subject, &mut records);
        }
        Ok(Plan { records, answer: Answer::Number(version) })
    }

    fn plan_delete_subject(&self, subject: &Subject, permanent: bool) -> Planned {
        if !self.has(Some(subject), Deleted::With) {
            return Err(SchemaError::SubjectNotFound(subject.clone()));
        }
        if !permanent && !self.has(Some(subject), Deleted::Without) {
            return Err(SchemaError::SubjectSoftDeleted(subject.clone()));
        }
        self.may_write(Some(subject))?;
        let taken = if permanent { Deleted::With } else { Deleted::Without };
        let mut versions = Vec::new();
        for (version, schema) in self.versions(subject, taken) {
            self.is_free(subject, version)?;
            if permanent && !schema.deleted {
                return Err(SchemaError::SubjectNotSoftDeleted(subject.clone()));
            }
            versions.push(version);
        }
        let mut records = Vec::new();
        if permanent {
            let gone = |version: &i32| Record::Schema { subject: subject.clone(), version: *version, schema: None };
            records.extend(versions.iter().map(gone));
        } else {
            let up_to = versions.last().copied().unwrap_or_default();
            records.push(Record::DeleteSubject { subject: subject.clone(), up_to });
            self.unset(subject, &mut records);
        }
        Ok(Plan { records, answer: Answer::Numbers(versions) })
    }

    /// No schema refers to it.
    fn is_free(&self, subject: &Subject, version: i32) -> Result<(), SchemaError> {
        match self.referrers(subject, version).next() {
            None => Ok(()),
            Some(_) => Err(SchemaError::ReferenceExists(subject.clone(), version)),
        }
    }

    /// A subject without versions has no settings: one of that name later starts afresh.
    fn unset(&self, subject: &Subject, records: &mut Vec<Record>) {
        let of = Some(subject.clone());
        if self.mode(Some(subject)).is_some() {
            records.push(Record::Mode { subject: of.clone(), mode: None });
        }
        if self.config(Some(subject)).is_some() {
            records.push(Record::Config { subject: of, config: None });
        }
    }

    fn plan_config(&self, subject: Option<&Subject>, change: &Config) -> Planned {
        self.check_place(subject)?;
        self.may_write(subject)?;
        let config = self.config(subject).cloned().unwrap_or_default().updated(change.clone());
        let records = vec![Record::Config { subject: subject.cloned(), config: Some(config) }];
        Ok(Plan { records, answer: Answer::ConfigSet(change.clone()) })
    }

    fn plan_delete_config(&self, subject: Option<&Subject>) -> Planned {
        let old = match (self.config(subject), subject) {
            (Some(config), _) => config.clone(),
            (None, Some(subject)) => return Err(SchemaError::SubjectNotFound(subject.clone())),
            (None, None) => {
                Config { level: Some(self.config_in_scope(None).level.unwrap_or_default()), ..Config::default() }
            }
        };
        self.may_write(subject)?;
        let records = vec![Record::Config { subject: subject.cloned(), config: None }];
        Ok(Plan { records, answer: Answer::Config(old) })
    }

    fn plan_mode(&self, subject: Option<&Subject>, mode: Mode, force: bool) -> Planned {
        self.check_place(subject)?;
        let mut records = Vec::new();
        if mode == Mode::Import && self.mode_in_scope(subject) != Mode::Import && !force {
            if self.has(subject, Deleted::Without) {
                let why = "Cannot import since found existing subjects".to_owned();
                return Err(SchemaError::NotPermitted(why));
            }
            for of in self.matching(subject, Deleted::With) {
                for (version, _) in self.versions(of, Deleted::With) {
                    self.is_free(of, version)?;
                    records.push(Record::Schema { subject: of.clone(), version, schema: None });
                }
            }
            records.push(Record::ClearSubject { subject: subject.cloned() });
        }
        records.push(Record::Mode { subject: subject.cloned(), mode: Some(mode) });
        Ok(Plan { records, answer: Answer::Mode(mode) })
    }

    fn plan_delete_mode(&self, subject: Option<&Subject>) -> Planned {
        let old = match (self.mode(subject), subject) {
            (Some(mode), _) => mode,
            (None, Some(subject)) => return Err(SchemaError::SubjectNotFound(subject.clone())),
            (None, None) => Mode::default(),
        };
        let records = vec![Record::Mode { subject: subject.cloned(), mode: None }];
        Ok(Plan { records, answer: Answer::Mode(old) })
    }

    fn plan_delete_context(&self, context: &Context) -> Planned {
        if self.has(Some(&Subject::new(context, "")), Deleted::With) {
            return Err(SchemaError::ContextNotEmpty(context.clone()));
        }
        let records = vec![Record::Context { context: context.clone(), is_used: false }];
        Ok(Plan { records, answer: Answer::Nothing })
    }

    /// Settings may lie on subjects, contexts, and the context that stands for all.
    fn check_place(&self, subject: Option<&Subject>) -> Result<(), SchemaError> {
        match subject {
            Some(subject) if !subject.is_place() => Err(SchemaError::InvalidSubject(subject.to_string())),
            _ => Ok(()),
        }
    }
}

fn registered(schema: &Registered, version: i32, changed: Option<Box<Definition>>) -> Answer {
    let guid = schema.guid.unwrap_or_else(|| schema.definition.fingerprint().guid());
    Answer::Registered { id: schema.id, version, guid, changed }
}

/// The kinds of rules that a rule set holds.
const RULE_LISTS: [&str; 3] = ["migrationRules", "domainRules", "encodingRules"];

/// `over` laid over `under`: of rules with one name, that of `over` stays.
fn merged_rules(under: Option<&Json>, over: Option<&Json>) -> Option<Json> {
    let (Some(under), Some(over)) = (under, over) else { return under.or(over).cloned() };
    let list = |rules: &Json, name: &str| rules.given(name).and_then(Json::as_array).unwrap_or_default().to_vec();
    let name = |rule: &Json| rule.get("name").and_then(Json::as_str).map(ToOwned::to_owned);
    let merged = |of: &str| {
        let above = list(over, of);
        let mut rules = list(under, of);
        rules.retain(|rule| above.iter().all(|other| name(other) != name(rule)));
        rules.extend(above);
        rules
    };
    let lists = RULE_LISTS.into_iter().map(|of| (of.to_owned(), merged(of))).filter(|(_, rules)| !rules.is_empty());
    Some(Json::Object(lists.map(|(of, rules)| (of, Json::Array(rules))).collect()))
}

struct Old<'a> {
    state: &'a State,
    found: &'a Found<'a>,
}

impl Earlier for Old<'_> {
    type Error = SchemaError;

    fn version(&self) -> i32 {
        self.found.version
    }

    fn text(&self) -> &str {
        &self.found.schema.definition.text
    }

    fn parsed(&self) -> Result<Arc<Parsed>, SchemaError> {
        self.state.reread(self.found.subject, &self.found.schema.definition)
    }
}
