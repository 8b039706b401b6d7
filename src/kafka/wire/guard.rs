//! Walks the structure of a request, or of an answer to our own client, before a generated decoder sees it.
//!
//! Those decoders allocate arrays by the announced count and would abort the process on a 14-byte request. The walk
//! checks every length and count against the bytes that remain, bounds elements and tagged fields, and reports what
//! decoding will cost. Bytes after the request are ignored, as Kafka ignores them. Driven by the tables of
//! [`super::schema`]; no recursion deeper than the tables are.

use super::reader::{FieldReader, Malformed};
use super::schema::{Field, Kind, Schema, Shape, TAGS_MAX};

/// Elements of all arrays of one request together; a metadata request for 100,000 topics fits.
pub const ELEMENTS_MAX: usize = 250_000;
/// What an element costs when decoded, at most: the largest generated struct beside its text.
pub const ELEMENT_BYTES: usize = 200;

/// What a request holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Array elements and tagged fields.
    pub elements: usize,
    /// Bytes the request takes of its frame.
    pub len: usize,
}

impl Weight {
    /// Bytes that decoding takes, beyond the frame itself, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.elements * ELEMENT_BYTES
    }
}

/// Checks the body of a request (after its header).
///
/// # Errors
/// The first place that does not fit the schema.
pub fn check(schema: &Schema, version: i16, body: &[u8]) -> Result<Weight, Malformed> {
    check_up_to(ELEMENTS_MAX, schema, version, body)
}

/// Checks the body of a request or an answer of at most `elements_max` elements.
///
/// # Errors
/// As [`check`].
pub fn check_up_to(elements_max: usize, schema: &Schema, version: i16, body: &[u8]) -> Result<Weight, Malformed> {
    let mut walk = Walk {
        elements_max,
        reader: FieldReader::new(body),
        version,
        flexible: schema.flexible_from.is_some_and(|from| version >= from),
        weight: Weight::default(),
    };
    walk.shape(schema.top)?;
    Ok(Weight { len: walk.reader.position(), ..walk.weight })
}

struct Walk<'a> {
    elements_max: usize,
    reader: FieldReader<'a>,
    version: i16,
    flexible: bool,
    weight: Weight,
}

impl Walk<'_> {
    fn shape(&mut self, shape: &Shape) -> Result<(), Malformed> {
        let version = self.version;
        for field in shape.fields.iter().filter(|f| f.is_in(version)) {
            self.kind(&field.kind)?;
        }
        if self.flexible { self.tags(shape) } else { Ok(()) }
    }

    fn kind(&mut self, kind: &Kind) -> Result<(), Malformed> {
        match kind {
            Kind::Fixed(n) => self.reader.take(*n, "number").map(drop),
            Kind::Text => self.reader.text_or_null(self.flexible, "string").map(drop),
            Kind::Blob => {
                let len = self.reader.blob_len(self.flexible, "bytes")?.unwrap_or(0);
                self.reader.take(len, "bytes").map(drop)
            }
            Kind::Struct(shape) => self.shape(shape),
            Kind::Maybe(shape) => match self.reader.i8("presence")? {
                1 => self.shape(shape),
                -1 => Ok(()),
                _ => Err(self.reader.bad("presence")),
            },
            Kind::List(element) => self.list(element),
        }
    }

    fn list(&mut self, element: &Kind) -> Result<(), Malformed> {
        let element_min = element.least_bytes(self.version, self.flexible);
        let count = self.reader.list_len(self.flexible, element_min, "number of elements")?.unwrap_or(0);
        self.charge(count)?;
        if let Kind::Fixed(n) = element {
            return self.reader.take(n * count, "numbers").map(drop);
        }
        (0..count).try_for_each(|_| self.kind(element))
    }

    fn tags(&mut self, shape: &Shape) -> Result<(), Malformed> {
        let count = self.reader.uvarint("number of tagged fields")?;
        if count > TAGS_MAX {
            return Err(self.reader.bad("number of tagged fields"));
        }
        self.charge(count as usize)?;
        for _ in 0..count {
            let tag = self.reader.uvarint("tag")?;
            let size = self.reader.uvarint("size of tagged field")? as usize;
            let known = shape.tagged.iter().find(|(known, _)| *known == tag).map(|(_, field)| field);
            match known {
                Some(field) => self.known_tag(field, size)?,
                None => self.reader.take(size, "tagged field").map(drop)?,
            }
        }
        Ok(())
    }

    fn known_tag(&mut self, field: &Field, size: usize) -> Result<(), Malformed> {
        if !field.is_in(self.version) {
            return Err(self.reader.bad("tag of a later version"));
        }
        let start = self.reader.position();
        self.kind(&field.kind)?;
        if self.reader.position() - start == size { Ok(()) } else { Err(self.reader.bad("size of tagged field")) }
    }

    fn charge(&mut self, elements: usize) -> Result<(), Malformed> {
        self.weight.elements = self.weight.elements.saturating_add(elements);
        if self.weight.elements > self.elements_max { Err(self.reader.bad("too many elements")) } else { Ok(()) }
    }
}
