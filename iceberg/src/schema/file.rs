//! [`FileSchema`]: the columns of the data files that one turn writes, for Iceberg, Arrow and Parquet.
//!
//! A file has the system columns and those of its values, in the order of the table's schema; a column of the table
//! that is not in a file is null there. Pure.

use std::sync::Arc;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use iceberg::ErrorKind;
use iceberg::spec::{PrimitiveType, Schema, SchemaRef, Type};
use parquet::arrow::ArrowSchemaConverter;
use parquet::schema::types::ColumnPath;

use super::system::{SystemColumns, VALUE};
use crate::bounds::BOUND_BYTES_MAX;
use crate::columns::build::arrow_schema;

/// Columns of data files.
#[derive(Clone, Debug)]
pub struct FileSchema {
    pub arrow: ArrowSchemaRef,
    /// In the order in which Parquet has them.
    pub leaves: Arc<[Leaf]>,
}

/// A column of values, as Parquet counts columns.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub id: i32,
    pub kind: PrimitiveType,
    /// Its name in Parquet.
    pub path: ColumnPath,
    /// Inside a list or map: a row has any number of values.
    pub repeated: bool,
}

impl Leaf {
    /// Whether a value may be as long as a client likes, or as a schema says: nothing of it enters a footer.
    #[must_use]
    pub fn is_client_sized(&self) -> bool {
        match self.kind {
            PrimitiveType::String | PrimitiveType::Binary => true,
            PrimitiveType::Fixed(size) => size > BOUND_BYTES_MAX as u64,
            _ => false,
        }
    }

    /// Whether it is the value's bytes: a table has no bounds of them. By its name, as an adopted table has it under
    /// another id.
    #[must_use]
    pub fn is_value(&self) -> bool {
        self.kind == PrimitiveType::Binary && (self.id == super::ids::VALUE || self.path.string() == VALUE)
    }
}

impl FileSchema {
    /// Of files with the columns of `schema`.
    ///
    /// # Errors
    /// The schema has a type that Arrow or Parquet lacks, or no field ids.
    pub fn new(schema: &SchemaRef) -> iceberg::Result<Self> {
        let arrow = Arc::new(arrow_schema(schema)?);
        let leaves = leaves(&arrow, schema)?;
        Ok(Self { arrow, leaves })
    }

    /// Of a `key_value` table.
    ///
    /// # Errors
    /// None in practice, as [`super::table_schema`].
    pub fn key_value(system: SystemColumns) -> iceberg::Result<Self> {
        Self::new(&Arc::new(super::key_value_schema(system)?))
    }

    /// Of a table of dead letters.
    ///
    /// # Errors
    /// None in practice, as [`super::table_schema`].
    pub fn dead_letters(system: SystemColumns) -> iceberg::Result<Self> {
        Self::new(&Arc::new(super::dead_letter_schema(system)?))
    }

    /// Of a table with schema `table`, with the top-level fields at the indexes of which `has` is true, and the system
    /// columns.
    ///
    /// # Errors
    /// As [`FileSchema::new`].
    pub fn typed(table: &Schema, system: SystemColumns, has: impl Fn(usize) -> bool) -> iceberg::Result<Self> {
        let ours = table.as_struct().fields().iter().enumerate().filter(|(at, _)| has(*at));
        let fields = system.fields().into_iter().chain(ours.map(|(_, field)| field.clone()));
        Self::new(&Arc::new(Schema::builder().with_fields(fields).build()?))
    }
}

fn leaves(arrow: &ArrowSchema, schema: &Schema) -> iceberg::Result<Arc<[Leaf]>> {
    let unfit = |what: String| iceberg::Error::new(ErrorKind::DataInvalid, what);
    let parquet = ArrowSchemaConverter::new().convert(arrow).map_err(|e| unfit(e.to_string()))?;
    let leaf = |column: &parquet::schema::types::ColumnDescPtr| {
        let info = column.self_type().get_basic_info();
        let id = if info.has_id() { info.id() } else { 0 };
        match schema.field_by_id(id).map(|field| &*field.field_type) {
            Some(Type::Primitive(kind)) => {
                Ok(Leaf { id, kind: kind.clone(), path: column.path().clone(), repeated: column.max_rep_level() > 0 })
            }
            _ => Err(unfit(format!("column {} has no field id of a value", column.path()))),
        }
    };
    parquet.columns().iter().map(leaf).collect()
}
