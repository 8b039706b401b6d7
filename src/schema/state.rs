//! All that the registry knows: rebuilt from the records of `_schemas`, one after the other.
//!
//! [`State::apply`] is the only way to change it, so that a broker that follows the log has the state of the one that
//! wrote it. A version that is soft deleted stays: its id still answers, since data that was written with it may be
//! read.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{Fingerprint, Guid};
use super::record::{Record, Registered};
use super::rereads::Rereads;
use super::settings::{Config, Mode};
use super::subject::{Context, Subject};

/// Every subject, version, id and setting.
#[derive(Clone, Debug, Default)]
pub struct State {
    subjects: BTreeMap<Subject, BTreeMap<i32, Registered>>,
    contexts: BTreeMap<Context, Ids>,
    /// Contexts besides the default one.
    used: BTreeSet<Context>,
    configs: BTreeMap<Option<Subject>, Config>,
    modes: BTreeMap<Option<Subject>, Mode>,
    /// By version referred to, the versions that do and are not deleted.
    referrers: BTreeMap<(Subject, i32), BTreeSet<(Subject, i32)>>,
    /// The newest lineage epoch of a restored cluster that has left ids out; 0: none has.
    lineage: u32,
    rereads: Rereads,
}

/// The ids of a context.
#[derive(Clone, Debug)]
struct Ids {
    /// Where each id is registered: at most one version a subject.
    places: BTreeMap<i32, BTreeMap<Subject, i32>>,
    by_print: BTreeMap<Fingerprint, i32>,
    by_guid: BTreeMap<Guid, i32>,
    next: i32,
}

impl Default for Ids {
    fn default() -> Self {
        Self { places: BTreeMap::new(), by_print: BTreeMap::new(), by_guid: BTreeMap::new(), next: 1 }
    }
}

/// Which versions a listing takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deleted {
    #[default]
    Without,
    With,
    Only,
}

impl Deleted {
    /// `only` goes first where both are asked for.
    #[must_use]
    pub const fn new(with: bool, only: bool) -> Self {
        match (with, only) {
            (_, true) => Self::Only,
            (true, false) => Self::With,
            (false, false) => Self::Without,
        }
    }

    #[must_use]
    pub const fn takes(self, deleted: bool) -> bool {
        match self {
            Self::Without => !deleted,
            Self::With => true,
            Self::Only => deleted,
        }
    }
}

impl State {
    /// Takes a record into the state, in the order of the log.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Schema { subject, version, schema: Some(schema) } => self.set(&subject, version, schema),
            Record::Schema { subject, version, schema: None } => self.forget(&subject, version),
            Record::Config { subject, config: Some(config) } => drop(self.configs.insert(subject, config)),
            Record::Config { subject, config: None } => drop(self.configs.remove(&subject)),
            Record::Mode { subject, mode: Some(mode) } => drop(self.modes.insert(subject, mode)),
            Record::Mode { subject, mode: None } => drop(self.modes.remove(&subject)),
            Record::Context { context, is_used } => match is_used && !context.is_default() {
                true => drop(self.used.insert(context)),
                false => drop(self.used.remove(&context)),
            },
            Record::DeleteSubject { subject, up_to } => self.delete(&subject, up_to),
            Record::ClearSubject { subject } => self.clear(subject.as_ref()),
            Record::Noop => {}
            Record::NextId { context, next, lineage } => {
                self.lineage = self.lineage.max(lineage.unwrap_or_default());
                let ids = self.contexts.entry(context).or_default();
                ids.next = ids.next.max(next);
            }
        }
    }

    fn set(&mut self, subject: &Subject, version: i32, schema: Registered) {
        self.forget(subject, version);
        let context = subject.context();
        let print = schema.definition.fingerprint();
        let ids = self.contexts.entry(context).or_default();
        ids.places.entry(schema.id).or_default().insert(subject.clone(), version);
        ids.by_print.insert(print, schema.id);
        ids.by_guid.insert(schema.guid.unwrap_or_else(|| print.guid()), schema.id);
        ids.next = ids.next.max(schema.id.saturating_add(1));
        if !schema.deleted {
            for reference in &schema.definition.references {
                let of = (Subject::parse_beside(&reference.subject, subject), reference.version);
                self.referrers.entry(of).or_default().insert((subject.clone(), version));
            }
        }
        self.subjects.entry(subject.clone()).or_default().insert(version, schema);
    }

    /// An id that has no place left is forgotten with its text, so that the text gets a new one.
    fn forget(&mut self, subject: &Subject, version: i32) {
        let Some(versions) = self.subjects.get_mut(subject) else { return };
        let Some(schema) = versions.remove(&version) else { return };
        self.rereads.forget();
        if versions.is_empty() {
            self.subjects.remove(subject);
        }
        self.unrefer(subject, version, &schema);
        let Some(ids) = self.contexts.get_mut(&subject.context()) else { return };
        let Some(places) = ids.places.get_mut(&schema.id) else { return };
        if places.get(subject) == Some(&version) {
            places.remove(subject);
        }
        if places.is_empty() {
            ids.places.remove(&schema.id);
            let print = schema.definition.fingerprint();
            let guid = schema.guid.unwrap_or_else(|| print.guid());
            if ids.by_print.get(&print) == Some(&schema.id) {
                ids.by_print.remove(&print);
            }
            if ids.by_guid.get(&guid) == Some(&schema.id) {
                ids.by_guid.remove(&guid);
            }
        }
    }

    fn unrefer(&mut self, subject: &Subject, version: i32, schema: &Registered) {
        for reference in &schema.definition.references {
            let of = (Subject::parse_beside(&reference.subject, subject), reference.version);
            if let Some(referrers) = self.referrers.get_mut(&of) {
                referrers.remove(&(subject.clone(), version));
                if referrers.is_empty() {
                    self.referrers.remove(&of);
                }
            }
        }
    }

    fn delete(&mut self, subject: &Subject, up_to: i32) {
        let Some(versions) = self.subjects.get_mut(subject) else { return };
        let mut deleted = Vec::new();
        for (version, schema) in versions.range_mut(..=up_to).filter(|(_, schema)| !schema.deleted) {
            schema.deleted = true;
            deleted.push((*version, schema.clone()));
        }
        for (version, schema) in deleted {
            self.unrefer(subject, version, &schema);
        }
    }

    fn clear(&mut self, of: Option<&Subject>) {
        let found = self.subjects.iter().filter(|(subject, _)| matches(of, subject));
        let places = found.flat_map(|(subject, versions)| {
            let deleted = versions.iter().filter(|(_, schema)| schema.deleted);
            deleted.map(|(version, _)| (subject.clone(), *version))
        });
        for (subject, version) in places.collect::<Vec<_>>() {
            self.forget(&subject, version);
        }
    }

    /// The whole state as records, from which the same state is rebuilt.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let contexts = self.used.iter().map(|context| Record::Context { context: context.clone(), is_used: true });
        let lineage = (self.lineage > 0).then_some(self.lineage);
        let next =
            |(context, ids): (&Context, &Ids)| Record::NextId { context: context.clone(), next: ids.next, lineage };
        let next = self.contexts.iter().map(next);
        let schemas = self.subjects.iter().flat_map(|(subject, versions)| {
            versions.iter().map(|(version, schema)| Record::Schema {
                subject: subject.clone(),
                version: *version,
                schema: Some(schema.clone()),
            })
        });
        let configs = self
            .configs
            .iter()
            .map(|(subject, config)| Record::Config { subject: subject.clone(), config: Some(config.clone()) });
        let modes =
            self.modes.iter().map(|(subject, mode)| Record::Mode { subject: subject.clone(), mode: Some(*mode) });
        contexts.chain(next).chain(schemas).chain(configs).chain(modes).collect()
    }

    /// Records after which no id is given that a lost record may have used: `gap` ids of every context are left out,
    /// once in the lineage epoch of a restored cluster.
    #[must_use]
    pub fn skipping_ids(&self, gap: i32, lineage: u32) -> Vec<Record> {
        let mut contexts: BTreeSet<Context> = self.contexts.keys().chain(&self.used).cloned().collect();
        contexts.insert(Context::default());
        let skip = |context: Context| {
            let next = self.next_id(&context).saturating_add(gap);
            Record::NextId { context, next, lineage: Some(lineage) }
        };
        contexts.into_iter().map(skip).collect()
    }

    pub(super) const fn rereads(&self) -> &Rereads {
        &self.rereads
    }

    /// The newest lineage epoch in which [`State::skipping_ids`] was applied; 0: in none.
    #[must_use]
    pub const fn lineage(&self) -> u32 {
        self.lineage
    }

    /// Subjects, and versions in them, soft-deleted ones included.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.subjects.len(), self.subjects.values().map(BTreeMap::len).sum())
    }

    /// The versions of a subject, the lowest first.
    pub fn versions(&self, subject: &Subject, deleted: Deleted) -> impl DoubleEndedIterator<Item = (i32, &Registered)> {
        let versions = self.subjects.get(subject).into_iter().flatten();
        versions.map(|(version, schema)| (*version, schema)).filter(move |(_, schema)| deleted.takes(schema.deleted))
    }

    #[must_use]
    pub fn version(&self, subject: &Subject, version: i32, deleted: Deleted) -> Option<&Registered> {
        self.subjects.get(subject)?.get(&version).filter(|schema| deleted.takes(schema.deleted))
    }

    #[must_use]
    pub fn latest(&self, subject: &Subject) -> Option<(i32, &Registered)> {
        self.versions(subject, Deleted::Without).next_back()
    }

    /// One more than the highest version that there is or that is soft deleted.
    #[must_use]
    pub fn next_version(&self, subject: &Subject) -> i32 {
        self.versions(subject, Deleted::With).next_back().map_or(1, |(version, _)| version.saturating_add(1))
    }

    /// Is there a version in the subject, or in the context that `of` stands for?
    #[must_use]
    pub fn has(&self, of: Option<&Subject>, deleted: Deleted) -> bool {
        self.matching(of, deleted).next().is_some()
    }

    /// All subjects that [`State::has`] would find.
    pub fn matching<'a>(&'a self, of: Option<&'a Subject>, deleted: Deleted) -> impl Iterator<Item = &'a Subject> {
        let found = self.subjects.iter().filter(move |(subject, _)| matches(of, subject));
        let taken = found.filter(move |(_, versions)| versions.values().any(|schema| deleted.takes(schema.deleted)));
        taken.map(|(subject, _)| subject)
    }

    /// Subjects by the beginning of their names; `:*:` at its start stands for all contexts. One counts as deleted when
    /// all its versions are.
    pub fn by_prefix<'a>(&'a self, prefix: &'a str, deleted: Deleted) -> impl Iterator<Item = &'a Subject> {
        let everywhere = prefix.strip_prefix(":*:");
        let begins = move |subject: &Subject| match everywhere {
            Some(prefix) => subject.name().starts_with(prefix),
            None => subject.as_str().starts_with(prefix),
        };
        let found = self.subjects.iter().filter(move |(subject, _)| begins(subject));
        let taken = found.filter(move |(_, versions)| deleted.takes(versions.values().all(|schema| schema.deleted)));
        taken.map(|(subject, _)| subject)
    }

    /// Contexts in use besides the default one.
    pub fn contexts(&self) -> impl Iterator<Item = &Context> {
        self.used.iter()
    }

    /// Where an id of a context is registered, soft-deleted versions included.
    pub fn places(&self, context: &Context, id: i32) -> impl Iterator<Item = (&Subject, i32)> {
        let places = self.contexts.get(context).and_then(|ids| ids.places.get(&id));
        places.into_iter().flatten().map(|(subject, version)| (subject, *version))
    }

    /// The id that the schema has in the context, if it is registered there at all.
    #[must_use]
    pub fn id_of(&self, context: &Context, print: Fingerprint) -> Option<i32> {
        self.contexts.get(context)?.by_print.get(&print).copied()
    }

    #[must_use]
    pub fn id_of_guid(&self, context: &Context, guid: Guid) -> Option<i32> {
        self.contexts.get(context)?.by_guid.get(&guid).copied()
    }

    /// The id that the next new schema of the context gets.
    #[must_use]
    pub fn next_id(&self, context: &Context) -> i32 {
        self.contexts.get(context).map_or(1, |ids| ids.next)
    }

    /// Versions that refer to a version and are not deleted.
    pub fn referrers(&self, subject: &Subject, version: i32) -> impl Iterator<Item = &(Subject, i32)> {
        self.referrers.get(&(subject.clone(), version)).into_iter().flatten()
    }

    #[must_use]
    pub fn config(&self, of: Option<&Subject>) -> Option<&Config> {
        self.configs.get(&of.cloned())
    }

    /// What holds for a subject: its own settings over those of its context and those of all.
    #[must_use]
    pub fn config_in_scope(&self, of: Option<&Subject>) -> Config {
        let found = scope(of).into_iter().filter_map(|place| self.configs.get(&place));
        found.fold(Config::default(), |inner, outer| outer.updated(inner))
    }

    #[must_use]
    pub fn mode(&self, of: Option<&Subject>) -> Option<Mode> {
        match self.modes.get(&None) {
            Some(Mode::ReadOnlyOverride) => Some(Mode::ReadOnlyOverride),
            _ => self.modes.get(&of.cloned()).copied(),
        }
    }

    #[must_use]
    pub fn mode_in_scope(&self, of: Option<&Subject>) -> Mode {
        match self.modes.get(&None) {
            Some(Mode::ReadOnlyOverride) => Mode::ReadOnlyOverride,
            _ => scope(of).into_iter().find_map(|place| self.modes.get(&place).copied()).unwrap_or_default(),
        }
    }
}

/// The context whose settings lie under those of every context.
const GLOBAL_CONTEXT: &str = ":.__GLOBAL:";

/// Where settings of a subject are looked for, the nearest first.
fn scope(of: Option<&Subject>) -> Vec<Option<Subject>> {
    let mut places = Vec::new();
    let context = of.map(Subject::context).unwrap_or_default();
    places.extend(of.cloned().map(Some));
    places.push(if context.is_default() { None } else { Some(Subject::new(&context, "")) });
    places.push(Some(Subject::parse(GLOBAL_CONTEXT)));
    places.dedup();
    places
}

/// Is it the subject, or in the context that `of` stands for? Nothing stands for everything.
fn matches(of: Option<&Subject>, subject: &Subject) -> bool {
    of.is_none_or(|of| of == subject || (of.is_context() && of.context() == subject.context()))
}

#[cfg(test)]
mod tests {
    use super::super::definition::{Definition, Reference};
    use super::super::settings::Level;
    use super::*;

    fn schema(subject: &str, version: i32, id: i32, text: &str) -> Record {
        let definition = Definition { text: text.to_owned(), ..Definition::default() };
        let schema = Registered { id, guid: None, definition, deleted: false };
        Record::Schema { subject: Subject::parse(subject), version, schema: Some(schema) }
    }

    fn deleted(record: Record) -> Record {
        let Record::Schema { subject, version, schema: Some(schema) } = record else { unreachable!("a schema") };
        Record::Schema { subject, version, schema: Some(Registered { deleted: true, ..schema }) }
    }

    fn tombstone(subject: &str, version: i32) -> Record {
        Record::Schema { subject: Subject::parse(subject), version, schema: None }
    }

    fn built(records: impl IntoIterator<Item = Record>) -> State {
        let mut state = State::default();
        records.into_iter().for_each(|record| state.apply(record));
        state
    }

    fn names<'a>(subjects: impl Iterator<Item = &'a Subject>) -> Vec<&'a str> {
        subjects.map(Subject::as_str).collect()
    }

    #[test]
    fn ids_grow_and_are_not_given_again() {
        let mut state = built([schema("a", 1, 7, "x"), schema(":.c:a", 1, 3, "x")]);
        assert_eq!(state.next_id(&Context::default()), 8);
        assert_eq!(state.next_id(&Context::parse(".c")), 4);
        assert_eq!(state.next_id(&Context::parse(".new")), 1);
        state.apply(tombstone("a", 1));
        assert_eq!(state.next_id(&Context::default()), 8);
        let rebuilt = built(state.records());
        assert_eq!(rebuilt.next_id(&Context::default()), 8, "the record that used id 7 is not in the log any more");
        let restored = built(rebuilt.records().into_iter().chain(rebuilt.skipping_ids(1000, 2)));
        assert_eq!(restored.next_id(&Context::default()), 1008);
        assert_eq!(restored.next_id(&Context::parse(".c")), 1004);
    }

    #[test]
    fn a_state_is_rebuilt_from_its_records() {
        let config = Config { level: Some(Level::Full), ..Config::default() };
        let state = built([
            schema("a", 1, 1, "x"),
            deleted(schema("a", 2, 2, "y")),
            schema(":.c:b", 1, 1, "z"),
            Record::Context { context: Context::parse(".c"), is_used: true },
            Record::Config { subject: Some(Subject::parse("a")), config: Some(config) },
            Record::Mode { subject: None, mode: Some(Mode::ReadOnly) },
        ]);
        assert_eq!(built(state.records()).records(), state.records());
    }

    #[test]
    fn soft_deleted_versions_answer_by_id_and_are_not_listed() {
        let state = built([schema("a", 1, 1, "x"), schema("a", 2, 2, "y"), deleted(schema("a", 1, 1, "x"))]);
        let subject = Subject::parse("a");
        let versions = |deleted| state.versions(&subject, deleted).map(|(version, _)| version).collect::<Vec<_>>();
        assert_eq!(versions(Deleted::Without), [2]);
        assert_eq!(versions(Deleted::With), [1, 2]);
        assert_eq!(versions(Deleted::Only), [1]);
        assert_eq!(state.places(&Context::default(), 1).count(), 1);
    }

    #[test]
    fn deleting_a_subject_leaves_later_versions() {
        let delete = Record::DeleteSubject { subject: Subject::parse("a"), up_to: 1 };
        let mut state = built([schema("a", 1, 1, "x"), schema("a", 2, 2, "y"), delete]);
        assert_eq!(state.latest(&Subject::parse("a")).map(|(version, _)| version), Some(2));
        state.apply(Record::ClearSubject { subject: Some(Subject::parse("a")) });
        assert_eq!(state.versions(&Subject::parse("a"), Deleted::With).count(), 1);
        assert_eq!(state.next_version(&Subject::parse("a")), 3);
    }

    #[test]
    fn a_tombstone_frees_the_text_for_a_new_id() {
        let mut state = built([schema("a", 1, 1, "x"), schema("b", 1, 1, "x")]);
        let print = Definition { text: "x".into(), ..Definition::default() }.fingerprint();
        state.apply(tombstone("a", 1));
        assert_eq!(state.id_of(&Context::default(), print), Some(1));
        state.apply(tombstone("b", 1));
        assert_eq!(state.id_of(&Context::default(), print), None);
        assert_eq!(state.id_of_guid(&Context::default(), print.guid()), None);
    }

    #[test]
    fn referrers_are_those_that_are_not_deleted() {
        let referring = |deleted| {
            let reference = Reference { name: "n".into(), subject: "base".into(), version: 1 };
            let definition = Definition { text: "r".into(), references: vec![reference], ..Definition::default() };
            let schema = Registered { id: 2, guid: None, definition, deleted };
            Record::Schema { subject: Subject::parse("user"), version: 1, schema: Some(schema) }
        };
        let mut state = built([schema("base", 1, 1, "x"), referring(false)]);
        assert_eq!(state.referrers(&Subject::parse("base"), 1).count(), 1);
        state.apply(referring(true));
        assert_eq!(state.referrers(&Subject::parse("base"), 1).count(), 0);
    }

    #[test]
    fn prefixes_and_contexts_select_subjects() {
        let state = built([
            schema("orders-key", 1, 1, "a"),
            schema("orders-value", 1, 2, "b"),
            schema(":.dev:orders-value", 1, 1, "c"),
            deleted(schema("old", 1, 3, "d")),
        ]);
        let by = |prefix, deleted| names(state.by_prefix(prefix, deleted));
        assert_eq!(by(":*:", Deleted::Without), [":.dev:orders-value", "orders-key", "orders-value"]);
        assert_eq!(by(":*:orders-v", Deleted::Without), [":.dev:orders-value", "orders-value"]);
        assert_eq!(by(":.dev:", Deleted::Without), [":.dev:orders-value"]);
        assert_eq!(by("o", Deleted::Only), ["old"]);
        assert_eq!(by("o", Deleted::With), ["old", "orders-key", "orders-value"]);
        assert_eq!(names(state.matching(Some(&Subject::parse(":.dev:")), Deleted::With)), [":.dev:orders-value"]);
    }

    #[test]
    fn the_nearest_setting_holds() {
        let level = |level| Some(Config { level: Some(level), ..Config::default() });
        let at = |subject: &str| Some(Subject::parse(subject));
        let state = built([
            Record::Config { subject: None, config: level(Level::Full) },
            Record::Config { subject: at(":.c:"), config: level(Level::None) },
            Record::Config { subject: at("s"), config: Some(Config { normalize: Some(true), ..Config::default() }) },
            Record::Mode { subject: at("s"), mode: Some(Mode::Import) },
        ]);
        let in_scope = |subject: &str| state.config_in_scope(Some(&Subject::parse(subject)));
        assert_eq!((in_scope("s").level, in_scope("s").normalize), (Some(Level::Full), Some(true)));
        assert_eq!(in_scope(":.c:x").level, Some(Level::None));
        assert_eq!(in_scope(":.d:x").level, None);
        assert_eq!(state.mode_in_scope(Some(&Subject::parse("s"))), Mode::Import);
        let mut state = state;
        state.apply(Record::Mode { subject: None, mode: Some(Mode::ReadOnlyOverride) });
        assert_eq!(state.mode_in_scope(Some(&Subject::parse("s"))), Mode::ReadOnlyOverride);
    }
}
