//! How a table follows the schemas of its values: [`plan`].
//!
//! Pure: table schema, column map and a shape in; changes, conflicts and places out. The caller commits the changes,
//! schema and map in one commit, *before* it writes files of the new columns. With no changes to make, the plan says
//! only where each part of a value goes; so the same function serves after a restart.
//!
//! Rules:
//! - a member that the map does not know becomes a column at the end of its struct; order counts for nothing;
//! - in a table that was adopted, a member that has no column by these rules takes the one with its name but for the
//!   case;
//! - a column whose member is gone stays, null from then on;
//! - a member finds its column by its key, else by a key that the column had before, else by an alias that is the key
//!   of a column that no other member claims: that column is renamed, unless the table's owner gave it another name;
//! - int → long, float → double and a decimal of the same scale with more digits are promoted, except columns that the
//!   caller pins; a value whose type fits into the column's as it is (int into long, float into double, a timestamp
//!   into the column of longs that it was before it got a logical type) is written without a change;
//! - anything else is a conflict: reported, or answered by another column `name__type`, as the caller asks;
//! - a column that the owner dropped is not made again; its part of the value is left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::columns::map::{ColumnMap, ROOT};
use crate::columns::shape::{Key, Member, Shape, column_name};
use crate::columns::{COLUMNS_MAX, Refused};

#[cfg(test)]
mod tests;

/// What becomes of a member whose type its column cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The plan lists it in [`Plan::conflicts`].
    Report,
    /// It gets a column of its own, `name__type`.
    Column,
}

/// A table as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    pub schema: &'a Schema,
    /// The highest field id that the table ever gave out.
    pub last_column_id: i32,
    pub map: &'a ColumnMap,
    /// Field ids of top-level columns that values never go to.
    pub reserved: &'a [i32],
    /// Field ids whose types stay: sources of partition transforms and sort orders whose results would change.
    pub pinned: &'a [i32],
    /// Names that no new top-level column gets, in lower case: of partition fields, which share the name space.
    pub taken: &'a [&'a str],
}

/// A change to a table's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `path` ends with the column's name.
    Add {
        id: i32,
        path: String,
    },
    Rename {
        id: i32,
        from: String,
        to: String,
    },
    Promote {
        id: i32,
        from: PrimitiveType,
        to: PrimitiveType,
    },
}

/// A member that no column of its path can take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {path} is {column}; the schema has {member} there")]
pub struct Conflict {
    pub path: String,
    pub column: String,
    pub member: String,
}

/// Where a part of a value goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a column of this type.
    Leaf(PrimitiveType),
    /// Members by their order in the shape.
    Struct(Vec<MemberPlace>),
    List(Box<Place>),
    Map(Box<Place>),
    /// Into a struct that is a union, as its branch at index `target`.
    Branch {
        target: usize,
        place: Box<Place>,
    },
}

/// Where a member of a struct goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPlace {
    /// [`Member::source`].
    pub source: usize,
    /// Index among the fields of the table's struct and the place there; `None`: it is left out.
    pub target: Option<(usize, Place)>,
}

/// What to do before values of the shape can be written, and where they go then.
#[derive(Clone, Debug)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// With any, values of the shape cannot be written and nothing of the plan should be done.
    pub conflicts: Vec<Conflict>,
    /// The schema with the changes; its own id is not set.
    pub schema: Schema,
    pub last_column_id: i32,
    /// The map may change while the schema does not: a rename of a column that its owner named.
    pub map: ColumnMap,
    /// Members of the value, whose targets are indexes of [`Plan::schema`]'s top-level fields.
    pub places: Vec<MemberPlace>,
}

/// Compares `shape` with `table`.
///
/// # Errors
/// The table would have too many columns or a name that is too long, or is not as its map says.
pub fn plan(table: &Table<'_>, shape: &Shape, on_conflict: OnConflict) -> Result<Plan, Refused> {
    let Shape::Struct(members) = shape else {
        return Err(Refused::Table("a value's shape is not a struct".to_owned()));
    };
    shape.check_names()?;
    let mut planner = Planner {
        map: table.map.clone(),
        reserved: table.reserved,
        pinned: table.pinned,
        taken: table.taken,
        on_conflict,
        last_id: table.last_column_id.max(table.schema.highest_field_id()),
        changes: Vec::new(),
        conflicts: Vec::new(),
        inside_new: 0,
    };
    let (fields, places) = planner.merge_members(ROOT, table.schema.as_struct().fields().to_vec(), members, "");
    let ours = fields.iter().filter(|field| !table.reserved.contains(&field.id));
    let columns: usize = ours.map(|field| 1 + ids_inside(&field.field_type)).sum();
    if columns > COLUMNS_MAX {
        return Err(Refused::Columns { columns, max: COLUMNS_MAX });
    }
    let schema = Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(table.schema.identifier_field_ids())
        .build()
        .map_err(|e| Refused::Table(e.to_string()))?;
    Ok(Plan {
        changes: planner.changes,
        conflicts: planner.conflicts,
        schema,
        last_column_id: planner.last_id,
        map: planner.map,
        places,
    })
}

fn ids_inside(kind: &Type) -> usize {
    match kind {
        Type::Primitive(_) => 0,
        Type::Struct(inner) => inner.fields().iter().map(|field| 1 + ids_inside(&field.field_type)).sum(),
        Type::List(list) => 1 + ids_inside(&list.element_field.field_type),
        Type::Map(map) => 2 + ids_inside(&map.key_field.field_type) + ids_inside(&map.value_field.field_type),
    }
}

struct Planner<'a> {
    map: ColumnMap,
    reserved: &'a [i32],
    pinned: &'a [i32],
    taken: &'a [&'a str],
    on_conflict: OnConflict,
    last_id: i32,
    changes: Vec<Change>,
    conflicts: Vec<Conflict>,
    /// New columns that the planner is inside of: what they contain is no change of its own.
    inside_new: usize,
}

/// Columns that a member may go to, and whether the first of them has the member's alias for a key.
struct Candidates {
    ids: Vec<i32>,
    renamed: bool,
}

impl Planner<'_> {
    fn merge_members(
        &mut self,
        parent: i32,
        mut fields: Vec<NestedFieldRef>,
        members: &[Member],
        path: &str,
    ) -> (Vec<NestedFieldRef>, Vec<MemberPlace>) {
        let mut found = self.find(parent, members);
        self.adopt(parent, members, &mut found);
        let mut at: HashMap<i32, usize> = fields.iter().enumerate().map(|(at, field)| (field.id, at)).collect();
        let mut names = Names::of(&fields, if parent == ROOT { self.taken } else { &[] });
        let mut places = Vec::with_capacity(members.len());
        for (member, candidates) in members.iter().zip(found) {
            if candidates.renamed {
                for id in &candidates.ids {
                    self.rename(*id, at.get(id).map(|at| &mut fields[*at]), &member.key, &mut names);
                }
            }
            let living: Vec<usize> = candidates.ids.iter().filter_map(|id| at.get(id).copied()).collect();
            if living.is_empty() && !candidates.ids.is_empty() {
                places.push(MemberPlace { source: member.source, target: None });
                continue;
            }
            let fitting = living.iter().copied().find(|at| self.fits_member(&fields[*at], member));
            let target = match (fitting, living.first()) {
                (Some(at), _) => Some((at, self.merge_field(&mut fields[at], member, path))),
                (None, Some(first)) if self.on_conflict == OnConflict::Report => {
                    let field = &fields[*first];
                    let (path, column) = (joined(path, &field.name), word(&field.field_type));
                    self.conflicts.push(Conflict { path, column, member: member.shape.word().to_owned() });
                    None
                }
                (None, Some(_)) if self.was_dropped(&candidates.ids, &at, member.shape.word()) => None,
                (None, first) => {
                    let (name, word) = (column_name(&member.name), member.shape.word());
                    // `key_1` would not say which of two columns is the record's key.
                    let name = match first {
                        None if !(member.key.is_of_record() && names.0.contains(&name)) => names.free(&name),
                        _ => names.free(&format!("{name}__{word}")),
                    };
                    let (field, place) = self.new_field(parent, &name, member, path);
                    if first.is_some() {
                        self.map.is_beside_as(field.id, word);
                    }
                    at.insert(field.id, fields.len());
                    fields.push(field);
                    Some((fields.len() - 1, place))
                }
            };
            places.push(MemberPlace { source: member.source, target });
        }
        (fields, places)
    }

    /// Whether one of the columns `ids` was added for members of this type and then dropped by the table's owner.
    fn was_dropped(&self, ids: &[i32], living: &HashMap<i32, usize>, word: &str) -> bool {
        let beside_as = |id: &i32| self.map.column(*id).and_then(|column| column.beside_as.as_deref());
        ids.iter().any(|id| !living.contains_key(id) && beside_as(id) == Some(word))
    }

    /// The columns of each member. Keys come before former keys, those before aliases, so that no member takes a column
    /// that belongs to another one by its name.
    fn find(&self, parent: i32, members: &[Member]) -> Vec<Candidates> {
        let mut claimed = HashSet::new();
        let mut found: Vec<Candidates> = Vec::with_capacity(members.len());
        for member in members {
            let ids: Vec<i32> = self.map.at(parent, &member.key).collect();
            claimed.extend(ids.iter().copied());
            found.push(Candidates { ids, renamed: false });
        }
        for (member, candidates) in members.iter().zip(&mut found).filter(|(_, found)| found.ids.is_empty()) {
            candidates.ids = self.map.formerly_at(parent, &member.key).filter(|id| !claimed.contains(id)).collect();
            claimed.extend(candidates.ids.iter().copied());
        }
        for (member, candidates) in members.iter().zip(&mut found).filter(|(_, found)| found.ids.is_empty()) {
            for alias in &member.aliases {
                let ids: Vec<i32> = self.map.at(parent, alias).filter(|id| !claimed.contains(id)).collect();
                if !ids.is_empty() {
                    claimed.extend(ids.iter().copied());
                    *candidates = Candidates { ids, renamed: true };
                    break;
                }
            }
        }
        found
    }

    /// Gives members the columns that the table had when it was adopted: by their names without regard to case, where
    /// no member has such a column by its key.
    fn adopt(&mut self, parent: i32, members: &[Member], found: &mut [Candidates]) {
        let mut claimed: HashSet<i32> = found.iter().flat_map(|candidates| candidates.ids.iter().copied()).collect();
        for (member, candidates) in members.iter().zip(found).filter(|(_, found)| found.ids.is_empty()) {
            let column = self.map.adopted(parent, &column_name(&member.name)).find(|id| !claimed.contains(id));
            let Some(id) = column else { continue };
            claimed.insert(id);
            self.map.rename(id, &member.key);
            candidates.ids = vec![id];
        }
    }

    fn rename(&mut self, id: i32, field: Option<&mut NestedFieldRef>, to: &Key, names: &mut Names) {
        let was = self.map.column(id).map(|column| column_name(&column.key.name()));
        self.map.rename(id, to);
        let Some(field) = field.filter(|field| Some(&field.name) == was.as_ref()) else { return };
        let name = column_name(&to.name());
        // A number is found by the name that the column has.
        if field.name == name || matches!(to, Key::Number { .. }) {
            return;
        }
        let name = names.free(&name);
        self.changes.push(Change::Rename { id, from: field.name.clone(), to: name.clone() });
        let mut renamed = NestedField::clone(field);
        renamed.name = name;
        *field = Arc::new(renamed);
    }

    fn fits_member(&self, field: &NestedField, member: &Member) -> bool {
        !self.reserved.contains(&field.id) && (self.is_branch_of(field, member) || self.fits(field, &member.shape))
    }

    /// Whether the column is a union and the member one type, which goes to its branch.
    fn is_branch_of(&self, field: &NestedField, member: &Member) -> bool {
        let is_union = matches!(*field.field_type, Type::Struct(_)) && self.map.is_union(field.id);
        is_union && !member.shape.is_union() && !member.branch.is_empty()
    }

    fn fits(&self, field: &NestedField, shape: &Shape) -> bool {
        match (&*field.field_type, shape) {
            (Type::Primitive(column), Shape::Primitive(kind)) => {
                is_writable(kind, column) || (is_promotable(column, kind) && !self.pinned.contains(&field.id))
            }
            (Type::Primitive(column), Shape::Logical { kind, base }) => {
                is_writable(kind, column)
                    || is_writable(base, column)
                    || (is_promotable(column, kind) && !self.pinned.contains(&field.id))
            }
            (Type::Struct(_), Shape::Struct(_)) => self.map.is_union(field.id) == shape.is_union(),
            (Type::List(list), Shape::List(element)) => self.fits(&list.element_field, element),
            (Type::Map(map), Shape::Map(value)) => {
                *map.key_field.field_type == Type::Primitive(PrimitiveType::String)
                    && self.fits(&map.value_field, value)
            }
            _ => false,
        }
    }

    /// Merges a member that fits into its column.
    fn merge_field(&mut self, field: &mut NestedFieldRef, member: &Member, path: &str) -> Place {
        let path = joined(path, &field.name);
        if !self.is_branch_of(field, member) {
            return self.merge(field, &member.shape, &path);
        }
        let branch = |name: &String| Key::Branch(name.clone());
        let inner = Member {
            source: 0,
            key: branch(&member.branch[0]),
            name: branch(&member.branch[0]).name(),
            aliases: member.branch[1..].iter().map(branch).collect(),
            branch: Vec::new(),
            shape: member.shape.clone(),
        };
        let members = std::slice::from_ref(&inner);
        let place = self.merge(field, &Shape::Struct(members.to_vec()), &path);
        match place {
            Place::Struct(mut places) => match places.pop().and_then(|member| member.target) {
                Some((target, place)) => Place::Branch { target, place: Box::new(place) },
                // A conflict inside is in the list already; its values are not written.
                None => Place::Struct(Vec::new()),
            },
            place => place,
        }
    }

    fn merge(&mut self, field: &mut NestedFieldRef, shape: &Shape, path: &str) -> Place {
        let (kind, place) = match (&*field.field_type, shape) {
            (Type::Primitive(column), Shape::Primitive(kind)) if is_writable(kind, column) => {
                return Place::Leaf(column.clone());
            }
            (Type::Primitive(column), Shape::Logical { kind, base })
                if is_writable(kind, column) || is_writable(base, column) =>
            {
                return Place::Leaf(column.clone());
            }
            (Type::Primitive(column), Shape::Primitive(kind) | Shape::Logical { kind, .. }) => {
                self.changes.push(Change::Promote { id: field.id, from: column.clone(), to: kind.clone() });
                (Type::Primitive(kind.clone()), Place::Leaf(kind.clone()))
            }
            (Type::Struct(inner), Shape::Struct(members)) => {
                let (fields, places) = self.merge_members(field.id, inner.fields().to_vec(), members, path);
                (Type::Struct(StructType::new(fields)), Place::Struct(places))
            }
            (Type::List(list), Shape::List(element)) => {
                let mut inner = list.element_field.clone();
                let place = self.merge(&mut inner, element, path);
                (Type::List(ListType::new(inner)), Place::List(Box::new(place)))
            }
            (Type::Map(map), Shape::Map(value)) => {
                let mut inner = map.value_field.clone();
                let place = self.merge(&mut inner, value, path);
                (Type::Map(MapType::new(map.key_field.clone(), inner)), Place::Map(Box::new(place)))
            }
            (kind, shape) => unreachable!("{path} was compared before: {kind} and {}", shape.word()),
        };
        let mut merged = NestedField::clone(field);
        merged.field_type = Box::new(kind);
        *field = Arc::new(merged);
        place
    }

    fn new_field(&mut self, parent: i32, name: &str, member: &Member, path: &str) -> (NestedFieldRef, Place) {
        let (id, path) = (self.next_id(), joined(path, name));
        self.map.add(id, parent, member.key.clone());
        // Values of a format that has no numbers know it by name.
        if let Key::Number { .. } = member.key {
            self.map.also(id, Key::Field(member.name.clone()));
        }
        if self.inside_new == 0 {
            self.changes.push(Change::Add { id, path: path.clone() });
        }
        self.inside_new += 1;
        let (kind, place) = self.new_type(id, &member.shape, &path);
        self.inside_new -= 1;
        (Arc::new(NestedField::optional(id, name, kind)), place)
    }

    fn new_type(&mut self, id: i32, shape: &Shape, path: &str) -> (Type, Place) {
        match shape {
            Shape::Primitive(kind) | Shape::Logical { kind, .. } => {
                (Type::Primitive(kind.clone()), Place::Leaf(kind.clone()))
            }
            Shape::Struct(members) => {
                let (fields, places) = self.merge_members(id, Vec::new(), members, path);
                (Type::Struct(StructType::new(fields)), Place::Struct(places))
            }
            Shape::List(element) => {
                let id = self.next_id();
                let (kind, place) = self.new_type(id, element, path);
                let field = NestedField::list_element(id, kind, false);
                (Type::List(ListType::new(field.into())), Place::List(Box::new(place)))
            }
            Shape::Map(value) => {
                let (key_id, value_id) = (self.next_id(), self.next_id());
                let (kind, place) = self.new_type(value_id, value, path);
                let key = NestedField::map_key_element(key_id, Type::Primitive(PrimitiveType::String));
                let value = NestedField::map_value_element(value_id, kind, false);
                (Type::Map(MapType::new(key.into(), value.into())), Place::Map(Box::new(place)))
            }
        }
    }

    fn next_id(&mut self) -> i32 {
        self.last_id += 1;
        self.last_id
    }
}

fn word(kind: &Type) -> String {
    match kind {
        Type::Primitive(primitive) => primitive.to_string(),
        Type::Struct(_) => "struct".to_owned(),
        Type::List(_) => "list".to_owned(),
        Type::Map(_) => "map".to_owned(),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Names of a struct's fields that are taken, in lower case: some engines cannot tell `a` from `A`.
struct Names(HashSet<String>);

impl Names {
    fn of(fields: &[NestedFieldRef], taken: &[&str]) -> Self {
        let taken = taken.iter().map(|name| (*name).to_owned());
        Self(fields.iter().map(|field| field.name.to_lowercase()).chain(taken).collect())
    }

    /// Takes `name`, or `name_1` and so on if it is taken.
    fn free(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        let mut n = 0;
        while !self.0.insert(free.to_lowercase()) {
            n += 1;
            free = format!("{name}_{n}");
        }
        free
    }
}

/// Whether values of type `member` can be written into a column of type `column` without loss. Single values may still
/// be refused: a long that no double is, a time that nanoseconds cannot hold.
#[must_use]
pub fn is_writable(member: &PrimitiveType, column: &PrimitiveType) -> bool {
    use PrimitiveType::{
        Binary, Decimal, Double, Fixed, Float, Int, Long, Timestamp, TimestampNs, Timestamptz, TimestamptzNs,
    };
    match (member, column) {
        (Decimal { precision, scale }, Decimal { precision: digits, scale: same }) => {
            precision <= digits && scale == same
        }
        (Int, Long | Double) | (Long, Double) | (Float, Double) | (Fixed(_), Binary) => true,
        // A column of microseconds takes nanoseconds cut, and one of nanoseconds takes those in its range.
        (Timestamp, TimestampNs) | (TimestampNs, Timestamp) => true,
        (Timestamptz, TimestamptzNs) | (TimestamptzNs, Timestamptz) => true,
        (member, column) => member == column,
    }
}

fn is_promotable(column: &PrimitiveType, to: &PrimitiveType) -> bool {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (column, to) {
        (Int, Long) | (Float, Double) => true,
        (Decimal { precision, scale }, Decimal { precision: digits, scale: same }) => {
            precision < digits && scale == same
        }
        _ => false,
    }
}
