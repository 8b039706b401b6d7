//! Columns for JSON without a schema: [`Inference`] looks at values and says what they have in common.
//!
//! Bounded: at most [`COLUMNS_FOUND_MAX`] columns, [`LEVELS_MAX`] levels. What is beyond that or has several types
//! among the values that are looked at is kept as text; members without a column are in their object's column `rest`.
//! Text stays text even where all of it looks like a date, because the next value may not. Null, an empty array and an
//! object without members with a value say nothing.
//!
//! What was found is kept with the table, as the text of a schema ([`Schema::to_text`]), and the next inference begins
//! with it ([`Inference::of`]): members are added, and none goes or gets another type.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Members, Node, Schema};
use crate::columns::NAME_BYTES_MAX;

/// Columns of all objects together at most, with those of elements and of the rest.
pub const COLUMNS_FOUND_MAX: usize = 500;
/// Objects, arrays and the root inside each other at most.
pub const LEVELS_MAX: usize = 5;

/// What the values that were looked at have in common.
#[derive(Debug, Default)]
pub struct Inference {
    root: Found,
    columns: usize,
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
    List {
        items: Box<Found>,
        is_kept: bool,
    },
    Object {
        members: BTreeMap<String, Found>,
        is_kept: bool,
    },
    /// Several types, or beyond the bounds.
    Any,
    /// Was found before, and stays.
    Kept(Node),
}

impl Inference {
    /// Goes on from what was found before.
    #[must_use]
    pub fn of(schema: &Schema) -> Self {
        let mut columns = 0;
        let root = Found::kept(schema.root(), &mut columns);
        Self { root, columns }
    }

    /// Looks at a value; one that is no JSON object says nothing.
    pub fn observe(&mut self, value: &[u8]) {
        if let Ok(json @ Json::Object(_)) = serde_json::from_slice(value) {
            self.root.observe(&json, 1, &mut self.columns);
        }
    }

    /// The columns; `None` where no object was seen.
    #[must_use]
    pub fn schema(&self) -> Option<Schema> {
        match &self.root {
            Found::Object { members, .. } => Some(Schema::of(object_of(members))),
            _ => None,
        }
    }
}

fn object_of(members: &BTreeMap<String, Found>) -> Node {
    let named = members.iter().filter_map(|(name, found)| Some((name.clone(), found.node()?))).collect();
    Node::Object(Members { named, keeps_rest: true })
}

/// Takes `more` columns if the bound allows them.
fn takes(columns: &mut usize, more: usize) -> bool {
    let fits = *columns + more <= COLUMNS_FOUND_MAX;
    *columns += if fits { more } else { 0 };
    fits
}

impl Found {
    fn kept(node: &Node, columns: &mut usize) -> Self {
        match node {
            Node::List(item) => {
                *columns += 1;
                Self::List { items: Box::new(Self::kept(item, columns)), is_kept: true }
            }
            Node::Object(Members { named, .. }) => {
                *columns += 1 + named.len();
                let members = named.iter().map(|(name, node)| (name.clone(), Self::kept(node, columns))).collect();
                Self::Object { members, is_kept: true }
            }
            node => Self::Kept(node.clone()),
        }
    }

    fn observe(&mut self, value: &Json, level: usize, columns: &mut usize) {
        let deeper = level < LEVELS_MAX;
        match (&mut *self, value) {
            (Self::Any | Self::Kept(_), _) | (_, Json::Null) => {}
            (Self::List { items: found, .. }, Json::Array(items)) => {
                items.iter().for_each(|item| found.observe(item, level + 1, columns));
            }
            (Self::Object { members, .. }, Json::Object(object)) => {
                for (name, value) in object {
                    if let Some(member) = members.get_mut(name) {
                        member.observe(value, level + 1, columns);
                    } else if !name.is_empty() && name.len() <= NAME_BYTES_MAX && takes(columns, 1) {
                        members.entry(name.clone()).or_default().observe(value, level + 1, columns);
                    }
                }
            }
            (Self::List { is_kept: true, .. } | Self::Object { is_kept: true, .. }, _) => {}
            (Self::Nothing, Json::Array(_)) if deeper && takes(columns, 1) => {
                *self = Self::List { items: Box::default(), is_kept: false };
                self.observe(value, level, columns);
            }
            (Self::Nothing, Json::Object(_)) if deeper && takes(columns, 1) => {
                *self = Self::Object { members: BTreeMap::new(), is_kept: false };
                self.observe(value, level, columns);
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

    /// `None`: nothing is known of it yet.
    fn node(&self) -> Option<Node> {
        Some(match self {
            Self::Nothing => return None,
            Self::Boolean => Node::Boolean,
            Self::Integer => Node::Integer,
            Self::Number => Node::Number,
            Self::Text => Node::Text,
            Self::Any => Node::Any,
            Self::Kept(node) => node.clone(),
            Self::List { items, .. } => Node::List(Box::new(items.node()?)),
            Self::Object { members, is_kept } => match object_of(members) {
                Node::Object(Members { named, .. }) if named.is_empty() && !is_kept => return None,
                node => node,
            },
        })
    }
}
