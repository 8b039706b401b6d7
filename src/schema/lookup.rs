//! Finding schemas: by name over all contexts, by id, by text, and those that a schema refers to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::canonical::{ParseError, Parsed, Resolved, Strictness};
use super::definition::{Definition, Metadata, Reference};
use super::error::SchemaError;
use super::limits::{REFERENCES_MAX, RESOLVED_BYTES_MAX, RESOLVED_MAX, SCHEMA_BYTES_MAX};
use super::record::Registered;
use super::request::{Submitted, VersionId};
use super::state::{Deleted, State};
use super::subject::{Context, Subject};

/// A schema that was sent, read and put into the form in which it is stored.
#[derive(Clone, Debug)]
pub(super) struct ReadSchema {
    pub(super) parsed: Parsed,
    pub(super) definition: Definition,
}

/// A version that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) subject: &'a Subject,
    pub(super) version: i32,
    pub(super) schema: &'a Registered,
}

impl State {
    pub(super) fn get<'a>(&'a self, subject: &'a Subject, version: VersionId, deleted: Deleted) -> Option<Found<'a>> {
        let (version, schema) = match version {
            VersionId::Latest => self.latest(subject)?,
            VersionId::Number(version) => (version, self.version(subject, version, deleted)?),
        };
        Some(Found { subject, version, schema })
    }

    /// As [`State::get`]; a subject of the default context is looked for in the other contexts too.
    pub(super) fn get_anywhere(
        &self,
        subject: &Subject,
        version: VersionId,
        deleted: Deleted,
    ) -> Option<(Subject, i32, &Registered)> {
        self.homes(subject).into_iter().find_map(|home| {
            let version = self.get(&home, version, deleted)?.version;
            let schema = self.version(&home, version, Deleted::With)?;
            Some((home, version, schema))
        })
    }

    /// The subject as it is named, then with each context if it is named without one.
    fn homes(&self, subject: &Subject) -> Vec<Subject> {
        let mut homes = vec![subject.clone()];
        if subject.context().is_default() && !subject.is_context() {
            homes.extend(self.contexts().map(|context| Subject::new(context, subject.name())));
        }
        homes
    }

    /// A place of an id, soft-deleted ones included: in the context of `subject`, in a subject of that name in another
    /// context, or anywhere in the default context.
    pub(super) fn place_of_id(&self, id: i32, subject: Option<&Subject>) -> Option<Found<'_>> {
        let in_context = |context: &Context, of: Option<&Subject>| {
            let mut places = self.places(context, id);
            places.find(|(place, _)| of.is_none_or(|of| of == *place))
        };
        let place = match subject {
            None => in_context(&Context::default(), None),
            Some(subject) if subject.is_context() => in_context(&subject.context(), None),
            Some(subject) => {
                let homes = self.homes(subject);
                let found = homes.iter().find_map(|home| in_context(&home.context(), Some(home)));
                found.or_else(|| in_context(&subject.context(), None))
            }
        };
        let (subject, version) = place?;
        Some(Found { subject, version, schema: self.version(subject, version, Deleted::With)? })
    }

    /// All places of the schema that an id stands for.
    pub(super) fn places_of_id(
        &self,
        id: i32,
        subject: Option<&Subject>,
        deleted: bool,
    ) -> Option<Vec<(Subject, i32)>> {
        let context = self.place_of_id(id, subject)?.subject.context();
        let taken = Deleted::new(deleted, false);
        let places =
            self.places(&context, id).filter(|(place, version)| self.version(place, *version, taken).is_some());
        Some(places.map(|(place, version)| (place.clone(), version)).collect())
    }

    /// The schemas that `references` name, each after those that it refers to itself.
    pub(super) fn resolve(&self, subject: &Subject, references: &[Reference]) -> Result<Vec<Resolved>, SchemaError> {
        if references.len() > REFERENCES_MAX {
            return Err(invalid(format!("more than {REFERENCES_MAX} references")));
        }
        let mut resolving = Resolving { state: self, found: Vec::new(), names: BTreeSet::new(), bytes: 0, depth: 0 };
        resolving.all(subject, references)?;
        Ok(resolving.found)
    }

    /// Reads a schema that a client sends for `subject`.
    pub(super) fn read(
        &self,
        subject: &Subject,
        submitted: &Submitted,
        strictness: Strictness,
        normalize: bool,
    ) -> Result<ReadSchema, SchemaError> {
        let Some(text) = submitted.text.as_deref().filter(|text| !text.trim().is_empty()) else {
            return Err(invalid("Empty schema"));
        };
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError::TooLarge { found: text.len(), max: SCHEMA_BYTES_MAX });
        }
        let mut references = self.settled(subject, &submitted.references)?;
        let resolved = self.resolve(subject, &references)?;
        let kind = submitted.kind;
        let refused = |error: ParseError| invalid(format!("Invalid schema of type {kind}, details: {error}"));
        let parsed = Parsed::parse(kind, text, &resolved, strictness).map_err(refused)?;
        let text = if normalize { parsed.normalized() } else { parsed.canonical() };
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError::TooLarge { found: text.len(), max: SCHEMA_BYTES_MAX });
        }
        if normalize {
            references.sort();
            references.dedup();
        }
        let (metadata, rules) = (submitted.metadata.clone(), submitted.rules.clone());
        Ok(ReadSchema { parsed, definition: Definition { kind, text, references, metadata, rules } })
    }

    /// Reads a schema that is registered.
    pub(super) fn reread(&self, subject: &Subject, definition: &Definition) -> Result<Arc<Parsed>, SchemaError> {
        let (context, print) = (subject.context(), definition.fingerprint());
        if let Some(parsed) = self.rereads().get(&context, print) {
            return Ok(parsed);
        }
        let resolved = self.resolve(subject, &definition.references)?;
        let kind = definition.kind;
        let broken = |error| invalid(format!("A registered schema of type {kind} cannot be read: {error}"));
        let parsed = Arc::new(Parsed::parse(kind, &definition.text, &resolved, Strictness::Known).map_err(broken)?);
        let bytes = resolved.iter().map(|resolved| resolved.text.len()).sum::<usize>() + definition.text.len();
        self.rereads().keep(&context, print, &parsed, bytes);
        Ok(parsed)
    }

    /// With the number in place of −1, so that a later version does not change what the schema means.
    fn settled(&self, subject: &Subject, references: &[Reference]) -> Result<Vec<Reference>, SchemaError> {
        let settle = |reference: &Reference| {
            let mut reference = reference.clone();
            if reference.version == -1 {
                let of = Subject::parse_beside(&reference.subject, subject);
                reference.version = self.latest(&of).ok_or_else(|| missing(&reference))?.0;
            }
            Ok(reference)
        };
        references.iter().map(settle).collect()
    }

    /// The version of `subject` that is this schema.
    pub(super) fn find(&self, subject: &Subject, schema: &ReadSchema, deleted: Deleted) -> Option<(i32, &Registered)> {
        if let Some(id) = self.id_of(&subject.context(), schema.definition.fingerprint())
            && let Some((_, version)) = self.places(&subject.context(), id).find(|(place, _)| *place == subject)
            && let Some(found) = self.version(subject, version, deleted)
        {
            return Some((version, found));
        }
        self.versions(subject, deleted).rev().find(|(_, old)| self.is_same(subject, schema, &old.definition))
    }

    /// Does `old` differ only in its version property, or in having references where `new` has their types inside?
    fn is_same(&self, subject: &Subject, new: &ReadSchema, old: &Definition) -> bool {
        let definition = &new.definition;
        let bare = |metadata: &Option<Metadata>| metadata.as_ref().and_then(Metadata::without_version);
        let asks_for_version = definition.metadata.as_ref().is_some_and(|metadata| metadata.version().is_some());
        let metadata = if asks_for_version {
            definition.metadata == old.metadata
        } else {
            bare(&definition.metadata) == bare(&old.metadata)
        };
        if definition.kind != old.kind || !metadata || definition.rules != old.rules {
            return false;
        }
        if (&definition.text, &definition.references) == (&old.text, &old.references) {
            return true;
        }
        definition.references.is_empty()
            && !old.references.is_empty()
            && self.reread(subject, old).is_ok_and(|old| old.inlined() == new.parsed.inlined())
    }
}

fn invalid(why: impl Into<String>) -> SchemaError {
    SchemaError::InvalidSchema(why.into())
}

fn missing(reference: &Reference) -> SchemaError {
    let Reference { name, subject, version } = reference;
    invalid(format!("No schema reference found for subject \"{subject}\" and version {version} (reference \"{name}\")"))
}

struct Resolving<'a> {
    state: &'a State,
    found: Vec<Resolved>,
    names: BTreeSet<String>,
    bytes: usize,
    depth: usize,
}

impl Resolving<'_> {
    fn all(&mut self, parent: &Subject, references: &[Reference]) -> Result<(), SchemaError> {
        self.depth += 1;
        if self.depth > REFERENCES_DEPTH_MAX {
            return Err(invalid(format!("references nest deeper than {REFERENCES_DEPTH_MAX} levels")));
        }
        for reference in references {
            if reference.name.is_empty() || reference.subject.is_empty() {
                return Err(invalid("a reference without a name or a subject"));
            }
            if !self.names.insert(reference.name.clone()) {
                continue;
            }
            let subject = Subject::parse_beside(&reference.subject, parent);
            let version = self.state.version(&subject, reference.version, Deleted::With);
            let definition = &version.ok_or_else(|| missing(reference))?.definition;
            self.bytes += definition.text.len();
            if self.names.len() > RESOLVED_MAX || self.bytes > RESOLVED_BYTES_MAX {
                return Err(invalid(format!(
                    "the references lead to more than {RESOLVED_MAX} schemas or {RESOLVED_BYTES_MAX} bytes"
                )));
            }
            self.all(&subject, &definition.references)?;
            self.found.push(Resolved { name: reference.name.clone(), text: definition.text.clone() });
        }
        self.depth -= 1;
        Ok(())
    }
}

/// Levels of references in references.
const REFERENCES_DEPTH_MAX: usize = 100;
