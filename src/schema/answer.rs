//! Answers to queries: read from the state, nothing written.

use super::canonical::{Format, Strictness};
use super::definition::{Definition, SchemaKind};
use super::error::SchemaError;
use super::json::Json;
use super::lookup::Found;
use super::record::Registered;
use super::request::{Answer, Page, Query, Shown, Submitted, VersionId};
use super::settings::Config;
use super::state::{Deleted, State};
use super::subject::{Context, Subject};

type Answered = Result<Answer, SchemaError>;

/// The version of Confluent's registry whose contract is kept: newer clients look at it.
const CONTRACT_VERSION: &str = "7.9.0";

impl State {
    /// # Errors
    /// What is asked for does not exist, or a schema that was sent cannot be read.
    pub fn answer(&self, query: &Query) -> Answered {
        match query {
            Query::Kinds => Ok(Answer::Names(SchemaKind::ALL.iter().map(ToString::to_string).collect())),
            Query::Contexts => {
                let all = std::iter::once(Context::default()).chain(self.contexts().cloned());
                Ok(Answer::Names(all.map(|context| context.to_string()).collect()))
            }
            Query::Subjects { prefix, deleted, page } => {
                Ok(Answer::Names(page.of(self.by_prefix(prefix, *deleted).map(ToString::to_string))))
            }
            Query::Schemas { prefix, deleted, latest_only, page } => {
                Ok(self.schemas(prefix, *deleted, *latest_only, *page))
            }
            Query::Versions { subject, deleted, page } => self.version_numbers(subject, *deleted, *page),
            Query::Version { subject, version, deleted, format } => {
                self.shown_version(subject, *version, *deleted, *format).map(|shown| Answer::Schema(Box::new(shown)))
            }
            Query::VersionText { subject, version, deleted, format } => self
                .shown_version(subject, *version, *deleted, *format)
                .map(|shown| Answer::Text(shown.definition.text)),
            Query::ReferencedBy { subject, version } => self.referring_ids(subject, *version),
            Query::Id { id, subject, format, with_max_id } => {
                let mut shown = self.shown_id(*id, subject.as_ref(), *format)?;
                let context = subject.as_ref().map(Subject::context).unwrap_or_default();
                shown.max_id = with_max_id.then(|| self.next_id(&context) - 1);
                Ok(Answer::Schema(Box::new(shown)))
            }
            Query::IdText { id, subject, format } => {
                Ok(Answer::Text(self.shown_id(*id, subject.as_ref(), *format)?.definition.text))
            }
            Query::IdSubjects { id, subject, deleted } => {
                let places = self.places_of_id(*id, subject.as_ref(), *deleted);
                let places = places.ok_or(SchemaError::SchemaNotFound)?;
                Ok(Answer::Names(places.into_iter().map(|(subject, _)| subject.to_string()).collect()))
            }
            Query::IdVersions { id, subject, deleted } => {
                let places = self.places_of_id(*id, subject.as_ref(), *deleted);
                places.map(Answer::Places).ok_or(SchemaError::SchemaNotFound)
            }
            Query::Guid { guid, format } => {
                let context_of = |context: Context| Some((self.id_of_guid(&context, *guid)?, context));
                let all = std::iter::once(Context::default()).chain(self.contexts().cloned());
                let (id, context) = all.filter_map(context_of).next().ok_or(SchemaError::GuidNotFound(*guid))?;
                let shown = self.shown_id(id, Some(&Subject::new(&context, "")), *format)?;
                Ok(Answer::Schema(Box::new(shown)))
            }
            Query::GuidIds { guid } => {
                let all = std::iter::once(Context::default()).chain(self.contexts().cloned());
                let ids = all.filter_map(|context| Some((self.id_of_guid(&context, *guid)?, context)));
                Ok(Answer::Ids(ids.map(|(id, context)| (context, id)).collect()))
            }
            Query::Lookup { subject, schema, normalize, deleted, format } => {
                self.looked_up(subject, schema, *normalize, *deleted, *format)
            }
            Query::Compatibility { subject, version, schema, normalize, verbose } => {
                let messages = self.incompatibilities(subject, *version, schema, *normalize)?;
                let is_compatible = messages.is_empty();
                Ok(Answer::Compatible { is_compatible, messages: verbose.then_some(messages) })
            }
            Query::Config { subject, in_scope } => self.shown_config(subject.as_ref(), *in_scope),
            Query::Mode { subject, in_scope } => self.shown_mode(subject.as_ref(), *in_scope),
            Query::ServerVersion => {
                Ok(Answer::Json(Json::object([("version", CONTRACT_VERSION.into()), ("commitId", "".into())])))
            }
            Query::ClusterId => {
                let scope = Json::object([("path", Json::Array(Vec::new())), ("clusters", Json::Object(Vec::new()))]);
                Ok(Answer::Json(Json::object([("scope", scope), ("id", "".into())])))
            }
        }
    }

    /// The absence of a version: of its subject first.
    fn absent(&self, subject: &Subject, version: VersionId, deleted: Deleted) -> SchemaError {
        if !self.has(Some(subject), deleted) {
            return SchemaError::SubjectNotFound(subject.clone());
        }
        SchemaError::VersionNotFound(if let VersionId::Number(version) = version { version } else { -1 })
    }

    fn version_numbers(&self, subject: &Subject, deleted: Deleted, page: Page) -> Answered {
        let looked_for = if deleted == Deleted::Without { Deleted::Without } else { Deleted::With };
        if !self.has(Some(subject), looked_for) {
            return Err(SchemaError::SubjectNotFound(subject.clone()));
        }
        Ok(Answer::Numbers(page.of(self.versions(subject, deleted).map(|(version, _)| version))))
    }

    fn shown_version(
        &self,
        subject: &Subject,
        version: VersionId,
        deleted: bool,
        format: Format,
    ) -> Result<Shown, SchemaError> {
        let taken = Deleted::new(deleted, false);
        let found = self.get_anywhere(subject, version, taken);
        let (subject, version, schema) = found.ok_or_else(|| self.absent(subject, version, taken))?;
        self.shown(&subject, version, schema, format)
    }

    fn shown_id(&self, id: i32, subject: Option<&Subject>, format: Format) -> Result<Shown, SchemaError> {
        let Found { subject, version, schema } = self.place_of_id(id, subject).ok_or(SchemaError::IdNotFound(id))?;
        let shown = self.shown(subject, version, schema, format)?;
        Ok(Shown { subject: None, version: None, id: None, ..shown })
    }

    fn shown(
        &self,
        subject: &Subject,
        version: i32,
        schema: &Registered,
        format: Format,
    ) -> Result<Shown, SchemaError> {
        Ok(Shown {
            subject: Some(subject.clone()),
            version: Some(version),
            id: Some(schema.id),
            guid: schema.guid.unwrap_or_else(|| schema.definition.fingerprint().guid()),
            definition: self.in_format(subject, &schema.definition, format)?,
            max_id: None,
        })
    }

    fn in_format(&self, subject: &Subject, definition: &Definition, format: Format) -> Result<Definition, SchemaError> {
        let mut definition = definition.clone();
        if format != Format::Stored
            && let Some(text) = self.reread(subject, &definition)?.formatted(format)
        {
            definition.text = text;
        }
        Ok(definition)
    }

    fn schemas(&self, prefix: &str, deleted: Deleted, latest_only: bool, page: Page) -> Answer {
        let subjects = self.by_prefix(prefix, Deleted::With);
        let versions = subjects.flat_map(|subject| {
            let mut versions: Vec<_> = self.versions(subject, deleted).collect();
            if latest_only {
                versions.drain(..versions.len().saturating_sub(1));
            }
            versions.into_iter().map(move |(version, schema)| (subject, version, schema))
        });
        let shown = page.of(versions).into_iter().map(|(subject, version, schema)| Shown {
            subject: Some(subject.clone()),
            version: Some(version),
            id: Some(schema.id),
            guid: schema.guid.unwrap_or_else(|| schema.definition.fingerprint().guid()),
            definition: schema.definition.clone(),
            max_id: None,
        });
        Answer::Schemas(shown.collect())
    }

    fn referring_ids(&self, subject: &Subject, version: VersionId) -> Answered {
        let found = self.get_anywhere(subject, version, Deleted::With);
        let (subject, version, _) = found.ok_or_else(|| self.absent(subject, version, Deleted::With))?;
        let referrers = self.referrers(&subject, version);
        let ids = referrers.filter_map(|(of, version)| Some(self.version(of, *version, Deleted::With)?.id));
        let ids: std::collections::BTreeSet<i32> = ids.collect();
        Ok(Answer::Numbers(ids.into_iter().collect()))
    }

    fn looked_up(
        &self,
        subject: &Subject,
        schema: &Submitted,
        normalize: bool,
        deleted: bool,
        format: Format,
    ) -> Answered {
        let taken = Deleted::new(deleted, false);
        let normalize = normalize || self.config_in_scope(Some(subject)).normalize == Some(true);
        let contexts = self.contexts().filter(|_| subject.context().is_default());
        let elsewhere = contexts.map(|context| Subject::new(context, subject.name()));
        let mut first_error = None;
        for home in std::iter::once(subject.clone()).chain(elsewhere) {
            match self.read(&home, schema, Strictness::Known, normalize) {
                Ok(read) => {
                    if let Some((version, found)) = self.find(&home, &read, taken) {
                        return self.shown(&home, version, found, format).map(|shown| Answer::Schema(Box::new(shown)));
                    }
                }
                // Its references may be known in one context only.
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(match first_error {
            Some(error) => error,
            None if !self.has(Some(subject), taken) => SchemaError::SubjectNotFound(subject.clone()),
            None => SchemaError::SchemaNotFound,
        })
    }

    fn incompatibilities(
        &self,
        subject: &Subject,
        version: Option<VersionId>,
        schema: &Submitted,
        normalize: bool,
    ) -> Result<Vec<String>, SchemaError> {
        let config = self.config_in_scope(Some(subject));
        let normalize = normalize || config.normalize == Some(true);
        let earlier: Vec<Found<'_>> = match version {
            Some(version) => {
                let found = self.get(subject, version, Deleted::Without);
                if let (None, VersionId::Number(number)) = (&found, version) {
                    return Err(SchemaError::VersionNotFound(number));
                }
                found.into_iter().collect()
            }
            None => {
                let versions = self.versions(subject, Deleted::Without).rev();
                versions.map(|(version, schema)| Found { subject, version, schema }).collect()
            }
        };
        let read = self.read(subject, schema, Strictness::New, normalize)?;
        self.fit(&read, &earlier, &config)
    }

    fn shown_config(&self, subject: Option<&Subject>, in_scope: bool) -> Answered {
        let mut config = match (self.config(subject), subject) {
            _ if in_scope || subject.is_none() => self.config_in_scope(subject),
            (Some(config), _) => config.clone(),
            (None, Some(subject)) => return Err(SchemaError::NoSubjectConfig(subject.clone())),
            (None, None) => Config::default(),
        };
        if in_scope || subject.is_none() {
            config.level = Some(config.level.unwrap_or_default());
        }
        Ok(Answer::Config(config))
    }

    fn shown_mode(&self, subject: Option<&Subject>, in_scope: bool) -> Answered {
        let mode = match (self.mode(subject), subject) {
            _ if in_scope || subject.is_none() => self.mode_in_scope(subject),
            (Some(mode), _) => mode,
            (None, Some(subject)) => return Err(SchemaError::NoSubjectMode(subject.clone())),
            (None, None) => self.mode_in_scope(None),
        };
        Ok(Answer::Mode(mode))
    }
}
