//! Writes the body that one of the broker's or the client's tables describes: something in every field, list and tag.

use tidewater::kafka::wire::schema::{Kind, Schema, Shape};
use tidewater_storage::env::Rng;

/// A writer of one version.
pub(crate) struct Author<'a> {
    version: i16,
    flexible: bool,
    rng: &'a Rng,
}

impl<'a> Author<'a> {
    /// Of this version of a request or an answer.
    pub(crate) fn new(table: &Schema, version: i16, rng: &'a Rng) -> Self {
        Self { version, flexible: table.flexible_from.is_some_and(|from| version >= from), rng }
    }

    /// A struct with its tagged fields.
    pub(crate) fn shape(&self, shape: &Shape, out: &mut Vec<u8>) {
        for field in shape.fields.iter().filter(|field| field.is_in(self.version)) {
            self.kind(&field.kind, out);
        }
        if !self.flexible {
            return;
        }
        let tagged = shape.tagged.iter().filter(|(_, field)| field.is_in(self.version)).collect::<Vec<_>>();
        out.push(u8::try_from(tagged.len()).expect("few"));
        for (tag, field) in tagged {
            let mut content = Vec::new();
            self.kind(&field.kind, &mut content);
            assert!(content.len() < 128, "one byte says how long it is");
            out.extend_from_slice(&[u8::try_from(*tag).expect("small"), content.len() as u8]);
            out.extend_from_slice(&content);
        }
    }

    fn kind(&self, kind: &Kind, out: &mut Vec<u8>) {
        match kind {
            Kind::Fixed(n) => out.extend((0..*n).map(|at| if at + 1 == *n { 1 } else { 0 })),
            Kind::Text => self.blob(2, b"orders", out),
            Kind::Blob => self.blob(4, b"bytes", out),
            Kind::Struct(shape) => self.shape(shape, out),
            Kind::Maybe(shape) => {
                out.push(1);
                self.shape(shape, out);
            }
            Kind::List(element) => {
                let count = 1 + u8::try_from(self.rng.below(2)).expect("small");
                if self.flexible {
                    out.push(count + 1)
                } else {
                    out.extend_from_slice(&[0, 0, 0, count])
                }
                (0..count).for_each(|_| self.kind(element, out));
            }
        }
    }

    fn blob(&self, width: usize, bytes: &[u8], out: &mut Vec<u8>) {
        let len = u8::try_from(bytes.len()).expect("short");
        if self.flexible {
            out.push(len + 1);
        } else {
            out.resize(out.len() + width - 1, 0);
            out.push(len);
        }
        out.extend_from_slice(bytes);
    }
}
