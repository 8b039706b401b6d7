//! [`SystemColumns`]: how one table has the columns that say of each row which record it is: with which field ids, as
//! one struct or each at the top level. Frozen: FORMAT.md lists ids and names. Pure.
//!
//! The ids of tables that Tidewater made are those of [`ids`]. A table that was adopted had columns before, so its ids
//! are those of [`ids`] plus the number in its property [`PROPERTY`]. In both layouts a column has the same id.

use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, PartitionSpec, PrimitiveType, Schema, StructType, TableMetadata, Transform,
    Type,
};

use super::ids;
use crate::commit::identity;

/// The table property that says by how much the field ids of an adopted table's system columns are greater.
pub const PROPERTY: &str = "tidewater.field-ids-above";
/// The most that it may say, so that no id of a column overflows.
const ABOVE_MAX: i32 = 1 << 30;
/// The name of the struct that has the system columns.
pub const STRUCT: &str = "tidewater";
/// What the names of columns at the top level begin with.
pub const PREFIX: &str = "tidewater_";
/// The column of the value's bytes.
pub const VALUE: &str = "value";
/// The columns inside the struct, or at the top level.
const MEMBERS: [i32; 6] = [ids::PARTITION, ids::OFFSET, ids::TIMESTAMP, ids::TIMESTAMP_TYPE, ids::HEADERS, ids::KEY];

/// Where the system columns are (`iceberg.layout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SystemLayout {
    /// In a struct `tidewater`.
    #[default]
    Struct,
    /// At the top level, each with [`PREFIX`], and headers as text: for engines that read no structs and lists.
    Flat,
}

impl SystemLayout {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Struct => "struct",
            Self::Flat => "flat",
        }
    }
}

/// See the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemColumns {
    above: i32,
    layout: SystemLayout,
}

impl SystemColumns {
    /// Of a table that Tidewater makes.
    #[must_use]
    pub fn made(layout: SystemLayout) -> Self {
        Self { above: 0, layout }
    }

    /// Of a table that is adopted, whose highest field id so far is `last_column_id`; `None` if its ids are used up.
    #[must_use]
    pub fn above(last_column_id: i32, layout: SystemLayout) -> Option<Self> {
        // Rows from before have no system columns, so these are optional: that is what `above` = 0 is not.
        (last_column_id <= ABOVE_MAX).then_some(Self { above: last_column_id.max(1), layout })
    }

    /// As the table has them. [`SystemColumns::check`] refuses a table whose property is not a number, and one that
    /// lacks the columns by which its rows are known.
    #[must_use]
    pub fn of(metadata: &TableMetadata) -> Self {
        let above = above_of(metadata).ok().flatten().unwrap_or(0);
        let top = metadata.current_schema().as_struct().fields();
        let is_flat = top.iter().any(|field| field.id == above + ids::OFFSET);
        Self { above, layout: if is_flat { SystemLayout::Flat } else { SystemLayout::Struct } }
    }

    /// Whether the table says in a way that can be read which ids its system columns have, and has those of partition
    /// and offset: without them a rewind would find no rows to take back, and the log would write them twice.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(metadata: &TableMetadata) -> Result<(), String> {
        let above = match above_of(metadata)? {
            Some(above) => above,
            // No sink has ever written into it.
            None if !metadata.properties().contains_key(identity::TOPIC_NAME) => return Ok(()),
            None => 0,
        };
        let schema = metadata.current_schema();
        let of = |id, kind| schema.field_by_id(above + id).is_some_and(|f| *f.field_type == Type::Primitive(kind));
        if of(ids::PARTITION, PrimitiveType::Int) && of(ids::OFFSET, PrimitiveType::Long) {
            return Ok(());
        }
        Err(format!(
            "its columns of partition and offset (field ids {} and {}) were dropped or changed; drop or rename it",
            above + ids::PARTITION,
            above + ids::OFFSET
        ))
    }

    #[must_use]
    pub fn layout(self) -> SystemLayout {
        self.layout
    }

    /// The same ids in another layout.
    #[must_use]
    pub fn with_layout(self, layout: SystemLayout) -> Self {
        Self { layout, ..self }
    }

    /// The value of [`PROPERTY`].
    #[must_use]
    pub fn property(self) -> String {
        self.above.to_string()
    }

    /// The field id of one of [`ids`].
    #[must_use]
    pub fn id(self, own: i32) -> i32 {
        self.above + own
    }

    /// Which of [`ids`] a field id is; another number if it is none of them.
    #[must_use]
    pub fn own(self, id: i32) -> i32 {
        id.saturating_sub(self.above)
    }

    /// Field ids of top-level columns that no part of a value goes to.
    #[must_use]
    pub fn reserved(self) -> Vec<i32> {
        let top: &[i32] = match self.layout {
            SystemLayout::Struct => &[ids::TIDEWATER],
            SystemLayout::Flat => &MEMBERS,
        };
        top.iter().chain([&ids::VALUE]).map(|own| self.id(*own)).collect()
    }

    /// Whether a top-level column with this field id is one of a table's own in either layout, or `value`: none that
    /// parts of values and keys go to.
    #[must_use]
    pub fn is_own(self, id: i32) -> bool {
        let own = self.own(id);
        MEMBERS.contains(&own) || [ids::TIDEWATER, ids::VALUE].contains(&own)
    }

    /// Whether the table has the column `value`.
    #[must_use]
    pub fn has_value(self, schema: &Schema) -> bool {
        schema.as_struct().fields().iter().any(|field| field.id == self.id(ids::VALUE))
    }

    /// Whether `spec` is by the hour of the timestamp and nothing else.
    #[must_use]
    pub fn is_by_hour(self, spec: &PartitionSpec) -> bool {
        match spec.fields() {
            [field] => field.source_id == self.id(ids::TIMESTAMP) && field.transform == Transform::Hour,
            _ => false,
        }
    }

    /// The top-level columns: the struct, or its members.
    #[must_use]
    pub fn fields(self) -> Vec<NestedFieldRef> {
        let members = MEMBERS.map(|own| NestedFieldRef::from(self.member(own)));
        match self.layout {
            SystemLayout::Flat => members.into(),
            SystemLayout::Struct => {
                let kind = Type::Struct(StructType::new(members.into()));
                vec![self.field(ids::TIDEWATER, STRUCT, kind, true).into()]
            }
        }
    }

    /// The column `value`.
    #[must_use]
    pub fn value(self) -> NestedField {
        self.field(ids::VALUE, VALUE, Type::Primitive(PrimitiveType::Binary), false)
    }

    fn member(self, own: i32) -> NestedField {
        let (name, kind, is_required) = match own {
            ids::PARTITION => ("partition", PrimitiveType::Int, true),
            ids::OFFSET => ("offset", PrimitiveType::Long, true),
            ids::TIMESTAMP => ("timestamp", PrimitiveType::Timestamptz, true),
            ids::TIMESTAMP_TYPE => ("timestamp_type", PrimitiveType::Int, true),
            ids::HEADERS => ("headers", PrimitiveType::String, false),
            ids::KEY => ("key", PrimitiveType::Binary, false),
            own => unreachable!("{own} is no column of records"),
        };
        match self.layout {
            SystemLayout::Struct if own == ids::HEADERS => self.field(own, name, self.header_list(), is_required),
            SystemLayout::Struct => self.field(own, name, Type::Primitive(kind), is_required),
            SystemLayout::Flat => self.field(own, &format!("{PREFIX}{name}"), Type::Primitive(kind), is_required),
        }
    }

    fn header_list(self) -> Type {
        let id = |own| self.id(own);
        let header = StructType::new(vec![
            NestedField::required(id(ids::HEADER_KEY), "key", Type::Primitive(PrimitiveType::String)).into(),
            NestedField::optional(id(ids::HEADER_VALUE), VALUE, Type::Primitive(PrimitiveType::Binary)).into(),
        ]);
        Type::List(ListType::new(NestedField::list_element(id(ids::HEADER), Type::Struct(header), true).into()))
    }

    /// Rows from before an adoption have none of the columns, so those of an adopted table are optional.
    fn field(self, own: i32, name: &str, kind: Type, is_required: bool) -> NestedField {
        NestedField::new(self.id(own), name, kind, is_required && self.above == 0)
    }
}

/// `None`: the table was not adopted.
fn above_of(metadata: &TableMetadata) -> Result<Option<i32>, String> {
    let Some(text) = metadata.properties().get(PROPERTY) else { return Ok(None) };
    match text.parse() {
        Ok(above) if (1..=ABOVE_MAX).contains(&above) => Ok(Some(above)),
        _ => Err(format!("its property {PROPERTY} is {text:?}, not a number; set it to what it was")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids_of(kind: &Type, out: &mut Vec<i32>) {
        match kind {
            Type::Primitive(_) => {}
            Type::Struct(inner) => inner.fields().iter().for_each(|field| {
                out.push(field.id);
                ids_of(&field.field_type, out);
            }),
            Type::List(list) => {
                out.push(list.element_field.id);
                ids_of(&list.element_field.field_type, out);
            }
            Type::Map(_) => unreachable!("there is none"),
        }
    }

    fn all(system: SystemColumns) -> Vec<(i32, String)> {
        system.fields().iter().map(|field| (field.id, field.name.clone())).collect()
    }

    #[test]
    fn a_column_has_the_same_id_in_both_layouts() {
        let flat = SystemColumns::made(SystemLayout::Flat);
        let wanted = [
            (3, "tidewater_partition"),
            (4, "tidewater_offset"),
            (5, "tidewater_timestamp"),
            (6, "tidewater_timestamp_type"),
            (7, "tidewater_headers"),
            (8, "tidewater_key"),
        ];
        assert_eq!(all(flat), wanted.map(|(id, name)| (id, name.to_owned())));
        let in_struct = SystemColumns::made(SystemLayout::Struct);
        let mut found = Vec::new();
        ids_of(&Type::Struct(StructType::new(in_struct.fields())), &mut found);
        assert_eq!(found, [1, 3, 4, 5, 6, 7, 9, 10, 11, 8]);
        assert_eq!((in_struct.reserved(), flat.reserved()), (vec![1, 2], vec![3, 4, 5, 6, 7, 8, 2]));
    }

    #[test]
    fn columns_of_an_adopted_table_come_after_its_own_and_are_optional() {
        let system = SystemColumns::above(20, SystemLayout::Struct).expect("there is room");
        let mut found = Vec::new();
        ids_of(&Type::Struct(StructType::new(system.fields())), &mut found);
        assert_eq!(found, [21, 23, 24, 25, 26, 27, 29, 30, 31, 28]);
        assert_eq!((system.own(24), system.id(ids::OFFSET), system.property().as_str()), (ids::OFFSET, 24, "20"));
        assert!(system.fields().iter().all(|field| !field.required));
        assert_eq!(SystemColumns::above(i32::MAX, SystemLayout::Struct), None);
    }
}
