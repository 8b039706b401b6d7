//! Avro schemas as their producers registered them: parsed, with every name resolved, and checked for depth and
//! recursion.
//!
//! Owns: the model of a writer's schema. [`shape`] says what columns it needs, [`decode`] reads its values. Does not
//! own: compatibility of versions (the registry). Pure.
//!
//! The parser accepts what Confluent's registry accepts and keeps only what columns need: defaults, docs and field
//! orders are read over. A logical type that does not fit its base type, or whose attributes are not valid, counts as
//! not given, as the Avro specification says.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::columns::fill::Unit;
use crate::columns::{DEPTH_MAX, Refused};

pub mod decode;
pub mod shape;
#[cfg(test)]
mod tests;

/// Types of one schema with its references at the most.
const NODES_MAX: usize = 20_000;
/// Levels of types inside each other at the most, unions and fields included: what a walk of a schema may recurse.
const NESTING_MAX: usize = 4 * DEPTH_MAX;

/// A type of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    /// Days since 1970.
    Date,
    /// Milliseconds of the day, an int.
    TimeMillis,
    /// Microseconds of the day, a long.
    TimeMicros,
    /// Since 1970, a long.
    Timestamp {
        unit: Unit,
        /// Without a time zone: `local-timestamp-*`.
        local: bool,
    },
    /// A string of 36 characters or of another form of a UUID.
    UuidString,
    Decimal {
        precision: u32,
        scale: u32,
        /// Bytes of a `fixed`; `None` for `bytes`.
        size: Option<usize>,
    },
    /// Also `duration`; `uuid` if the name says so.
    Fixed {
        size: usize,
        uuid: bool,
    },
    Enum(Vec<String>),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub node: NodeId,
}

/// A record's, enum's or fixed's full name, and the full names it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeName {
    pub full: String,
    pub aliases: Vec<String>,
}

/// A writer's schema.
#[derive(Clone, Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    /// Of named types only.
    names: HashMap<NodeId, TypeName>,
    /// Of each type, whether its values have no content that a column could show.
    empty: Vec<bool>,
    /// Of each type, whether its values take no bytes.
    weightless: Vec<bool>,
    /// Of each record, the types of its fields whose values take bytes.
    with_bytes: Vec<Box<[NodeId]>>,
    root: NodeId,
}

impl Schema {
    /// Parses `text`; `references` are the schemas that it names, each after those that it names itself.
    ///
    /// # Errors
    /// The text is not an Avro schema, or it is recursive or too deep.
    pub fn parse(text: &str, references: &[&str]) -> Result<Self, Refused> {
        let mut parser = Parser::default();
        for reference in references {
            parser.text(reference)?;
        }
        let root = parser.text(text)?;
        let names = parser.names.into_iter().map(|(full, Named { id, aliases })| (id, TypeName { full, aliases }));
        let mut schema = Self {
            names: names.collect(),
            empty: Vec::new(),
            weightless: Vec::new(),
            with_bytes: Vec::new(),
            nodes: parser.nodes,
            root,
        };
        schema.check_nesting()?;
        Ok(schema)
    }

    #[must_use]
    pub fn root(&self) -> NodeId {
        self.root
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The type's name as a branch of a union has it: the full name, or the word for an unnamed type.
    #[must_use]
    pub fn type_name(&self, id: NodeId) -> TypeName {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let word = match self.node(id) {
            Node::Null => "null",
            Node::Boolean => "boolean",
            Node::Int | Node::Date | Node::TimeMillis => "int",
            Node::Long | Node::TimeMicros | Node::Timestamp { .. } => "long",
            Node::Float => "float",
            Node::Double => "double",
            Node::Bytes | Node::Decimal { .. } => "bytes",
            Node::String | Node::UuidString => "string",
            Node::Array(_) => "array",
            Node::Map(_) => "map",
            Node::Fixed { .. } | Node::Enum(_) | Node::Record(_) | Node::Union(_) => "union",
        };
        TypeName { full: word.to_owned(), aliases: Vec::new() }
    }

    /// The branch of a union that has content, if it is the only one.
    fn only_branch(&self, branches: &[NodeId]) -> Option<usize> {
        let mut full = (0..branches.len()).filter(|at| !self.is_empty(branches[*at]));
        full.next().filter(|_| full.next().is_none())
    }

    fn is_empty(&self, id: NodeId) -> bool {
        self.empty[id.0 as usize]
    }

    fn is_weightless(&self, id: NodeId) -> bool {
        self.weightless[id.0 as usize]
    }

    fn fields_with_bytes(&self, record: NodeId) -> &[NodeId] {
        &self.with_bytes[record.0 as usize]
    }

    /// Refuses a type that contains itself, by name, and types nested deeper than a decoder should recurse. Finds the
    /// types without content. Each type is looked at once, since a type may stand in any number of places.
    fn check_nesting(&mut self) -> Result<(), Refused> {
        self.empty = vec![false; self.nodes.len()];
        self.weightless = vec![false; self.nodes.len()];
        self.with_bytes = vec![Box::default(); self.nodes.len()];
        let mut heights = vec![Height::Unknown; self.nodes.len()];
        self.height(self.root, 0, &mut heights).map(|_| ())
    }

    fn height(&mut self, id: NodeId, depth: usize, heights: &mut [Height]) -> Result<usize, Refused> {
        match heights[id.0 as usize] {
            Height::Known(height) if depth + height <= NESTING_MAX => return Ok(height),
            Height::Open => return Err(Refused::Recursive { name: self.type_name(id).full }),
            Height::Unknown if depth <= NESTING_MAX => {}
            Height::Known(_) | Height::Unknown => return Err(Refused::Depth { max: DEPTH_MAX }),
        }
        heights[id.0 as usize] = Height::Open;
        let (mut height, mut parts_empty, mut parts_weightless) = (0, true, true);
        for child in self.children(id) {
            height = height.max(1 + self.height(child, depth + 1, heights)?);
            parts_empty &= self.is_empty(child);
            parts_weightless &= self.is_weightless(child);
        }
        heights[id.0 as usize] = Height::Known(height);
        self.empty[id.0 as usize] = match self.node(id) {
            Node::Null => true,
            Node::Fixed { size, .. } => *size == 0,
            Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) => parts_empty,
            _ => false,
        };
        self.weightless[id.0 as usize] = match self.node(id) {
            Node::Null => true,
            Node::Fixed { size, .. } => *size == 0,
            Node::Record(_) => parts_weightless,
            _ => false,
        };
        if let Node::Record(fields) = self.node(id) {
            let with_bytes = fields.iter().map(|field| field.node).filter(|node| !self.is_weightless(*node));
            self.with_bytes[id.0 as usize] = with_bytes.collect();
        }
        Ok(height)
    }

    fn children(&self, id: NodeId) -> Vec<NodeId> {
        match self.node(id) {
            Node::Array(child) | Node::Map(child) => vec![*child],
            Node::Union(branches) => branches.clone(),
            Node::Record(fields) => fields.iter().map(|field| field.node).collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Height {
    Unknown,
    /// Being computed: meeting it again is recursion.
    Open,
    Known(usize),
}

#[derive(Debug, Default)]
struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, Named>,
}

/// A type with a name, and the full names that it had.
#[derive(Debug)]
struct Named {
    id: NodeId,
    aliases: Vec<String>,
}

fn invalid(what: impl Into<String>) -> Refused {
    Refused::Schema(what.into())
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<NodeId, Refused> {
        // A bare name of a primitive type is accepted without quotes, as the registry accepts it.
        let trimmed = text.trim();
        if let Some(node) = primitive(trimmed) {
            return self.add(node);
        }
        let json: Json = serde_json::from_str(trimmed).map_err(|e| invalid(format!("it is not JSON: {e}")))?;
        self.schema(&json, "")
    }

    fn add(&mut self, node: Node) -> Result<NodeId, Refused> {
        if self.nodes.len() >= NODES_MAX {
            return Err(invalid(format!("it has more than {NODES_MAX} types")));
        }
        self.nodes.push(node);
        Ok(NodeId((self.nodes.len() - 1) as u32))
    }

    fn schema(&mut self, json: &Json, namespace: &str) -> Result<NodeId, Refused> {
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => self.union(branches, namespace),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(kind)) => self.object(kind, json, namespace),
                Some(inner) => self.schema(inner, namespace),
                None => Err(invalid("a type lacks \"type\"")),
            },
            _ => Err(invalid(format!("a type is neither a name nor an object nor a union: {json}"))),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<NodeId, Refused> {
        if let Some(node) = primitive(name) {
            return self.add(node);
        }
        let qualified = qualified(name, namespace);
        let found = self.names.get(&qualified).or_else(|| self.names.get(name));
        found.map(|named| named.id).ok_or_else(|| invalid(format!("type {qualified} is not defined")))
    }

    fn union(&mut self, branches: &[Json], namespace: &str) -> Result<NodeId, Refused> {
        let mut nodes = Vec::with_capacity(branches.len());
        for branch in branches {
            if branch.is_array() {
                return Err(invalid("a union is directly inside a union"));
            }
            nodes.push(self.schema(branch, namespace)?);
        }
        self.add(Node::Union(nodes))
    }

    fn object(&mut self, kind: &str, json: &Json, namespace: &str) -> Result<NodeId, Refused> {
        match kind {
            "record" | "error" => self.record(json, namespace),
            "enum" => {
                let symbols = json.get("symbols").and_then(Json::as_array).ok_or_else(|| invalid("no symbols"))?;
                let symbol = |s: &Json| s.as_str().map(ToOwned::to_owned).ok_or_else(|| invalid("a symbol is no text"));
                let symbols = symbols.iter().map(symbol).collect::<Result<_, _>>()?;
                let id = self.add(Node::Enum(symbols))?;
                self.define(id, json, namespace).map(|_| id)
            }
            "fixed" => {
                let size = json.get("size").and_then(Json::as_u64).and_then(|size| i32::try_from(size).ok());
                let size = size.ok_or_else(|| invalid("a fixed type lacks a valid size"))? as usize;
                let node = match json.get("logicalType").and_then(Json::as_str) {
                    Some("decimal") => decimal(json, Some(size)),
                    Some("uuid") if size == 16 => Some(Node::Fixed { size, uuid: true }),
                    _ => None,
                };
                let id = self.add(node.unwrap_or(Node::Fixed { size, uuid: false }))?;
                self.define(id, json, namespace).map(|_| id)
            }
            "array" => {
                let items =
                    self.schema(json.get("items").ok_or_else(|| invalid("an array lacks items"))?, namespace)?;
                self.add(Node::Array(items))
            }
            "map" => {
                let values =
                    self.schema(json.get("values").ok_or_else(|| invalid("a map lacks values"))?, namespace)?;
                self.add(Node::Map(values))
            }
            name => match primitive(name) {
                Some(node) => {
                    let logical = json.get("logicalType").and_then(Json::as_str);
                    self.add(logical.and_then(|word| logical_type(&node, word, json)).unwrap_or(node))
                }
                None => self.named(name, namespace),
            },
        }
    }

    fn record(&mut self, json: &Json, namespace: &str) -> Result<NodeId, Refused> {
        let id = self.add(Node::Record(Vec::new()))?;
        let namespace = self.define(id, json, namespace)?;
        let fields = json.get("fields").and_then(Json::as_array).ok_or_else(|| invalid("a record lacks fields"))?;
        let mut parsed: Vec<Field> = Vec::with_capacity(fields.len());
        for field in fields {
            let name = field.get("name").and_then(Json::as_str).ok_or_else(|| invalid("a field lacks a name"))?;
            check_name(name)?;
            let kind = field.get("type").ok_or_else(|| invalid(format!("field {name} lacks a type")))?;
            let node = self.schema(kind, &namespace)?;
            parsed.push(Field { name: name.to_owned(), aliases: aliases(field)?, node });
        }
        let mut names: Vec<&str> = parsed.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!("a record has two fields {}", twice[0])));
        }
        self.nodes[id.0 as usize] = Node::Record(parsed);
        Ok(id)
    }

    /// Records the name of a new type; returns the namespace of what it contains.
    fn define(&mut self, id: NodeId, json: &Json, namespace: &str) -> Result<String, Refused> {
        let name = json.get("name").and_then(Json::as_str).ok_or_else(|| invalid("a named type lacks a name"))?;
        let namespace = json.get("namespace").and_then(Json::as_str).unwrap_or(namespace);
        let full = qualified(name, namespace);
        full.split('.').try_for_each(check_name)?;
        let own = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let aliases = aliases(json)?.iter().map(|alias| qualified(alias, &own)).collect();
        if primitive(&full).is_some() || self.names.insert(full.clone(), Named { id, aliases }).is_some() {
            return Err(invalid(format!("type {full} is defined twice")));
        }
        Ok(own)
    }
}

/// Letters of any script are names to Java's library; dots and spaces are not.
fn check_name(name: &str) -> Result<(), Refused> {
    let is_inner = |c: char| c.is_alphanumeric() || c == '_';
    if name.chars().next().is_some_and(|c| is_inner(c) && !c.is_numeric()) && name.chars().all(is_inner) {
        return Ok(());
    }
    Err(invalid(format!("{name:?} is not a valid name")))
}

fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        return name.trim_start_matches('.').to_owned();
    }
    format!("{namespace}.{name}")
}

/// Earlier names of a type or field.
fn aliases(json: &Json) -> Result<Vec<String>, Refused> {
    let Some(written) = json.get("aliases") else { return Ok(Vec::new()) };
    let aliases = written.as_array().ok_or_else(|| invalid(format!("aliases are not an array: {written}")))?;
    let text = |alias: &Json| alias.as_str().map(ToOwned::to_owned);
    aliases.iter().map(|alias| text(alias).ok_or_else(|| invalid(format!("an alias is no text: {alias}")))).collect()
}

fn primitive(name: &str) -> Option<Node> {
    Some(match name {
        "null" => Node::Null,
        "boolean" => Node::Boolean,
        "int" => Node::Int,
        "long" => Node::Long,
        "float" => Node::Float,
        "double" => Node::Double,
        "bytes" => Node::Bytes,
        "string" => Node::String,
        _ => return None,
    })
}

fn logical_type(base: &Node, word: &str, json: &Json) -> Option<Node> {
    let timestamp = |unit, local| Some(Node::Timestamp { unit, local });
    match (base, word) {
        (Node::Int, "date") => Some(Node::Date),
        (Node::Int, "time-millis") => Some(Node::TimeMillis),
        (Node::Long, "time-micros") => Some(Node::TimeMicros),
        (Node::Long, "timestamp-millis") => timestamp(Unit::Millis, false),
        (Node::Long, "timestamp-micros") => timestamp(Unit::Micros, false),
        (Node::Long, "timestamp-nanos") => timestamp(Unit::Nanos, false),
        (Node::Long, "local-timestamp-millis") => timestamp(Unit::Millis, true),
        (Node::Long, "local-timestamp-micros") => timestamp(Unit::Micros, true),
        (Node::Long, "local-timestamp-nanos") => timestamp(Unit::Nanos, true),
        (Node::String, "uuid") => Some(Node::UuidString),
        (Node::Bytes, "decimal") => decimal(json, None),
        _ => None,
    }
}

/// `None` if precision and scale are not valid, or the precision is beyond what a `fixed` of `size` bytes holds.
fn decimal(json: &Json, size: Option<usize>) -> Option<Node> {
    let number = |name: &str| json.get(name).map(|n| n.as_u64().and_then(|n| u32::try_from(n).ok()));
    let precision = number("precision")??;
    let scale = number("scale").unwrap_or(Some(0))?;
    // Digits of the largest value: floor(log10(2^(8n-1) - 1)).
    let digits = size.map_or(f64::INFINITY, |size| ((8.0 * size as f64 - 1.0) * std::f64::consts::LOG10_2).floor());
    let valid = precision > 0 && scale <= precision && f64::from(precision) <= digits;
    valid.then_some(Node::Decimal { precision, scale, size })
}
