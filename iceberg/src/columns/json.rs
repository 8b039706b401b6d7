//! JSON Schemas as producers registered them, as far as columns need them: [`Schema`].
//!
//! Owns: which columns values of a schema need ([`Schema::shape`]); [`decode`] reads values. Does not own: whether a
//! value satisfies a schema beyond the types of its columns (`minimum`, `required` and so on are the producer's and the
//! registry's), and never fetches a `$ref`. Pure.
//!
//! | JSON Schema | column |
//! |---|---|
//! | boolean, integer, number, string | boolean, long, double, string |
//! | string with format date-time, date, uuid | timestamptz, date, uuid |
//! | object with properties | struct; members that the schema does not name are left out |
//! | object with additionalProperties only | map |
//! | array with one schema for items | list |
//! | anything with null as another type or branch | the same: all columns are optional |
//! | allOf of objects | one struct |
//! | several types, several branches, no type, an object or array of anything | string of JSON, as it was written |
//! | object with `x-tidewater-rest` | struct; members that the schema does not name are its string `rest`, as JSON |

use serde_json::{Value as Json, json};

use crate::columns::shape::{Key, Member, Shape};
use crate::columns::{COLUMNS_MAX, DEPTH_MAX, Refused};
use iceberg::spec::PrimitiveType;

mod cursor;
pub mod decode;
pub mod infer;
#[cfg(test)]
mod tests;

/// References that lead from one to the next at most, and schemas inside each other that are no columns of their own.
const NESTING_MAX: usize = 4 * DEPTH_MAX;

/// What a value is, with references resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Boolean,
    Integer,
    Number,
    Text,
    DateTime,
    Date,
    Uuid,
    /// Kept as text.
    Any,
    Object(Members),
    List(Box<Node>),
    Map(Box<Node>),
}

/// What an object's members are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    pub named: Vec<(String, Node)>,
    /// Others are kept, as one text of JSON; else they are left out.
    pub keeps_rest: bool,
}

/// A writer's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    root: Node,
}

impl Schema {
    /// Parses `text`; `references` are the schemas that it names, by the names that it uses.
    ///
    /// # Errors
    /// The text is no JSON Schema, is recursive, or a `$ref` leads to nothing given.
    pub fn parse(text: &str, references: &[(&str, &str)]) -> Result<Self, Refused> {
        let parse = |text: &str| {
            let json: Json = serde_json::from_str(text).map_err(|e| invalid(format!("it is not JSON: {e}")))?;
            if json.is_object() || json.is_boolean() { Ok(json) } else { Err(invalid("it is no object")) }
        };
        let root = parse(text)?;
        let named = references.iter().map(|(name, text)| Ok(((*name).to_owned(), parse(text)?)));
        let documents = Documents { root, named: named.collect::<Result<_, Refused>>()? };
        let mut parser = Parser { documents: &documents, open: Vec::new(), nodes: 0 };
        let root = parser.node(&Place { document: &documents.root, json: &documents.root }, 0)?;
        Ok(Self { root: root.ok_or(Refused::Empty)? })
    }

    /// Of columns that were given in another way than by a JSON Schema.
    #[must_use]
    pub fn of(root: Node) -> Self {
        Self { root }
    }

    /// A JSON Schema that [`Schema::parse`] reads as this schema.
    #[must_use]
    pub fn to_text(&self) -> String {
        text(&self.root).to_string()
    }

    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The columns that the schema needs: always a [`Shape::Struct`].
    ///
    /// # Errors
    /// Too many columns, or too deep.
    pub fn shape(&self) -> Result<Shape, Refused> {
        let shape = match &self.root {
            Node::Object(_) => shape(&self.root, 0)?,
            root => Shape::Struct(vec![member(0, Key::Whole, root, 0)?]),
        };
        let columns = shape.columns();
        if columns > COLUMNS_MAX {
            return Err(Refused::Columns { columns, max: COLUMNS_MAX });
        }
        Ok(shape)
    }
}

/// The word for [`Members::keeps_rest`] in the text of a schema.
const KEEPS_REST: &str = "x-tidewater-rest";

fn text(node: &Node) -> Json {
    match node {
        Node::Boolean => json!({"type": "boolean"}),
        Node::Integer => json!({"type": "integer"}),
        Node::Number => json!({"type": "number"}),
        Node::Text => json!({"type": "string"}),
        Node::DateTime => json!({"type": "string", "format": "date-time"}),
        Node::Date => json!({"type": "string", "format": "date"}),
        Node::Uuid => json!({"type": "string", "format": "uuid"}),
        Node::Any => json!({}),
        Node::List(item) => json!({"type": "array", "items": text(item)}),
        Node::Map(item) => json!({"type": "object", "additionalProperties": text(item)}),
        Node::Object(Members { named, keeps_rest }) => {
            let properties: serde_json::Map<_, _> =
                named.iter().map(|(name, node)| (name.clone(), text(node))).collect();
            match keeps_rest {
                true => json!({"type": "object", "properties": properties, KEEPS_REST: true}),
                false => json!({"type": "object", "properties": properties}),
            }
        }
    }
}

fn member(source: usize, key: Key, node: &Node, depth: usize) -> Result<Member, Refused> {
    let name = key.name();
    Ok(Member { source, key, name, aliases: Vec::new(), branch: Vec::new(), shape: shape(node, depth)? })
}

fn shape(node: &Node, depth: usize) -> Result<Shape, Refused> {
    let deeper = || if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(Refused::Depth { max: DEPTH_MAX }) };
    let text = |kind| Shape::Logical { kind, base: PrimitiveType::String };
    Ok(match node {
        Node::Boolean => Shape::Primitive(PrimitiveType::Boolean),
        Node::Integer => Shape::Primitive(PrimitiveType::Long),
        Node::Number => Shape::Primitive(PrimitiveType::Double),
        Node::Text | Node::Any => Shape::Primitive(PrimitiveType::String),
        Node::DateTime => text(PrimitiveType::Timestamptz),
        Node::Date => text(PrimitiveType::Date),
        Node::Uuid => text(PrimitiveType::Uuid),
        Node::List(element) => Shape::List(Box::new(shape(element, deeper()?)?)),
        Node::Map(value) => Shape::Map(Box::new(shape(value, deeper()?)?)),
        Node::Object(members) => {
            let depth = deeper()?;
            let named = members.named.iter().enumerate();
            let named = named.map(|(source, (name, node))| member(source, Key::Field(name.clone()), node, depth));
            let rest = members.keeps_rest.then(|| member(members.named.len(), Key::Rest, &Node::Any, depth));
            Shape::Struct(named.chain(rest).collect::<Result<_, _>>()?)
        }
    })
}

fn invalid(what: impl Into<String>) -> Refused {
    Refused::Schema(what.into())
}

/// The schema and those that it names.
struct Documents {
    root: Json,
    named: Vec<(String, Json)>,
}

/// A schema and the document that its local references are of.
#[derive(Clone, Copy)]
struct Place<'a> {
    document: &'a Json,
    json: &'a Json,
}

struct Parser<'a> {
    documents: &'a Documents,
    /// References that are being resolved: meeting one again is recursion.
    open: Vec<&'a Json>,
    nodes: usize,
}

impl<'a> Parser<'a> {
    /// `None`: only null.
    fn node(&mut self, place: &Place<'a>, depth: usize) -> Result<Option<Node>, Refused> {
        self.nodes += 1;
        if self.nodes > 4 * COLUMNS_MAX {
            return Err(Refused::Columns { columns: self.nodes, max: COLUMNS_MAX });
        }
        if depth > NESTING_MAX {
            return Err(Refused::Depth { max: DEPTH_MAX });
        }
        let json = place.json;
        if json.is_boolean() {
            return Ok(Some(Node::Any));
        }
        let Some(object) = json.as_object() else { return Err(invalid(format!("{json} is no schema"))) };
        if let Some(reference) = object.get("$ref") {
            let reference = reference.as_str().ok_or_else(|| invalid("a $ref is no text"))?;
            let target = self.resolve(place, reference)?;
            if self.open.iter().any(|open| std::ptr::eq(*open, target.json)) {
                return Err(Refused::Recursive { name: reference.to_owned() });
            }
            self.open.push(target.json);
            let node = self.node(&target, depth + 1);
            self.open.pop();
            return node;
        }
        for word in ["oneOf", "anyOf"] {
            if let Some(branches) = object.get(word).and_then(Json::as_array) {
                return self.branches(place, branches, depth);
            }
        }
        if let Some(parts) = object.get("allOf").and_then(Json::as_array) {
            return self.all_of(place, parts, depth).map(Some);
        }
        self.typed(place, depth)
    }

    fn inside(&mut self, place: &Place<'a>, json: &'a Json, depth: usize) -> Result<Option<Node>, Refused> {
        self.node(&Place { document: place.document, json }, depth + 1)
    }

    /// `#/definitions/x`, `name` or `name#/definitions/x`.
    fn resolve(&self, place: &Place<'a>, reference: &str) -> Result<Place<'a>, Refused> {
        let missing = || invalid(format!("$ref {reference} leads to nothing that the schema was registered with"));
        let (name, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let document = match name {
            "" => place.document,
            name => {
                let own = self.documents.root.get("$id").and_then(Json::as_str) == Some(name);
                let named = self.documents.named.iter().find(|(known, _)| known == name).map(|(_, json)| json);
                named.or(own.then_some(&self.documents.root)).ok_or_else(missing)?
            }
        };
        Ok(Place { document, json: document.pointer(pointer).ok_or_else(missing)? })
    }

    /// One branch beside null is that branch; more are any JSON.
    fn branches(&mut self, place: &Place<'a>, branches: &'a [Json], depth: usize) -> Result<Option<Node>, Refused> {
        let mut found = None;
        for branch in branches {
            match (self.inside(place, branch, depth)?, &found) {
                (None, _) => {}
                (Some(node), None) => found = Some(node),
                (Some(node), Some(other)) if node == *other => {}
                (Some(_), Some(_)) => found = Some(Node::Any),
            }
        }
        Ok(found)
    }

    fn all_of(&mut self, place: &Place<'a>, parts: &'a [Json], depth: usize) -> Result<Node, Refused> {
        let mut members: Vec<(String, Node)> = Vec::new();
        let own = self.typed(place, depth)?;
        let mut nodes = Vec::new();
        for part in parts {
            nodes.extend(self.inside(place, part, depth)?);
        }
        let own = own.filter(|own| *own != Node::Any);
        let only = if own.is_none() && nodes.len() == 1 { nodes.pop() } else { None };
        if let Some(only) = only {
            return Ok(only);
        }
        for node in own.into_iter().chain(nodes) {
            let Node::Object(Members { named: more, .. }) = node else { return Ok(Node::Any) };
            members.extend(
                more.into_iter().filter(|(name, _)| members.iter().all(|(known, _)| known != name)).collect::<Vec<_>>(),
            );
        }
        Ok(if members.is_empty() { Node::Any } else { Node::Object(Members { named: members, keeps_rest: false }) })
    }

    fn typed(&mut self, place: &Place<'a>, depth: usize) -> Result<Option<Node>, Refused> {
        let object = place.json;
        let word = match object.get("type") {
            Some(Json::String(word)) => word.as_str(),
            Some(Json::Array(words)) => {
                let words: Vec<&str> = words.iter().filter_map(Json::as_str).filter(|word| *word != "null").collect();
                match words.as_slice() {
                    [] => "null",
                    [word] => word,
                    ["integer", "number"] | ["number", "integer"] => "number",
                    _ => return Ok(Some(Node::Any)),
                }
            }
            None if object.get("properties").is_some() => "object",
            None if object.get("items").is_some() => "array",
            None => return Ok(Some(constant_type(object))),
            Some(other) => return Err(invalid(format!("{other} is no type"))),
        };
        Ok(Some(match word {
            "null" => return Ok(None),
            "boolean" => Node::Boolean,
            "integer" => Node::Integer,
            "number" => Node::Number,
            "string" => match object.get("format").and_then(Json::as_str) {
                Some("date-time") => Node::DateTime,
                Some("date") => Node::Date,
                Some("uuid") => Node::Uuid,
                _ => Node::Text,
            },
            "array" => match object.get("items") {
                Some(items) if items.is_object() => match self.inside(place, items, depth)? {
                    Some(node) => Node::List(Box::new(node)),
                    None => Node::Any,
                },
                _ => Node::Any,
            },
            "object" => self.object(place, depth)?,
            word => return Err(invalid(format!("{word:?} is no type"))),
        }))
    }

    fn object(&mut self, place: &Place<'a>, depth: usize) -> Result<Node, Refused> {
        let mut members = Vec::new();
        for (name, json) in place.json.get("properties").and_then(Json::as_object).into_iter().flatten() {
            if let Some(node) = self.inside(place, json, depth)? {
                members.push((name.clone(), node));
            }
        }
        let keeps_rest = place.json.get(KEEPS_REST).and_then(Json::as_bool) == Some(true);
        if keeps_rest || !members.is_empty() {
            return Ok(Node::Object(Members { named: members, keeps_rest }));
        }
        match place.json.get("additionalProperties") {
            Some(values) if values.is_object() => {
                let node = self.inside(place, values, depth)?;
                Ok(node.map_or(Node::Any, |node| Node::Map(Box::new(node))))
            }
            _ => Ok(Node::Any),
        }
    }
}

/// Of a schema that lists values instead of a type.
fn constant_type(json: &Json) -> Node {
    let values = match (json.get("enum").and_then(Json::as_array), json.get("const")) {
        (Some(values), _) => values.iter().filter(|value| !value.is_null()).collect::<Vec<_>>(),
        (None, Some(value)) => vec![value],
        (None, None) => Vec::new(),
    };
    let all = |is: fn(&Json) -> bool| !values.is_empty() && values.iter().all(|value| is(value));
    if all(Json::is_string) {
        Node::Text
    } else if all(Json::is_boolean) {
        Node::Boolean
    } else if all(Json::is_i64) {
        Node::Integer
    } else if all(Json::is_number) {
        Node::Number
    } else {
        Node::Any
    }
}
