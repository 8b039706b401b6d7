//! What a JSON schema demands, by kinds: its type, an enumeration, a combination of others.

use std::collections::HashSet;

use super::super::super::canonical::json_schema::{JsonSchema, Place};
use super::super::super::json::Json;
use super::finds;

pub(super) type At<'a> = Place<'a>;

/// References in a row.
const HOPS_MAX: usize = 64;

/// A schema in its document, or a part of one that is looked at alone.
#[derive(Clone, Debug)]
pub(super) enum Operand<'a> {
    At(At<'a>),
    Part(Box<View<'a>>),
}

#[derive(Clone, Debug)]
pub(super) enum View<'a> {
    /// Everything is accepted.
    Empty,
    /// Nothing is.
    False,
    Typed(Kind, At<'a>),
    Enum(&'a [Json]),
    Const(&'a Json),
    Not(At<'a>),
    Combined(Criterion, Vec<Operand<'a>>),
    Conditional(At<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Number,
    Integer,
    Boolean,
    Null,
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Criterion {
    All,
    Any,
    One,
}

/// What is allowed beside the properties or items that are named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Open,
    /// What fits this schema.
    Partial(At<'a>),
    Closed,
}

const KINDS: [(&str, Kind, &[&str]); 7] = [
    ("string", Kind::String, &["minLength", "maxLength", "pattern", "format"]),
    ("number", Kind::Number, &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    ("integer", Kind::Integer, &[]),
    ("boolean", Kind::Boolean, &[]),
    ("null", Kind::Null, &[]),
    (
        "object",
        Kind::Object,
        &[
            "properties",
            "required",
            "minProperties",
            "maxProperties",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
        ],
    ),
    (
        "array",
        Kind::Array,
        &["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"],
    ),
];

impl Kind {
    /// Are differences between them looked for keyword by keyword?
    pub(super) fn is_like(self, other: Self) -> bool {
        let is_number = |kind| matches!(kind, Self::Number | Self::Integer);
        self == other || (is_number(self) && is_number(other))
    }
}

impl Criterion {
    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Self::All => "allOf",
            Self::Any => "anyOf",
            Self::One => "oneOf",
        }
    }
}

/// Where a schema that is only a reference leads.
pub(super) fn landed<'a>(schema: &'a JsonSchema, at: At<'a>) -> At<'a> {
    let hops = std::iter::successors(Some(at), |at| schema.follow(*at));
    hops.take(HOPS_MAX).last().unwrap_or(at)
}

pub(super) fn of<'a>(schema: &'a JsonSchema, operand: &Operand<'a>) -> View<'a> {
    let at = match operand {
        Operand::Part(view) => return (**view).clone(),
        Operand::At(at) => landed(schema, *at),
    };
    match at.json {
        Json::Bool(false) => return View::False,
        Json::Object(_) => {}
        _ => return View::Empty,
    }
    let mut parts = Vec::new();
    if let Some(values) = at.json.get("enum").and_then(Json::as_array) {
        parts.push(View::Enum(values));
    }
    if let Some(value) = at.json.get("const") {
        parts.push(View::Const(value));
    }
    for criterion in [Criterion::All, Criterion::Any, Criterion::One] {
        if let Some(subs) = at.json.get(criterion.keyword()).and_then(Json::as_array) {
            parts.push(View::Combined(criterion, subs.iter().map(|sub| Operand::At(at.at(sub))).collect()));
        }
    }
    if let Some(not) = at.json.get("not") {
        parts.push(View::Not(at.at(not)));
    }
    if at.json.get("if").is_some() {
        parts.push(View::Conditional(at));
    }
    parts.extend(typed(at));
    match parts.len() {
        0 => View::Empty,
        1 => parts.remove(0),
        _ => View::Combined(Criterion::All, parts.into_iter().map(|part| Operand::Part(Box::new(part))).collect()),
    }
}

/// By `type`, or by the keywords of a type where there is none.
fn typed(at: At<'_>) -> Vec<View<'_>> {
    let named = |name: &str| KINDS.iter().find(|(known, ..)| *known == name).map(|(_, kind, _)| View::Typed(*kind, at));
    match at.json.get("type") {
        Some(Json::String(name)) => named(name).into_iter().collect(),
        Some(Json::Array(names)) => {
            let mut all: Vec<_> = names.iter().filter_map(Json::as_str).filter_map(named).collect();
            if all.len() == 1 {
                return all;
            }
            let subs = all.drain(..).map(|view| Operand::Part(Box::new(view))).collect();
            vec![View::Combined(Criterion::Any, subs)]
        }
        _ => {
            let hinted = KINDS.iter().filter(|(_, _, words)| words.iter().any(|word| at.json.get(word).is_some()));
            hinted.map(|(_, kind, _)| View::Typed(*kind, at)).collect()
        }
    }
}

pub(super) fn members<'a>(json: &'a Json, keyword: &str) -> &'a [(String, Json)] {
    json.get(keyword).and_then(Json::as_object).unwrap_or_default()
}

pub(super) fn required(json: &Json) -> HashSet<&str> {
    json.get("required").and_then(Json::as_array).unwrap_or_default().iter().filter_map(Json::as_str).collect()
}

/// Of each draft's keywords.
pub(super) fn dependencies(json: &Json) -> Vec<(&str, &Json)> {
    let keywords = ["dependencies", "dependentRequired", "dependentSchemas"];
    keywords
        .into_iter()
        .flat_map(|keyword| members(json, keyword))
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

/// The value of `keyword`: a schema, or whether anything may be there.
pub(super) fn rest<'a>(at: At<'a>, keyword: &str) -> Content<'a> {
    match at.json.get(keyword) {
        None | Some(Json::Bool(true)) => Content::Open,
        Some(Json::Bool(false)) => Content::Closed,
        Some(Json::Object(members)) if members.is_empty() => Content::Open,
        Some(schema) => Content::Partial(at.at(schema)),
    }
}

/// What an object allows as a property that it does not name.
pub(super) fn content<'a>(at: At<'a>, name: &str) -> Content<'a> {
    let patterns = members(at.json, "patternProperties");
    match patterns.iter().find(|(pattern, _)| finds(pattern, name)) {
        Some((_, schema)) => Content::Partial(at.at(schema)),
        None => rest(at, "additionalProperties"),
    }
}

/// The schemas of the first items, one each.
pub(super) fn tuple(json: &Json) -> Option<&[Json]> {
    json.get("prefixItems").and_then(Json::as_array).or_else(|| json.get("items").and_then(Json::as_array))
}

/// What an array allows behind the items of its tuple.
pub(super) fn items_rest(at: At<'_>) -> Content<'_> {
    if at.json.get("prefixItems").is_some() { rest(at, "items") } else { rest(at, "additionalItems") }
}
