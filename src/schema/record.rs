//! The records of `_schemas`, in the JSON that Confluent's registry writes and reads.
//!
//! | key | value | means |
//! |---|---|---|
//! | `SCHEMA` | a schema, or null | a version is registered or soft deleted; null: it never was |
//! | `CONFIG` | settings, or null | a subject's, a context's (empty name) or all subjects' |
//! | `MODE` | a mode, or null | the same |
//! | `CONTEXT` | its name, or null | a context is in use |
//! | `DELETE_SUBJECT` | a version | all versions up to that are soft deleted |
//! | `CLEAR_SUBJECT` | a subject | soft-deleted versions are forgotten |
//! | `NOOP` | nothing, or the ids below | nothing |
//!
//! Our own addition lies in the value of `NOOP`, which other readers skip: the next id of a context, so that an id is
//! not given again when the record that used it is no longer in the log (`{"context":".","nextId":7}`). In a restored
//! cluster `"lineage"` is with it: the cluster's lineage epoch, in which ids were left out.
//!
//! Keys of other kinds are left to others: [`RecordError::Kind`] says which, and a log that holds any is not cut.

use bytes::Bytes;

use super::definition::{Definition, Guid, Metadata, Reference, SchemaKind};
use super::json::Json;
use super::limits::{KEY_BYTES_MAX, REFERENCES_MAX, SCHEMA_BYTES_MAX, SUBJECT_BYTES_MAX, VALUE_BYTES_MAX};
use super::settings::{Config, Mode};
use super::subject::{Context, Subject};

/// A record's key and value.
pub type Pair = (Bytes, Option<Bytes>);

/// One change of the registry's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Schema {
        subject: Subject,
        version: i32,
        /// `None`: permanently deleted.
        schema: Option<Registered>,
    },
    /// Without a subject: of all subjects.
    Config {
        subject: Option<Subject>,
        config: Option<Config>,
    },
    Mode {
        subject: Option<Subject>,
        mode: Option<Mode>,
    },
    Context {
        context: Context,
        is_used: bool,
    },
    DeleteSubject {
        subject: Subject,
        /// Versions above stay.
        up_to: i32,
    },
    /// Without a subject: all subjects of the default context.
    ClearSubject {
        subject: Option<Subject>,
    },
    Noop,
    /// No id below is given again in the context.
    NextId {
        context: Context,
        next: i32,
        /// The lineage epoch of a restored cluster that has left ids out.
        lineage: Option<u32>,
    },
}

/// A schema in a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    pub id: i32,
    /// `None` in records of registries that have none: it follows from the definition.
    pub guid: Option<Guid>,
    pub definition: Definition,
    /// Soft deleted: not listed, but its id still answers.
    pub deleted: bool,
}

/// A record that changes nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Of a kind that this version does not know.
    #[error("kind {0:?} is not known")]
    Kind(String),
    #[error("{0}")]
    Malformed(String),
}

/// Confluent's name for the one tenant of a registry that is not its cloud's.
const TENANT: &str = "default";

fn malformed(why: impl Into<String>) -> RecordError {
    RecordError::Malformed(why.into())
}

impl Record {
    /// # Errors
    /// The record is of an unknown kind, longer than a cap, or not of its kind's form.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(malformed(format!("the key has {} bytes", key.len())));
        }
        if let Some(value) = value.filter(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(malformed(format!("the value has {} bytes", value.len())));
        }
        let key = Json::parse_bytes(key).map_err(|error| malformed(format!("key: {error}")))?;
        let kind = key.get("keytype").and_then(Json::as_str).ok_or(malformed("the key names no keytype"))?;
        let read = |value: &[u8]| Json::parse_bytes(value).map_err(|error| malformed(format!("value: {error}")));
        let value = value.map(read).transpose()?.filter(|value| *value != Json::Null);
        let subject = || optional_subject(&key)?.ok_or(malformed("the key names no subject"));
        Ok(match kind {
            "SCHEMA" => {
                let version = key.get("version").and_then(Json::as_i32).filter(|version| *version > 0);
                let version = version.ok_or(malformed("the key has no version above 0"))?;
                Self::Schema { subject: subject()?, version, schema: value.as_ref().map(registered).transpose()? }
            }
            "CONFIG" => {
                let config = value.as_ref().map(Config::from_json).transpose();
                let config = config.map_err(|error| malformed(format!("no settings: {error:?}")))?;
                Self::Config { subject: optional_subject(&key)?, config }
            }
            "MODE" => {
                let mode = |value: &Json| value.get("mode").and_then(Json::as_str).and_then(Mode::parse);
                let mode = value.as_ref().map(|value| mode(value).ok_or(malformed("no mode"))).transpose()?;
                Self::Mode { subject: optional_subject(&key)?, mode }
            }
            "CONTEXT" => {
                let context = key.get("context").and_then(Json::as_str).ok_or(malformed("no context"))?;
                Self::Context { context: Context::parse(context), is_used: value.is_some() }
            }
            "DELETE_SUBJECT" => match value {
                Some(value) => {
                    let up_to = value.get("version").and_then(Json::as_i32).ok_or(malformed("no version"))?;
                    Self::DeleteSubject { subject: subject()?, up_to }
                }
                None => Self::Noop,
            },
            "CLEAR_SUBJECT" => match value {
                Some(_) => Self::ClearSubject { subject: optional_subject(&key)? },
                None => Self::Noop,
            },
            "NOOP" => match value.as_ref().and_then(next_id) {
                Some((context, next, lineage)) => Self::NextId { context, next, lineage },
                None => Self::Noop,
            },
            other => return Err(RecordError::Kind(other.chars().take(64).collect())),
        })
    }

    #[must_use]
    pub fn encode(&self) -> Pair {
        let (key, value) = match self {
            Self::Schema { subject, version, schema } => {
                let value = schema.as_ref().map(|schema| registered_json(subject, *version, schema));
                (key_of("SCHEMA", Some(subject), Some(*version), 1), value)
            }
            Self::Config { subject, config } => {
                let value = config.as_ref().map(|config| of_subject(subject.as_ref(), &config.to_json(LEVEL)));
                (key_of("CONFIG", subject.as_ref(), None, 0), value)
            }
            Self::Mode { subject, mode } => {
                let printed = |mode: Mode| Json::object([("mode", mode.as_str().into())]);
                let value = mode.map(|mode| of_subject(subject.as_ref(), &printed(mode)));
                (key_of("MODE", subject.as_ref(), None, 0), value)
            }
            Self::Context { context, is_used } => {
                let named = |first: Option<&str>, magic: Option<i32>| {
                    Json::object([
                        ("keytype", first.into()),
                        ("tenant", TENANT.into()),
                        ("context", context.as_str().into()),
                        ("magic", magic.into()),
                    ])
                };
                (named(Some("CONTEXT"), Some(0)), is_used.then(|| named(None, None)))
            }
            Self::DeleteSubject { subject, up_to } => {
                let value = Json::object([("subject", subject.as_str().into()), ("version", (*up_to).into())]);
                (key_of("DELETE_SUBJECT", Some(subject), None, 0), Some(value))
            }
            Self::ClearSubject { subject } => {
                let value = of_subject(subject.as_ref(), &Json::Object(Vec::new()));
                (key_of("CLEAR_SUBJECT", subject.as_ref(), None, 0), Some(value))
            }
            Self::Noop => (noop_key(), None),
            Self::NextId { context, next, lineage } => {
                let lineage = lineage.map_or(Json::Null, |lineage| Json::Integer(lineage.to_string()));
                let members = [("context", context.as_str().into()), ("nextId", (*next).into()), ("lineage", lineage)];
                (noop_key(), Some(Json::object(members)))
            }
        };
        (Bytes::from(key.to_string()), value.map(|value| Bytes::from(value.to_string())))
    }
}

/// What the stored settings call the level.
const LEVEL: &str = "compatibilityLevel";

fn noop_key() -> Json {
    Json::object([("keytype", "NOOP".into()), ("magic", 0.into())])
}

/// `value` with the subject before its other members.
fn of_subject(subject: Option<&Subject>, value: &Json) -> Json {
    let named = subject.map(|subject| ("subject".to_owned(), subject.as_str().into()));
    let members = value.as_object().unwrap_or_default().iter().cloned();
    Json::Object(named.into_iter().chain(members).collect())
}

/// Settings without a subject have an explicit null there.
fn key_of(kind: &str, subject: Option<&Subject>, version: Option<i32>, magic: i32) -> Json {
    let mut members =
        vec![("keytype".to_owned(), kind.into()), ("subject".to_owned(), subject.map(Subject::as_str).into())];
    members.extend(version.map(|version| ("version".to_owned(), version.into())));
    members.push(("magic".to_owned(), magic.into()));
    Json::Object(members)
}

fn optional_subject(key: &Json) -> Result<Option<Subject>, RecordError> {
    match key.given("subject") {
        None => Ok(None),
        Some(Json::String(text)) if text.len() <= SUBJECT_BYTES_MAX => Ok(Some(Subject::parse(text))),
        Some(_) => Err(malformed("the subject is no string, or too long")),
    }
}

fn next_id(value: &Json) -> Option<(Context, i32, Option<u32>)> {
    let next = value.get("nextId")?.as_i32().filter(|next| *next > 0)?;
    let lineage = value.given("lineage").and_then(Json::as_i64).and_then(|lineage| u32::try_from(lineage).ok());
    Some((Context::parse(value.get("context")?.as_str()?), next, lineage))
}

fn registered(value: &Json) -> Result<Registered, RecordError> {
    let id = value.get("id").and_then(Json::as_i32).filter(|id| *id >= 0).ok_or(malformed("no id"))?;
    let kind = match value.given("schemaType") {
        None => SchemaKind::Avro,
        Some(kind) => kind.as_str().and_then(SchemaKind::parse).ok_or(malformed("an unknown schemaType"))?,
    };
    let text = value.get("schema").and_then(Json::as_str).ok_or(malformed("no schema"))?;
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(malformed(format!("the schema has {} bytes", text.len())));
    }
    let references = value.given("references").map_or(Some(&[][..]), Json::as_array);
    let references = references.ok_or(malformed("references are no array"))?;
    if references.len() > REFERENCES_MAX {
        return Err(malformed(format!("{} references", references.len())));
    }
    let references = references.iter().map(Reference::from_json).collect::<Option<Vec<_>>>();
    let metadata = value.given("metadata").map(|json| Metadata::from_json(json).ok_or(malformed("no metadata")));
    Ok(Registered {
        id,
        guid: value.given("guid").and_then(Json::as_str).and_then(Guid::parse),
        definition: Definition {
            kind,
            text: text.to_owned(),
            references: references.ok_or(malformed("a reference without name, subject or version"))?,
            metadata: metadata.transpose()?,
            rules: value.given("ruleSet").cloned(),
        },
        deleted: value.get("deleted").and_then(Json::as_bool).unwrap_or_default(),
    })
}

fn registered_json(subject: &Subject, version: i32, schema: &Registered) -> Json {
    let Registered { id, guid, definition, deleted } = schema;
    let references = &definition.references;
    let references =
        if references.is_empty() { Json::Null } else { Json::array(references.iter().map(Reference::to_json)) };
    Json::object([
        ("subject", subject.as_str().into()),
        ("version", version.into()),
        ("id", (*id).into()),
        ("guid", guid.map(|guid| guid.to_string()).into()),
        ("schemaType", definition.kind.in_json()),
        ("references", references),
        ("metadata", definition.metadata.as_ref().map_or(Json::Null, Metadata::to_json)),
        ("ruleSet", definition.rules.clone().unwrap_or_default()),
        ("schema", definition.text.as_str().into()),
        ("deleted", (*deleted).into()),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::settings::Level;
    use super::*;

    fn printed(record: &Record) -> (String, Option<String>) {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (key, value) = record.encode();
        (text(&key), value.as_ref().map(text))
    }

    fn schema(kind: SchemaKind, references: Vec<Reference>) -> Record {
        Record::Schema {
            subject: Subject::parse("Kafka-key"),
            version: 1,
            schema: Some(Registered {
                id: 1,
                guid: None,
                definition: Definition { kind, text: "\"string\"".into(), references, ..Definition::default() },
                deleted: false,
            }),
        }
    }

    /// Keys and values as they stand in a topic that Confluent's registry wrote.
    #[test]
    fn records_are_printed_as_confluents_registry_prints_them() {
        let subject = Some(Subject::parse("MySchema"));
        let full = Config { level: Some(Level::Full), ..Config::default() };
        let reference = Reference { name: "a.proto".into(), subject: "a".into(), version: 2 };
        for (record, key, value) in [
            (
                schema(SchemaKind::Avro, Vec::new()),
                r#"{"keytype":"SCHEMA","subject":"Kafka-key","version":1,"magic":1}"#,
                Some(r#"{"subject":"Kafka-key","version":1,"id":1,"schema":"\"string\"","deleted":false}"#),
            ),
            (
                schema(SchemaKind::Protobuf, vec![reference]),
                r#"{"keytype":"SCHEMA","subject":"Kafka-key","version":1,"magic":1}"#,
                Some(
                    r#"{"subject":"Kafka-key","version":1,"id":1,"schemaType":"PROTOBUF","references":[{"name":"a.proto","subject":"a","version":2}],"schema":"\"string\"","deleted":false}"#,
                ),
            ),
            (
                Record::Schema { subject: Subject::parse("s"), version: 2, schema: None },
                r#"{"keytype":"SCHEMA","subject":"s","version":2,"magic":1}"#,
                None,
            ),
            (
                Record::Config { subject: None, config: Some(full.clone()) },
                r#"{"keytype":"CONFIG","subject":null,"magic":0}"#,
                Some(r#"{"compatibilityLevel":"FULL"}"#),
            ),
            (
                Record::Config { subject: subject.clone(), config: Some(full) },
                r#"{"keytype":"CONFIG","subject":"MySchema","magic":0}"#,
                Some(r#"{"subject":"MySchema","compatibilityLevel":"FULL"}"#),
            ),
            (
                Record::Mode { subject: None, mode: Some(Mode::ReadOnly) },
                r#"{"keytype":"MODE","subject":null,"magic":0}"#,
                Some(r#"{"mode":"READONLY"}"#),
            ),
            (Record::Mode { subject, mode: None }, r#"{"keytype":"MODE","subject":"MySchema","magic":0}"#, None),
            (
                Record::DeleteSubject { subject: Subject::parse("s"), up_to: 2 },
                r#"{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}"#,
                Some(r#"{"subject":"s","version":2}"#),
            ),
            (
                Record::ClearSubject { subject: Some(Subject::parse("s")) },
                r#"{"keytype":"CLEAR_SUBJECT","subject":"s","magic":0}"#,
                Some(r#"{"subject":"s"}"#),
            ),
            (
                Record::Context { context: Context::parse(".dev"), is_used: true },
                r#"{"keytype":"CONTEXT","tenant":"default","context":".dev","magic":0}"#,
                Some(r#"{"tenant":"default","context":".dev"}"#),
            ),
            (Record::Noop, r#"{"keytype":"NOOP","magic":0}"#, None),
            (
                Record::NextId { context: Context::default(), next: 7, lineage: None },
                r#"{"keytype":"NOOP","magic":0}"#,
                Some(r#"{"context":".","nextId":7}"#),
            ),
        ] {
            assert_eq!(printed(&record), (key.to_owned(), value.map(ToOwned::to_owned)));
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
        }
    }

    #[test]
    fn other_writers_records_are_read() {
        let read = |key: &str, value: Option<&str>| Record::decode(key.as_bytes(), value.map(str::as_bytes));
        let old = read(
            r#"{"subject":"s","version":1,"magic":0,"keytype":"SCHEMA"}"#,
            Some(r#"{"subject":"s","version":1,"id":21,"md5":"x","schema":"\"string\"","ts":1,"offset":3}"#),
        );
        let Ok(Record::Schema { schema: Some(schema), .. }) = old else { unreachable!("{old:?}") };
        assert_eq!((schema.id, schema.deleted, schema.guid), (21, false, None));
        let given = read(
            r#"{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}"#,
            Some(
                r#"{"id":1,"guid":"0e2b9b2c-6f1b-8a4b-9c3d-3f2f7f5a1b0c","schemaType":"AVRO","metadata":null,"ruleSet":null,"references":null,"schema":"\"int\""}"#,
            ),
        );
        let Ok(Record::Schema { schema: Some(schema), .. }) = given else { unreachable!("{given:?}") };
        assert_eq!(schema.guid.map(|guid| guid.to_string()).as_deref(), Some("0e2b9b2c-6f1b-8a4b-9c3d-3f2f7f5a1b0c"));
        assert_eq!((schema.definition.metadata, schema.definition.rules), (None, None));
        let global =
            Record::Config { subject: None, config: Some(Config { level: Some(Level::None), ..Config::default() }) };
        assert_eq!(read(r#"{"keytype":"CONFIG","magic":0}"#, Some(r#"{"compatibilityLevel":"NONE"}"#)), Ok(global));
        let unknown = read(r#"{"keytype":"ASSOC","tenant":"default"}"#, Some("{}"));
        assert_eq!(unknown, Err(RecordError::Kind("ASSOC".to_owned())));
    }

    #[test]
    fn malformed_records_are_refused() {
        for (key, value) in [
            ("", None),
            ("[]", None),
            (r#"{"keytype":1}"#, None),
            (r#"{"keytype":"SCHEMA","subject":"s"}"#, None),
            (r#"{"keytype":"SCHEMA","subject":"s","version":0}"#, None),
            (r#"{"keytype":"SCHEMA","version":1}"#, None),
            (r#"{"keytype":"SCHEMA","subject":"s","version":1}"#, Some("{}")),
            (r#"{"keytype":"SCHEMA","subject":"s","version":1}"#, Some(r#"{"id":-1,"schema":""}"#)),
            (r#"{"keytype":"SCHEMA","subject":"s","version":1}"#, Some(r#"{"id":1,"schema":"","schemaType":"XML"}"#)),
            (r#"{"keytype":"SCHEMA","subject":"s","version":1}"#, Some(r#"{"id":1,"schema":"","references":[{}]}"#)),
            (r#"{"keytype":"MODE","subject":"s"}"#, Some(r#"{"mode":"WRITE"}"#)),
            (r#"{"keytype":"CONFIG","subject":1}"#, None),
            (r#"{"keytype":"DELETE_SUBJECT","subject":"s"}"#, Some("{}")),
        ] {
            let read = Record::decode(key.as_bytes(), value.map(str::as_bytes));
            assert!(matches!(read, Err(RecordError::Malformed(_))), "{key} {value:?}: {read:?}");
        }
        let long = format!(r#"{{"keytype":"NOOP","x":"{}"}}"#, "x".repeat(KEY_BYTES_MAX));
        assert!(Record::decode(long.as_bytes(), None).is_err());
    }

    proptest! {
        #[test]
        fn hostile_records_never_panic(
            kind in prop_oneof![Just("SCHEMA"), Just("CONFIG"), Just("MODE"), Just("CONTEXT"), Just("NOOP"), Just("DELETE_SUBJECT")],
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..200),
            member in "[a-zA-Z]{1,12}",
            number in any::<i64>(),
        ) {
            let _ = Record::decode(&key, Some(&value));
            let named = format!(r#"{{"keytype":"{kind}","subject":"s","version":1,"context":"c"}}"#);
            let _ = Record::decode(named.as_bytes(), Some(&value));
            let made = format!(r#"{{"{member}":{number},"id":{number},"schema":"","nextId":{number}}}"#);
            let _ = Record::decode(named.as_bytes(), Some(made.as_bytes()));
        }
    }
}
