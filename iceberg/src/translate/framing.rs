//! Which schema a record's key or value was written with: the id before it, or in a header; or one schema that all
//! keys or values of the topic have.
//!
//! Prefix and header have one form: 0 and an id of four bytes, or 1 and a GUID of sixteen; of a schema of Protobuf, the
//! path of the value's message follows, which only the registry's answer tells from the value. The header comes first,
//! and then all of the value is what was written. Pure. (The registry has the same parser for its own questions; it is
//! built without
//! this crate, and this crate without it.)

use tidewater_storage::model::record::Record;
use uuid::Uuid;

use crate::columns::protobuf::path::MessagePath;

/// The headers that newer clients write instead of a prefix.
pub const VALUE_HEADER: &[u8] = b"__value_schema_id";
pub const KEY_HEADER: &[u8] = b"__key_schema_id";

/// What of a record has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Key,
    Value,
}

impl Part {
    pub const ALL: [Self; 2] = [Self::Key, Self::Value];

    fn of(self, record: &Record) -> Option<&[u8]> {
        match self {
            Self::Key => record.key.as_deref(),
            Self::Value => record.value.as_deref(),
        }
    }

    fn header(self) -> &'static [u8] {
        match self {
            Self::Key => KEY_HEADER,
            Self::Value => VALUE_HEADER,
        }
    }

    fn bad_header(self) -> &'static str {
        match self {
            Self::Key => "its header __key_schema_id is not an id or GUID of a schema",
            Self::Value => "its header __value_schema_id is not an id or GUID of a schema",
        }
    }

    fn no_schema(self) -> &'static str {
        match self {
            Self::Key => "it does not begin with the id of a schema, nor is there a header __key_schema_id",
            Self::Value => "it does not begin with the id of a schema, nor is there a header __value_schema_id",
        }
    }
}

/// The name of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WrittenWith {
    Id(u32),
    Guid(Uuid),
    /// That of the setting `iceberg.json.schema`.
    Setting,
    /// What was found in the values themselves.
    Found,
    /// None: it is text, as the setting `iceberg.key.mode` says.
    Text,
}

/// How the keys or values of a topic name their schemas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Each one names its own.
    #[default]
    Each,
    /// None does; all of a value is what was written, with this schema.
    All(WrittenWith),
    /// They have none, and stay bytes.
    Bytes,
}

impl WrittenWith {
    /// The id as a table's column of ints holds it.
    #[must_use]
    pub fn id(self) -> Option<i32> {
        match self {
            Self::Id(id) => i32::try_from(id).ok(),
            Self::Guid(_) | Self::Setting | Self::Found | Self::Text => None,
        }
    }
}

impl std::fmt::Display for WrittenWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "schema {id}"),
            Self::Guid(guid) => write!(f, "schema {guid}"),
            Self::Setting => f.write_str("the schema of iceberg.json.schema"),
            Self::Found => f.write_str("the columns found in the values"),
            Self::Text => f.write_str("text of iceberg.key.mode"),
        }
    }
}

/// A key or value and the schema that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    pub part: Part,
    pub with: WrittenWith,
    path: PathIn<'a>,
    value: &'a [u8],
}

/// Where the path of a value's message is, of a schema of Protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathIn<'a> {
    /// What follows the schema in the header.
    Header(&'a [u8]),
    /// At the beginning of the value.
    Value,
    /// None is written: it is the first message.
    Nowhere,
}

impl<'a> Written<'a> {
    /// What was written, of a schema that is one type.
    ///
    /// # Errors
    /// It is not clear what was written; why.
    pub fn whole(&self) -> Result<&'a [u8], &'static str> {
        match self.path {
            PathIn::Value | PathIn::Nowhere | PathIn::Header([]) => Ok(self.value),
            PathIn::Header(_) => Err(self.part.bad_header()),
        }
    }

    /// Which message was written, of a schema of Protobuf, and its bytes.
    ///
    /// # Errors
    /// It is not clear what was written; why.
    pub fn message(&self) -> Result<(MessagePath, &'a [u8]), &'static str> {
        match self.path {
            PathIn::Header(header) => match MessagePath::split_from(header) {
                Some((path, [])) => Ok((path, self.value)),
                _ => Err(self.part.bad_header()),
            },
            PathIn::Value => MessagePath::split_from(self.value).ok_or("no index of a message follows the schema's id"),
            PathIn::Nowhere => Ok((MessagePath::FIRST, self.value)),
        }
    }
}

/// What a record's key or value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// There is none: of a value, a tombstone.
    Null,
    /// Without a schema, by the topic's settings.
    Bytes(&'a [u8]),
    Value(Written<'a>),
    /// Neither it nor a header names a schema; why.
    Bare(&'static str),
}

/// The schema that a part of `record` has, and what was written with it.
#[must_use]
pub fn of(record: &Record, part: Part, naming: Naming) -> Framed<'_> {
    let Some(value) = part.of(record) else { return Framed::Null };
    match naming {
        Naming::Each => {}
        Naming::All(with) => return Framed::Value(Written { part, with, path: PathIn::Nowhere, value }),
        Naming::Bytes => return Framed::Bytes(value),
    }
    match record.headers.iter().rev().find(|header| header.key == part.header()) {
        Some(header) => match header.value.as_deref().and_then(written_with) {
            Some((with, rest)) => Framed::Value(Written { part, with, path: PathIn::Header(rest), value }),
            None => Framed::Bare(part.bad_header()),
        },
        None => match written_with(value) {
            Some((with, value)) => Framed::Value(Written { part, with, path: PathIn::Value, value }),
            None => Framed::Bare(part.no_schema()),
        },
    }
}

fn written_with(bytes: &[u8]) -> Option<(WrittenWith, &[u8])> {
    let (form, rest) = bytes.split_first()?;
    match form {
        0 => rest.split_first_chunk().map(|(id, rest)| (WrittenWith::Id(u32::from_be_bytes(*id)), rest)),
        1 => rest.split_first_chunk().map(|(guid, rest)| (WrittenWith::Guid(Uuid::from_bytes(*guid)), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidewater_storage::model::TimestampMs;
    use tidewater_storage::model::record::RecordHeader;

    use super::*;

    fn record(value: &[u8], header: Option<&[u8]>) -> Record {
        let mut record = Record::new(TimestampMs(1), None, Some(Bytes::copy_from_slice(value)));
        record.headers.extend(header.map(|value| RecordHeader {
            key: Bytes::from_static(VALUE_HEADER),
            value: Some(Bytes::copy_from_slice(value)),
        }));
        record
    }

    fn whole<'a>(framed: &Framed<'a>) -> Option<(WrittenWith, &'a [u8])> {
        let Framed::Value(written) = framed else { return None };
        Some((written.with, written.whole().ok()?))
    }

    #[test]
    fn a_prefix_or_a_header_names_the_schema_and_the_header_comes_first() {
        let prefixed = record(&[0, 0, 0, 1, 2, 9], None);
        assert_eq!(whole(&of(&prefixed, Part::Value, Naming::Each)), Some((WrittenWith::Id(258), &[9][..])));
        let in_header = record(&[0, 0, 0, 1, 2, 9], Some(&[0, 0, 0, 0, 7]));
        assert_eq!(
            whole(&of(&in_header, Part::Value, Naming::Each)),
            Some((WrittenWith::Id(7), &[0, 0, 0, 1, 2, 9][..]))
        );
        let guid = Uuid::from_u128(77);
        let by_guid = record(&[5], Some(&[&[1][..], guid.as_bytes()].concat()));
        assert_eq!(whole(&of(&by_guid, Part::Value, Naming::Each)), Some((WrittenWith::Guid(guid), &[5][..])));
        assert_eq!(of(&Record::new(TimestampMs(1), None, None), Part::Value, Naming::Each), Framed::Null);
    }

    #[test]
    fn where_all_values_have_one_schema_nothing_in_them_names_another() {
        let all = Naming::All(WrittenWith::Id(7));
        let looks_framed = record(&[0, 0, 0, 1, 2, 9], Some(&[0, 0, 0, 0, 3]));
        assert_eq!(whole(&of(&looks_framed, Part::Value, all)), Some((WrittenWith::Id(7), &[0, 0, 0, 1, 2, 9][..])));
        assert_eq!(whole(&of(&record(&[], None), Part::Value, all)), Some((WrittenWith::Id(7), &[][..])));
        assert_eq!(of(&Record::new(TimestampMs(1), None, None), Part::Value, all), Framed::Null);
        let Framed::Value(written) = of(&looks_framed, Part::Value, all) else { unreachable!("it has a value") };
        assert_eq!(written.message(), Ok((MessagePath::FIRST, &[0, 0, 0, 1, 2, 9][..])), "no path is written");
    }

    #[test]
    fn a_message_is_named_behind_the_schema_where_that_is() {
        let message = |record: &Record| {
            let Framed::Value(written) = of(record, Part::Value, Naming::Each) else {
                unreachable!("it names a schema")
            };
            written.message().map(|(path, value)| (path.to_string(), value.to_vec()))
        };
        assert_eq!(message(&record(&[0, 0, 0, 1, 2, 0, 9], None)), Ok(("0".to_owned(), vec![9])));
        assert_eq!(message(&record(&[0, 0, 0, 1, 2, 4, 2, 0, 9], None)), Ok(("1.0".to_owned(), vec![9])));
        assert_eq!(message(&record(&[9], Some(&[0, 0, 0, 1, 2, 2, 4]))), Ok(("2".to_owned(), vec![9])));
        for (value, header) in [(&[0, 0, 0, 0, 1][..], None), (&[0][..], Some(&[0, 0, 0, 0, 1][..]))] {
            assert!(message(&record(value, header)).is_err(), "{value:?}");
        }
        assert!(message(&record(&[0], Some(&[0, 0, 0, 0, 1, 0, 0]))).is_err(), "more than a path");
    }

    #[test]
    fn what_names_no_schema_is_bare() {
        for value in [&[][..], &[0], &[0, 0, 0, 1], &[1, 2, 3], &[2, 0, 0, 0, 1], b"{}"] {
            assert!(matches!(of(&record(value, None), Part::Value, Naming::Each), Framed::Bare(_)), "{value:?}");
        }
        for header in [&[][..], &[0, 0, 0, 1]] {
            assert!(
                matches!(of(&record(&[0, 0, 0, 0, 1], Some(header)), Part::Value, Naming::Each), Framed::Bare(_)),
                "{header:?}"
            );
        }
        assert_eq!(
            whole(&of(&record(&[0, 0, 0, 0, 1], Some(&[0, 0, 0, 0, 1, 9])), Part::Value, Naming::Each)),
            None,
            "more than an id"
        );
    }

    #[test]
    fn a_key_has_a_header_of_its_own() {
        let header = |name: &'static [u8], id: u8| RecordHeader {
            key: Bytes::from_static(name),
            value: Some(Bytes::copy_from_slice(&[0, 0, 0, 0, id])),
        };
        let framed = Bytes::from_static(&[0, 0, 0, 0, 1, 9]);
        let mut record = Record::new(TimestampMs(1), Some(framed.clone()), Some(framed));
        record.headers = vec![header(VALUE_HEADER, 5)];
        assert_eq!(whole(&of(&record, Part::Key, Naming::Each)), Some((WrittenWith::Id(1), &[9][..])));
        record.headers = vec![header(KEY_HEADER, 6)];
        assert_eq!(whole(&of(&record, Part::Key, Naming::Each)), Some((WrittenWith::Id(6), &[0, 0, 0, 0, 1, 9][..])));
        assert_eq!(whole(&of(&record, Part::Value, Naming::Each)), Some((WrittenWith::Id(1), &[9][..])));
        record.headers[0].value = None;
        let Framed::Bare(why) = of(&record, Part::Key, Naming::Each) else { unreachable!("its header is empty") };
        assert!(why.contains("__key_schema_id"), "{why}");
        assert_eq!(of(&record, Part::Key, Naming::Bytes), Framed::Bytes(&[0, 0, 0, 0, 1, 9]));
        record.key = None;
        assert_eq!(of(&record, Part::Key, Naming::Each), Framed::Null);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(value in proptest::collection::vec(any::<u8>(), 0..40),
            header in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))) {
            let _ = of(&record(&value, header.as_deref()), Part::Value, Naming::Each);
        }
    }
}
