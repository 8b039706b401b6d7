//! Keys of records as columns: one member of the root beside those of the value, [`Key::RecordKey`] where keys have
//! schemas, [`Key::TextKey`] where they are text.
//!
//! A key that is a record is a struct `key` with its fields; any other is a column `key` of its type. The two kinds are
//! different members, so a topic whose keys change from one to the other gets a column beside, and no conflict. Pure.

use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use crate::columns::Refused;
use crate::columns::build::{Columns, Layout, Values};
use crate::columns::compile::{Targets, defect, targets};
use crate::columns::evolve::{MemberPlace, Plan};
use crate::columns::fault::{BadValue, Fault};
use crate::columns::fill::push_text;
use crate::columns::shape::{Key, Member, Shape};

/// The columns of keys that a schema describes; `of_value`: those that its values would have.
#[must_use]
pub fn shape(of_value: Shape) -> Shape {
    let (key, name) = (Key::RecordKey, Key::RecordKey.name());
    let member = match of_value {
        Shape::Struct(mut members) if matches!(members.as_slice(), [Member { key: Key::Whole, .. }]) => {
            Member { key, name, ..members.remove(0) }
        }
        shape => Member { source: 0, key, name, aliases: Vec::new(), branch: Vec::new(), shape },
    };
    Shape::Struct(vec![member])
}

/// The column of keys that are text.
#[must_use]
pub fn text_shape() -> Shape {
    let (key, shape) = (Key::TextKey, Shape::Primitive(PrimitiveType::String));
    Shape::Struct(vec![Member { source: 0, name: key.name(), key, aliases: Vec::new(), branch: Vec::new(), shape }])
}

/// Whether the table's owner dropped the column of keys, whose `plan` it is: then none is read.
#[must_use]
pub fn is_left_out(plan: &Plan) -> bool {
    plan.places.iter().all(|place| place.target.is_none())
}

/// Reads keys in UTF-8.
#[derive(Debug)]
pub struct TextDecoder {
    layout: Arc<Layout>,
    target: usize,
    width: usize,
}

impl TextDecoder {
    /// For a plan of [`text_shape`].
    ///
    /// # Errors
    /// The plan is of another shape, has conflicts, or leaves the column out.
    pub fn new(plan: &Plan, layout: &Arc<Layout>) -> Result<Self, Refused> {
        let Targets { places, width, .. } = targets(plan, layout)?;
        match places.as_slice() {
            [MemberPlace { target: Some((target, _)), .. }] => {
                Ok(Self { layout: Arc::clone(layout), target: *target, width })
            }
            _ => Err(defect("the plan is not of a key that is text")),
        }
    }

    /// Appends `key` as a row, if it takes no more than `limit` bytes; returns the bytes that it is charged.
    ///
    /// # Errors
    /// It is not UTF-8, or takes more; the columns are as before.
    pub fn push(&self, key: &[u8], columns: &mut Columns, limit: usize) -> Result<usize, BadValue> {
        assert!(columns.is_of(&self.layout), "columns and decoder are of one layout");
        let bad = |at, fault| BadValue { at, fault };
        let text = std::str::from_utf8(key).map_err(|e| bad(e.valid_up_to(), Fault::Utf8))?;
        let charged = self.width.saturating_add(text.len());
        if charged > limit {
            return Err(bad(0, Fault::Large(limit)));
        }
        columns
            .push_only(self.target, |column| {
                let Values::Text { offsets, bytes } = &mut column.values else {
                    unreachable!("a key's column is text")
                };
                push_text(offsets, bytes, text)?;
                column.nulls.append_non_null();
                Ok(())
            })
            .map_err(|fault| bad(0, fault))?;
        Ok(charged)
    }
}

#[cfg(test)]
mod tests;
