//! What a schema is, apart from where it is registered: its language, text, references, metadata and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use md5::{Digest, Md5};
use uuid::{Builder, Uuid};

use super::json::Json;

/// The language of a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchemaKind {
    #[default]
    Avro,
    Json,
    Protobuf,
}

impl SchemaKind {
    /// In the order in which clients see them listed.
    pub const ALL: [Self; 3] = [Self::Json, Self::Protobuf, Self::Avro];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
            Self::Protobuf => "PROTOBUF",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// What JSON says of it: nothing for Avro, as before there were other kinds.
    #[must_use]
    pub fn in_json(self) -> Json {
        if self == Self::Avro { Json::Null } else { self.as_str().into() }
    }
}

impl fmt::Display for SchemaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Another schema that a schema uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What the schema calls it: a type (Avro), a file (Protobuf), a URI (JSON Schema).
    pub name: String,
    pub subject: String,
    pub version: i32,
}

impl Reference {
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::object([
            ("name", self.name.as_str().into()),
            ("subject", self.subject.as_str().into()),
            ("version", self.version.into()),
        ])
    }

    /// `None` if a part is missing or of another type.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        let text = |name| json.get(name).and_then(Json::as_str).map(ToOwned::to_owned);
        Some(Self { name: text("name")?, subject: text("subject")?, version: json.get("version")?.as_i32()? })
    }
}

/// Facts about a schema that are not part of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub tags: BTreeMap<String, BTreeSet<String>>,
    pub properties: BTreeMap<String, String>,
    pub sensitive: BTreeSet<String>,
}

/// The property that a registered version carries once one was asked for with its number.
const VERSION_PROPERTY: &str = "confluent:version";

impl Metadata {
    /// `None` if it is not an object or a part of it has another type. A part that is null or missing is empty.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        let mut metadata = Self::default();
        json.as_object()?;
        for (path, tags) in json.given("tags").map_or(Some(&[][..]), Json::as_object)? {
            metadata.tags.insert(path.clone(), strings(tags)?);
        }
        for (name, value) in json.given("properties").map_or(Some(&[][..]), Json::as_object)? {
            metadata.properties.insert(name.clone(), value.as_str()?.to_owned());
        }
        metadata.sensitive = json.given("sensitive").map_or_else(|| Some(BTreeSet::new()), strings)?;
        Some(metadata)
    }

    /// Without the parts that are empty.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let array = |texts: &BTreeSet<String>| Json::array(texts.iter().map(|text| text.as_str().into()));
        let tags = self.tags.iter().map(|(path, tags)| (path.clone(), array(tags))).collect::<Vec<_>>();
        let properties = self.properties.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        let properties = properties.collect::<Vec<_>>();
        Json::object([
            ("tags", if tags.is_empty() { Json::Null } else { Json::Object(tags) }),
            ("properties", if properties.is_empty() { Json::Null } else { Json::Object(properties) }),
            ("sensitive", if self.sensitive.is_empty() { Json::Null } else { array(&self.sensitive) }),
        ])
    }

    /// `over` laid over `under`: tags and sensitive names are united, a property of `over` wins.
    #[must_use]
    pub fn merged(under: Option<&Self>, over: Option<&Self>) -> Option<Self> {
        let (Some(under), Some(over)) = (under, over) else { return under.or(over).cloned() };
        let mut merged = under.clone();
        for (path, tags) in &over.tags {
            merged.tags.entry(path.clone()).or_default().extend(tags.iter().cloned());
        }
        merged.properties.extend(over.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
        merged.sensitive.extend(over.sensitive.iter().cloned());
        Some(merged)
    }

    /// The version that the schema says it is.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.properties.get(VERSION_PROPERTY).map(String::as_str)
    }

    pub fn set_version(&mut self, version: i32) {
        self.properties.insert(VERSION_PROPERTY.to_owned(), version.to_string());
    }

    /// The same without [`Metadata::version`]; `None` if nothing is left.
    #[must_use]
    pub fn without_version(&self) -> Option<Self> {
        let mut bare = self.clone();
        bare.properties.remove(VERSION_PROPERTY);
        (bare != Self::default()).then_some(bare)
    }
}

fn strings(json: &Json) -> Option<BTreeSet<String>> {
    json.as_array()?.iter().map(|item| item.as_str().map(ToOwned::to_owned)).collect()
}

/// A schema. Two that are equal have one id in a context, and one GUID everywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    pub kind: SchemaKind,
    /// As its language's canonical form prints it.
    pub text: String,
    pub references: Vec<Reference>,
    pub metadata: Option<Metadata>,
    /// The rules as they were sent; the registry keeps them for clients and applies none.
    pub rules: Option<Json>,
}

/// Tells equal definitions from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Definition {
    /// Covers all that makes one schema differ from another, its kind excepted, as Confluent's does.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Md5::new();
        hash.update(self.text.as_bytes());
        for reference in &self.references {
            hash.update(reference.name.as_bytes());
            hash.update(reference.subject.as_bytes());
            hash.update(reference.version.to_be_bytes());
        }
        if let Some(metadata) = &self.metadata {
            hash.update(metadata.to_json().to_string().as_bytes());
        }
        if let Some(rules) = &self.rules {
            hash.update(rules.sorted().to_string().as_bytes());
        }
        Fingerprint(hash.finalize().into())
    }
}

impl Fingerprint {
    /// The identity of a schema that clients may write into a record's header instead of an id.
    #[must_use]
    pub fn guid(self) -> Guid {
        Guid(Builder::from_custom_bytes(self.0).into_uuid())
    }
}

/// A schema's identity over all contexts and registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(Uuid);

impl Guid {
    /// Reads only the form with four hyphens, as clients send it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 36 { Uuid::try_parse(text).ok().map(Self) } else { None }
    }

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(text: &str) -> Definition {
        Definition { text: text.to_owned(), ..Definition::default() }
    }

    #[test]
    fn what_differs_has_another_fingerprint() {
        let plain = definition("\"string\"");
        let mut referring = plain.clone();
        referring.references.push(Reference { name: "a".into(), subject: "b".into(), version: 1 });
        let mut described = plain.clone();
        described.metadata = Metadata::from_json(&Json::parse(r#"{"properties":{"a":"b"}}"#).expect("reads"));
        let mut ruled = plain.clone();
        ruled.rules = Some(Json::parse(r#"{"domainRules":[]}"#).expect("reads"));
        let all = [plain, referring, described, ruled, definition("\"int\"")];
        let prints: BTreeSet<_> = all.iter().map(Definition::fingerprint).collect();
        assert_eq!(prints.len(), all.len());
    }

    #[test]
    fn a_guid_is_a_uuid_that_reads_back() {
        let guid = definition("\"string\"").fingerprint().guid();
        assert_eq!(Guid::parse(&guid.to_string()), Some(guid));
        assert_eq!(guid.to_string().as_bytes()[14], b'8', "made from a hash");
        assert_eq!(Guid::parse("b1946ac92492d2347c6235b4d2611184"), None);
    }

    #[test]
    fn metadata_is_merged_part_by_part() {
        let read = |text| Metadata::from_json(&Json::parse(text).expect("reads"));
        let under = read(r#"{"tags":{"a":["x"]},"properties":{"p":"1","q":"1"}}"#);
        let over = read(r#"{"tags":{"a":["y"]},"properties":{"p":"2"},"sensitive":["p"]}"#);
        let merged = Metadata::merged(under.as_ref(), over.as_ref()).expect("both are given");
        let wanted = r#"{"tags":{"a":["x","y"]},"properties":{"p":"2","q":"1"},"sensitive":["p"]}"#;
        assert_eq!(merged.to_json().to_string(), wanted);
        assert_eq!(read(r#"{"tags":null,"properties":null,"sensitive":null}"#), Some(Metadata::default()));
        assert_eq!(read(r#"{"properties":{"p":1}}"#), None);
    }
}
