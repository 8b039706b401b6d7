//! Columns for JSON without a schema: [`Inference`] looks at values and says what they have in common.
//!
//! Bounded: at most [`MEMBERS_MAX`] members, [`LEVELS_MAX`] levels. What is beyond that, comes later, or has several
//! types, is kept as text: an object's other members in its column `rest`. Text stays text even where all of it looks
//! like a date, because the next value may not. Done once for a table: afterwards columns follow settings, not values.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Members, Node, Schema};

/// Members of all objects together at most.
pub const MEMBERS_MAX: usize = 500;
/// Objects, arrays and the root inside each other at most.
pub const LEVELS_MAX: usize = 5;

/// What the values that were looked at have in common.
#[derive(Debug, Default)]
pub struct Inference {
    root: Found,
    members: usize,
}

#[derive(Debug, Default)]
enum Found {
    /// Nothing but null.
    #[default]
    Nothing,
    Boolean,
    Integer,
    Number,
    Text,
    List(Box<Found>),
    Object(BTreeMap<String, Found>),
    /// Several types, or beyond the bounds.
    Any,
}

impl Inference {
    /// Looks at a value; one that is no JSON object says nothing.
    pub fn observe(&mut self, value: &[u8]) {
        if let Ok(json @ Json::Object(_)) = serde_json::from_slice(value) {
            self.root.observe(&json, 1, &mut self.members);
        }
    }

    /// The columns, if there are any.
    #[must_use]
    pub fn schema(&self) -> Option<Schema> {
        self.root.node().filter(|node| matches!(node, Node::Object(_))).map(Schema::of)
    }
}

impl Found {
    fn observe(&mut self, value: &Json, level: usize, members: &mut usize) {
        let deeper = level < LEVELS_MAX;
        match (&mut *self, value) {
            (Self::Any, _) | (_, Json::Null) => {}
            (Self::List(found), Json::Array(items)) => {
                items.iter().for_each(|item| found.observe(item, level + 1, members));
            }
            (Self::Object(found), Json::Object(object)) => {
                for (name, value) in object {
                    if let Some(member) = found.get_mut(name) {
                        member.observe(value, level + 1, members);
                    } else if *members < MEMBERS_MAX {
                        *members += 1;
                        found.entry(name.clone()).or_default().observe(value, level + 1, members);
                    }
                }
            }
            (Self::Nothing, Json::Array(_)) if deeper => {
                *self = Self::List(Box::default());
                self.observe(value, level, members);
            }
            (Self::Nothing, Json::Object(_)) if deeper => {
                *self = Self::Object(BTreeMap::new());
                self.observe(value, level, members);
            }
            (found, value) => {
                let kind = match value {
                    Json::Bool(_) => Self::Boolean,
                    Json::Number(number) if number.is_i64() => Self::Integer,
                    Json::Number(_) => Self::Number,
                    Json::String(_) => Self::Text,
                    _ => Self::Any,
                };
                let joined = match (std::mem::take(found), kind) {
                    (Self::Nothing, kind) => kind,
                    (Self::Boolean, Self::Boolean) => Self::Boolean,
                    (Self::Integer, Self::Integer) => Self::Integer,
                    (Self::Integer | Self::Number, Self::Integer | Self::Number) => Self::Number,
                    (Self::Text, Self::Text) => Self::Text,
                    _ => Self::Any,
                };
                *found = joined;
            }
        }
    }

    fn node(&self) -> Option<Node> {
        Some(match self {
            Self::Nothing => return None,
            Self::Boolean => Node::Boolean,
            Self::Integer => Node::Integer,
            Self::Number => Node::Number,
            Self::Text => Node::Text,
            Self::Any => Node::Any,
            // Of an array that was empty each time nothing is known.
            Self::List(found) => found.node().map_or(Node::Any, |node| Node::List(Box::new(node))),
            Self::Object(found) => {
                let named: Vec<_> =
                    found.iter().filter_map(|(name, found)| Some((name.clone(), found.node()?))).collect();
                if named.is_empty() {
                    return Some(Node::Any);
                }
                Node::Object(Members { named, keeps_rest: true })
            }
        })
    }
}
