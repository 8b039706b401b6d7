//! Avro schemas: the JSON text to types that are linked by number, so that a record may contain itself.
//!
//! Follows Java's parser, which decides what Confluent's registry accepts: a name is looked up in the namespace around
//! it and then without one; the reserved attributes are known per kind of type, all others are kept in their order.

use std::collections::HashMap;

use super::super::json::Json;
use super::super::limits::{SCHEMA_DEPTH_MAX, TYPE_CHAIN_MAX};
use super::{ParseError, Resolved, Strictness};

/// The place of a type in its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(usize);

/// A schema and all types in it.
#[derive(Clone, Debug)]
pub struct AvroSchema {
    types: Vec<AvroType>,
    root: TypeId,
    /// The types that references define: they are printed by name.
    pub(super) referred: Vec<Name>,
}

/// The name of a record, enum or fixed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub space: Option<String>,
    pub name: String,
}

/// A type with what is said about it.
#[derive(Clone, Debug)]
pub struct AvroType {
    pub shape: Shape,
    pub(super) doc: Option<String>,
    pub aliases: Vec<Name>,
    /// All attributes that Avro does not reserve, `logicalType` among them.
    pub(super) attributes: Vec<(String, Json)>,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Primitive(Primitive),
    Record { name: Name, is_error: bool, fields: Vec<Field> },
    Enum { name: Name, symbols: Vec<String>, default: Option<String> },
    Fixed { name: Name, size: i32 },
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub of: TypeId,
    pub(super) doc: Option<String>,
    pub default: Option<Json>,
    pub(super) order: Order,
    pub aliases: Vec<String>,
    pub(super) attributes: Vec<(String, Json)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
    Ignore,
}

const TYPE_RESERVED: &[&str] =
    &["doc", "fields", "items", "name", "namespace", "size", "symbols", "values", "type", "aliases"];
const FIELD_RESERVED: &[&str] = &["default", "doc", "name", "order", "type", "aliases"];

impl Primitive {
    pub const ALL: [Self; 8] =
        [Self::Null, Self::Boolean, Self::Int, Self::Long, Self::Float, Self::Double, Self::Bytes, Self::String];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|primitive| primitive.as_str() == text)
    }
}

impl Name {
    /// A name as a schema writes it, in the namespace `around` it: points in it make a namespace of its own.
    pub(super) fn new(text: &str, around: Option<&str>) -> Self {
        let (space, name) = text.rsplit_once('.').map_or((around, text), |(space, name)| (Some(space), name));
        Self { space: space.filter(|space| !space.is_empty()).map(ToOwned::to_owned), name: name.to_owned() }
    }

    #[must_use]
    pub fn full(&self) -> String {
        self.space.as_ref().map_or_else(|| self.name.clone(), |space| format!("{space}.{}", self.name))
    }
}

impl Shape {
    /// What messages call it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Primitive(primitive) => match primitive {
                Primitive::Null => "NULL",
                Primitive::Boolean => "BOOLEAN",
                Primitive::Int => "INT",
                Primitive::Long => "LONG",
                Primitive::Float => "FLOAT",
                Primitive::Double => "DOUBLE",
                Primitive::Bytes => "BYTES",
                Primitive::String => "STRING",
            },
            Self::Record { .. } => "RECORD",
            Self::Enum { .. } => "ENUM",
            Self::Fixed { .. } => "FIXED",
            Self::Array(_) => "ARRAY",
            Self::Map(_) => "MAP",
            Self::Union(_) => "UNION",
        }
    }

    #[must_use]
    pub const fn name(&self) -> Option<&Name> {
        match self {
            Self::Record { name, .. } | Self::Enum { name, .. } | Self::Fixed { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl AvroSchema {
    /// # Errors
    /// The text breaks a rule of Avro, or names a type that is defined neither in it nor in `references`.
    pub fn parse(text: &str, references: &[Resolved], strictness: Strictness) -> Result<Self, ParseError> {
        let mut parser = Parser { types: Vec::new(), named: HashMap::new(), strictness, depth: 0 };
        let mut referred = Vec::new();
        for reference in references {
            let root = parser.text(&reference.text)?;
            if let Some(name) = parser.get(root).and_then(|of| of.shape.name()) {
                referred.push(name.clone());
            }
        }
        let root = parser.text(text)?;
        parser.check_chains(root)?;
        Ok(Self { types: parser.types, root, referred })
    }

    #[must_use]
    pub const fn root(&self) -> TypeId {
        self.root
    }

    /// # Panics
    /// If `id` is of another schema: a defect.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "ids are made by this schema's parser")]
    pub fn get(&self, id: TypeId) -> &AvroType {
        &self.types[id.0]
    }
}

struct Parser {
    types: Vec<AvroType>,
    named: HashMap<Name, TypeId>,
    strictness: Strictness,
    depth: usize,
}

type Parsed<T> = Result<T, ParseError>;

fn error<T>(why: impl Into<String>) -> Parsed<T> {
    Err(ParseError::new(why))
}

impl Parser {
    fn text(&mut self, text: &str) -> Parsed<TypeId> {
        match Json::parse(text) {
            Ok(json) => self.schema(&json, None),
            // A bare name is accepted, as Java's lenient reader of names does.
            Err(why) => match self.find(text.trim(), None) {
                Some(found) => Ok(found),
                None => error(format!("the schema is no JSON: {why}")),
            },
        }
    }

    fn get(&self, id: TypeId) -> Option<&AvroType> {
        self.types.get(id.0)
    }

    fn add(&mut self, shape: Shape) -> TypeId {
        self.types.push(AvroType { shape, doc: None, aliases: Vec::new(), attributes: Vec::new() });
        TypeId(self.types.len() - 1)
    }

    /// Refuses types that lead to each other over more steps than printing and comparing may go down: walks them as
    /// those do, without calling itself.
    fn check_chains(&self, root: TypeId) -> Parsed<()> {
        let mut entered = std::collections::HashSet::new();
        let mut left = vec![(root, 0_usize)];
        while let Some((id, depth)) = left.pop() {
            let Some(of) = self.get(id) else { continue };
            if of.shape.name().is_some() && !entered.insert(id) {
                continue;
            }
            if depth > TYPE_CHAIN_MAX {
                return error(format!("types lead to each other over more than {TYPE_CHAIN_MAX} steps"));
            }
            match &of.shape {
                Shape::Record { fields, .. } => left.extend(fields.iter().rev().map(|field| (field.of, depth + 1))),
                Shape::Array(of) | Shape::Map(of) => left.push((*of, depth + 1)),
                Shape::Union(branches) => left.extend(branches.iter().rev().map(|branch| (*branch, depth + 1))),
                Shape::Primitive(_) | Shape::Enum { .. } | Shape::Fixed { .. } => {}
            }
        }
        Ok(())
    }

    fn is_known(&self, text: &str, space: Option<&str>) -> bool {
        Primitive::parse(text).is_some() || self.defined(text, space).is_some()
    }

    fn defined(&self, text: &str, space: Option<&str>) -> Option<TypeId> {
        let name = Name::new(text, space);
        let bare = Name { space: None, name: name.name.clone() };
        self.named.get(&name).or_else(|| self.named.get(&bare)).copied()
    }

    fn find(&mut self, text: &str, space: Option<&str>) -> Option<TypeId> {
        match Primitive::parse(text) {
            Some(primitive) => Some(self.add(Shape::Primitive(primitive))),
            None => self.defined(text, space),
        }
    }

    fn schema(&mut self, json: &Json, space: Option<&str>) -> Parsed<TypeId> {
        self.depth += 1;
        if self.depth > SCHEMA_DEPTH_MAX {
            return error(format!("types nest deeper than {SCHEMA_DEPTH_MAX} levels"));
        }
        let found = match json {
            Json::String(name) => match self.find(name, space) {
                Some(found) => Ok(found),
                None => error(format!("Undefined name: \"{name}\"")),
            },
            Json::Object(_) => self.object(json, space),
            Json::Array(branches) => self.union(branches, space),
            other => error(format!("Schema not yet supported: {other}")),
        };
        self.depth -= 1;
        found
    }

    fn union(&mut self, branches: &[Json], space: Option<&str>) -> Parsed<TypeId> {
        let (mut types, mut seen) = (Vec::with_capacity(branches.len()), std::collections::HashSet::new());
        for branch in branches {
            let id = self.schema(branch, space)?;
            let Some(of) = self.get(id) else { continue };
            if matches!(of.shape, Shape::Union(_)) {
                return error(format!("Nested union: {}", Json::array(branches.iter().cloned())));
            }
            let name = of.shape.name().map_or_else(|| of.shape.kind().to_lowercase(), Name::full);
            if !seen.insert(name.clone()) {
                return error(format!("Duplicate in union:{name}"));
            }
            types.push(id);
        }
        Ok(self.add(Shape::Union(types)))
    }

    fn object(&mut self, json: &Json, space: Option<&str>) -> Parsed<TypeId> {
        let Some(kind) = json.get("type").and_then(Json::as_str) else {
            return error(format!("No type: {json}"));
        };
        let id = match kind {
            "record" | "error" => self.record(json, space, kind == "error")?,
            "enum" => self.enumeration(json, space)?,
            "fixed" => self.fixed(json, space)?,
            "array" => {
                let Some(items) = json.given("items") else {
                    return error(format!("Array has no items type: {json}"));
                };
                let items = self.schema(items, space)?;
                self.add(Shape::Array(items))
            }
            "map" => {
                let Some(values) = json.given("values") else {
                    return error(format!("Map has no values type: {json}"));
                };
                let values = self.schema(values, space)?;
                self.add(Shape::Map(values))
            }
            // A primitive, or a name in an object of its own, to which attributes are not added.
            name => match (Primitive::parse(name), self.find(name, space)) {
                (Some(_), Some(id)) => id,
                (None, Some(id)) => return Ok(id),
                (_, None) => return error(format!("Type not supported: {name}")),
            },
        };
        let is_enum = kind == "enum";
        let kept = |name: &str| !(TYPE_RESERVED.contains(&name) || is_enum && name == "default");
        let attributes = others(json, kept);
        if let Some(of) = self.types.get_mut(id.0) {
            of.attributes = attributes;
        }
        Ok(id)
    }

    /// The name of a type that is defined here, and the namespace inside it.
    fn name(&self, json: &Json, space: Option<&str>) -> Parsed<Name> {
        let Some(text) = json.get("name").and_then(Json::as_str) else {
            return error(format!("No name in schema: {json}"));
        };
        let own = json.get("namespace").and_then(Json::as_str);
        let name = Name::new(text, own.or(space));
        check_name(&name.name)?;
        for part in name.space.iter().flat_map(|space| space.split('.')) {
            check_name(part)?;
        }
        if Primitive::parse(&name.name).is_some() && name.space.is_none() {
            return error(format!("Schemas may not be named after primitives: {}", name.name));
        }
        if self.named.contains_key(&name) {
            return error(format!("Can't redefine: {}", name.full()));
        }
        Ok(name)
    }

    fn define(&mut self, name: &Name, shape: Shape, json: &Json) -> TypeId {
        let id = self.add(shape);
        self.named.insert(name.clone(), id);
        if let Some(of) = self.types.get_mut(id.0) {
            of.doc = json.get("doc").and_then(Json::as_str).map(ToOwned::to_owned);
        }
        id
    }

    fn set_aliases(&mut self, id: TypeId, name: &Name, json: &Json) -> Parsed<()> {
        let aliases = aliases(json)?;
        if let Some(of) = self.types.get_mut(id.0) {
            of.aliases = aliases.iter().map(|alias| Name::new(alias, name.space.as_deref())).collect();
        }
        Ok(())
    }

    fn record(&mut self, json: &Json, space: Option<&str>, is_error: bool) -> Parsed<TypeId> {
        let name = self.name(json, space)?;
        let inside = name.space.clone();
        let id = self.define(&name, Shape::Record { name: name.clone(), is_error, fields: Vec::new() }, json);
        let Some(written) = json.get("fields").and_then(Json::as_array) else {
            return error(format!("Record has no fields: {json}"));
        };
        let (mut fields, mut seen) = (Vec::with_capacity(written.len()), std::collections::HashSet::new());
        for field in written {
            let field = self.field(field, inside.as_deref())?;
            if !seen.insert(field.name.clone()) {
                return error(format!("Duplicate field {} in record {}", field.name, name.full()));
            }
            fields.push(field);
        }
        if let Some(Shape::Record { fields: slot, .. }) = self.types.get_mut(id.0).map(|of| &mut of.shape) {
            *slot = fields;
        }
        self.set_aliases(id, &name, json)?;
        Ok(id)
    }

    fn field(&mut self, json: &Json, space: Option<&str>) -> Parsed<Field> {
        let Some(name) = json.get("name").and_then(Json::as_str) else {
            return error(format!("No field name: {json}"));
        };
        check_name(name)?;
        let Some(of) = json.given("type") else { return error(format!("No field type: {json}")) };
        if let Some(wanted) = of.as_str()
            && !self.is_known(wanted, space)
        {
            return error(format!(
                "\"{wanted}\" is not a defined name. The type of the \"{name}\" field must be a defined name or a {{\"type\": ...}} expression."
            ));
        }
        let of = self.schema(of, space)?;
        let order = match json.get("order").and_then(Json::as_str).map(str::to_ascii_lowercase).as_deref() {
            None | Some("ascending") => Order::Ascending,
            Some("descending") => Order::Descending,
            Some("ignore") => Order::Ignore,
            Some(other) => return error(format!("No order of a field: {other}")),
        };
        let default = json.get("default").map(|default| self.default_value(of, default));
        if let Some(default) = &default
            && self.strictness == Strictness::New
            && !self.is_default(of, default, 0)
        {
            let kind = self.get(of).map_or("type", |of| of.shape.kind()).to_lowercase();
            return error(format!("Invalid default for field {name}: {default} not a {kind}"));
        }
        Ok(Field {
            name: name.to_owned(),
            of,
            doc: json.get("doc").and_then(Json::as_str).map(ToOwned::to_owned),
            default,
            order,
            aliases: aliases(json)?,
            attributes: others(json, |name| !FIELD_RESERVED.contains(&name)),
        })
    }

    /// Text for a number with a point is that number (`"NaN"` cannot be printed as one and stays text).
    fn default_value(&self, of: TypeId, default: &Json) -> Json {
        let is_floating =
            matches!(self.get(of).map(|of| &of.shape), Some(Shape::Primitive(Primitive::Float | Primitive::Double)));
        match default {
            Json::String(text) if is_floating => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Json::Float(value),
                _ => default.clone(),
            },
            other => other.clone(),
        }
    }

    /// Can the type have this value? One of any branch of a union, as Avro has it since 1.12.
    fn is_default(&self, of: TypeId, value: &Json, depth: usize) -> bool {
        let Some(of) = self.get(of) else { return false };
        if depth > SCHEMA_DEPTH_MAX {
            return false;
        }
        match &of.shape {
            Shape::Primitive(primitive) => match primitive {
                Primitive::Null => *value == Json::Null,
                Primitive::Boolean => value.as_bool().is_some(),
                Primitive::Int => value.as_i32().is_some(),
                Primitive::Long => value.as_i64().is_some(),
                Primitive::Float | Primitive::Double => value.as_f64().is_some(),
                Primitive::Bytes | Primitive::String => value.as_str().is_some(),
            },
            Shape::Fixed { .. } | Shape::Enum { .. } => value.as_str().is_some(),
            Shape::Array(items) => {
                value.as_array().is_some_and(|values| values.iter().all(|v| self.is_default(*items, v, depth + 1)))
            }
            Shape::Map(values) => {
                value.as_object().is_some_and(|all| all.iter().all(|(_, v)| self.is_default(*values, v, depth + 1)))
            }
            Shape::Union(branches) => branches.iter().any(|branch| self.is_default(*branch, value, depth + 1)),
            Shape::Record { fields, .. } => {
                let has = |field: &Field| {
                    let given = value.get(&field.name).or(field.default.as_ref());
                    given.is_some_and(|given| self.is_default(field.of, given, depth + 1))
                };
                value.as_object().is_some() && fields.iter().all(has)
            }
        }
    }

    fn enumeration(&mut self, json: &Json, space: Option<&str>) -> Parsed<TypeId> {
        let name = self.name(json, space)?;
        let Some(written) = json.get("symbols").and_then(Json::as_array) else {
            return error(format!("Enum has no symbols: {json}"));
        };
        let mut symbols: Vec<String> = Vec::with_capacity(written.len());
        let mut seen = std::collections::HashSet::new();
        for symbol in written {
            let Some(symbol) = symbol.as_str() else { return error(format!("Enum symbol is no name: {symbol}")) };
            check_name(symbol)?;
            if !seen.insert(symbol) {
                return error(format!("Duplicate enum symbol: {symbol}"));
            }
            symbols.push(symbol.to_owned());
        }
        let default = json.get("default").and_then(Json::as_str).map(ToOwned::to_owned);
        if let Some(default) = &default
            && !symbols.contains(default)
        {
            return error(format!("The Enum Default: {default} is not in the enum symbol set: {symbols:?}"));
        }
        let id = self.define(&name, Shape::Enum { name: name.clone(), symbols, default }, json);
        self.set_aliases(id, &name, json)?;
        Ok(id)
    }

    fn fixed(&mut self, json: &Json, space: Option<&str>) -> Parsed<TypeId> {
        let name = self.name(json, space)?;
        let Some(size) = json.get("size").and_then(Json::as_i32).filter(|size| *size >= 0) else {
            return error(format!("Invalid or no size: {json}"));
        };
        let id = self.define(&name, Shape::Fixed { name: name.clone(), size }, json);
        self.set_aliases(id, &name, json)?;
        Ok(id)
    }
}

fn others(json: &Json, kept: impl Fn(&str) -> bool) -> Vec<(String, Json)> {
    json.as_object().unwrap_or_default().iter().filter(|(name, _)| kept(name)).cloned().collect()
}

/// Without repetitions.
fn aliases(json: &Json) -> Parsed<Vec<String>> {
    let Some(written) = json.given("aliases") else { return Ok(Vec::new()) };
    let Some(written) = written.as_array() else { return error(format!("aliases not an array: {json}")) };
    let mut aliases: Vec<String> = Vec::with_capacity(written.len());
    for alias in written {
        let Some(alias) = alias.as_str() else { return error(format!("alias not a string: {alias}")) };
        if !aliases.iter().any(|known| known == alias) {
            aliases.push(alias.to_owned());
        }
    }
    Ok(aliases)
}

fn check_name(name: &str) -> Parsed<()> {
    let mut letters = name.chars();
    match letters.next() {
        None => return error("Empty name"),
        Some(first) if first.is_alphabetic() || first == '_' => {}
        Some(_) => return error(format!("Illegal initial character: {name}")),
    }
    if letters.all(|c| c.is_alphanumeric() || c == '_') {
        Ok(())
    } else {
        error(format!("Illegal character in: {name}"))
    }
}

#[cfg(test)]
mod tests;
