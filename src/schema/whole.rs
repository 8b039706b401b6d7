//! A registered schema as a reader of data needs it: with the texts of all that it refers to.

use super::canonical::Resolved;
use super::definition::{Guid, SchemaKind};
use super::request::VersionId;
use super::state::{Deleted, State};
use super::subject::{Context, Subject};

/// Which schema a reader of data asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Of the default context.
    Id(i32),
    Guid(Guid),
    /// The newest version of a subject that is not deleted.
    Latest(Subject),
}

/// See the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeSchema {
    /// In the context of its subject.
    pub id: i32,
    pub kind: SchemaKind,
    pub text: String,
    /// Each after those that it refers to itself. Empty if one of them is no longer registered.
    pub references: Vec<Resolved>,
}

impl State {
    /// Soft-deleted schemas are found by id and by GUID.
    #[must_use]
    pub fn whole(&self, wanted: &Wanted) -> Option<WholeSchema> {
        let of_context = |context: &Context, id| self.place_of_id(id, Some(&Subject::new(context, "")));
        let found = match wanted {
            Wanted::Id(id) => of_context(&Context::default(), *id)?,
            Wanted::Guid(guid) => {
                let all = std::iter::once(Context::default()).chain(self.contexts().cloned());
                let mut found = all.filter_map(|context| of_context(&context, self.id_of_guid(&context, *guid)?));
                found.next()?
            }
            Wanted::Latest(subject) => self.get(subject, VersionId::Latest, Deleted::Without)?,
        };
        let definition = &found.schema.definition;
        let references = self.resolve(found.subject, &definition.references).unwrap_or_default();
        Some(WholeSchema { id: found.schema.id, kind: definition.kind, text: definition.text.clone(), references })
    }
}

#[cfg(test)]
mod tests {
    use super::super::definition::{Definition, Reference};
    use super::super::record::{Record, Registered};
    use super::*;

    fn schema(subject: &str, id: i32, text: &str, references: &[&str]) -> Record {
        let reference = |of: &&str| Reference { name: format!("{of}!"), subject: (*of).to_owned(), version: 1 };
        let references = references.iter().map(reference).collect();
        let definition = Definition { text: text.to_owned(), references, ..Definition::default() };
        let schema = Registered { id, guid: None, definition, deleted: false };
        Record::Schema { subject: Subject::parse(subject), version: 1, schema: Some(schema) }
    }

    #[test]
    fn references_come_before_those_that_need_them() {
        let mut state = State::default();
        let records = [
            schema("a", 1, "A", &[]),
            schema("b", 2, "B", &["a"]),
            schema("c", 3, "C", &["b", "a"]),
            Record::Context { context: Context::parse(".dev"), is_used: true },
            schema(":.dev:d", 1, "D", &[]),
        ];
        records.into_iter().for_each(|record| state.apply(record));
        let of = |wanted: &Wanted| {
            let WholeSchema { text, references, .. } = state.whole(wanted)?;
            let references = references.into_iter().map(|found| format!("{}={}", found.name, found.text));
            Some((text, references.collect::<Vec<_>>()))
        };
        let wanted = Some(("C".to_owned(), vec!["a!=A".to_owned(), "b!=B".to_owned()]));
        assert_eq!(of(&Wanted::Id(3)), wanted);
        assert_eq!(of(&Wanted::Latest(Subject::parse("c"))), wanted);
        let newest = state.whole(&Wanted::Latest(Subject::parse("c"))).map(|found| found.id);
        assert_eq!(newest, Some(3));
        let print = |text: &str| Definition { text: text.into(), ..Definition::default() }.fingerprint();
        assert_eq!(of(&Wanted::Guid(print("D").guid())), Some(("D".to_owned(), Vec::new())), "of any context");
        assert_eq!(of(&Wanted::Id(4)), None);
        assert_eq!(of(&Wanted::Latest(Subject::parse("x"))), None);
    }
}
