//! [`SortChoice`]: the orders that `iceberg.sort.order` may ask for, read from text. Pure.
//!
//! `customer, created_at DESC NULLS LAST`: columns by the names that SQL has for them, those that each table has
//! included, in the words of Trino and Spark. Without words a column is ascending with nulls first; a descending one
//! has them last. Columns as they are alone: of transforms of them rows are rarely asked for.

use std::fmt;

use iceberg::spec::{NullOrder, Schema, SortDirection, SortField, Transform};

use super::check;
use crate::partition::spec::{SpecColumn, parse_column};
use crate::schema::system::SystemColumns;

/// Columns of an order at most.
const FIELDS_MAX: usize = 8;

/// The order that a table is to have; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SortChoice(Vec<Wanted>);

/// One column of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    column: SpecColumn,
    direction: SortDirection,
    nulls: NullOrder,
}

/// What a schema gives of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Had {
    pub(super) fields: Vec<SortField>,
    /// Why other columns cannot be had.
    pub(super) missing: Vec<String>,
}

impl fmt::Display for SortChoice {
    /// As [`SortChoice::parse`] reads it, with all words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Wanted { column, direction, nulls }) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let direction = if *direction == SortDirection::Ascending { "ASC" } else { "DESC" };
            let nulls = if *nulls == NullOrder::First { "FIRST" } else { "LAST" };
            write!(f, "{comma}{column} {direction} NULLS {nulls}")?;
        }
        Ok(())
    }
}

impl SortChoice {
    /// Reads an order, as in the header; of nothing but spaces none.
    ///
    /// # Errors
    /// `text` is no order; what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut fields: Vec<Wanted> = Vec::new();
        for term in text.split(',') {
            let field = parse_field(term)?;
            if fields.iter().any(|held| held.column == field.column) {
                return Err(format!("{} is there twice: leave one out", field.column));
            }
            fields.push(field);
        }
        if fields.len() > FIELDS_MAX {
            return Err(format!("{} columns, at most {FIELDS_MAX} are taken", fields.len()));
        }
        Ok(Self(fields))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With the names that columns of `from` have in `to`.
    pub(super) fn renamed(&self, from: &Schema, to: &Schema, system: SystemColumns) -> Self {
        let rename = |held: &Wanted| {
            let name = match &held.column {
                SpecColumn::Value(name) => value_column(from, name, system).ok().and_then(|id| to.name_by_field_id(id)),
                SpecColumn::System(_) => None,
            };
            let column = name.map_or_else(|| held.column.clone(), |name| SpecColumn::Value(name.to_owned()));
            Wanted { column, ..*held }
        };
        Self(self.0.iter().map(rename).collect())
    }

    /// What a table with `schema` gives.
    pub(super) fn had(&self, schema: &Schema, system: SystemColumns) -> Had {
        let mut had = Had::default();
        for Wanted { column, direction, nulls } in &self.0 {
            let found = match column {
                SpecColumn::System(column) => Ok(system.id(column.id())),
                SpecColumn::Value(name) => value_column(schema, name, system),
            };
            match found.and_then(|id| check(schema, id).map(|()| id)) {
                Ok(source_id) => had.fields.push(SortField {
                    source_id,
                    transform: Transform::Identity,
                    direction: *direction,
                    null_order: *nulls,
                }),
                Err(why) => had.missing.push(why),
            }
        }
        had
    }
}

/// The field id of the column of values or keys that SQL calls `name`, in any case.
fn value_column(schema: &Schema, name: &str, system: SystemColumns) -> Result<i32, String> {
    let field = schema.field_by_name(name).or_else(|| schema.field_by_name_case_insensitive(name));
    let field = field.filter(|field| !system.is_own(field.id));
    field.map(|field| field.id).ok_or_else(|| format!("the table has no column {name} yet"))
}

fn parse_field(term: &str) -> Result<Wanted, String> {
    let unknown = || {
        format!(
            "{:?} is no column with its direction, such as customer, customer DESC or customer ASC NULLS LAST",
            term.trim()
        )
    };
    let mut words = term.split_whitespace();
    let column = parse_column(words.next().ok_or_else(unknown)?, "sorted")?;
    let rest: Vec<String> = words.map(str::to_ascii_uppercase).collect();
    let mut rest: &[String] = &rest;
    let mut direction = SortDirection::Ascending;
    if let [word, others @ ..] = rest
        && let Some(found) = direction_of(word)
    {
        (direction, rest) = (found, others);
    }
    let nulls = match rest {
        [] if direction == SortDirection::Ascending => NullOrder::First,
        [] => NullOrder::Last,
        [nulls, first] if nulls == "NULLS" && first == "FIRST" => NullOrder::First,
        [nulls, last] if nulls == "NULLS" && last == "LAST" => NullOrder::Last,
        _ => return Err(unknown()),
    };
    Ok(Wanted { column, direction, nulls })
}

fn direction_of(word: &str) -> Option<SortDirection> {
    match word {
        "ASC" => Some(SortDirection::Ascending),
        "DESC" => Some(SortDirection::Descending),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_order_is_read_and_written_in_the_words_of_sql() {
        for (text, all) in [
            ("", ""),
            ("  ", ""),
            ("customer", "customer ASC NULLS FIRST"),
            ("customer desc", "customer DESC NULLS LAST"),
            (
                " a.b  Asc nulls LAST ,tidewater.timestamp DESC",
                "a.b ASC NULLS LAST, tidewater.timestamp DESC NULLS LAST",
            ),
            ("tidewater.key NULLS LAST, asc", "tidewater.key ASC NULLS LAST, asc ASC NULLS FIRST"),
        ] {
            let read = SortChoice::parse(text).expect(text);
            assert_eq!(read.to_string(), all, "{text:?}");
            assert_eq!(SortChoice::parse(&read.to_string()), Ok(read));
        }
    }

    #[test]
    fn what_is_no_order_is_refused_in_words() {
        for (text, part) in [
            (",", "is no column with its direction"),
            ("a,", "is no column with its direction"),
            ("a up", "such as customer, customer DESC"),
            ("a desc nulls", "no column with its direction"),
            ("a desc nulls middle", "no column with its direction"),
            ("a asc desc", "no column with its direction"),
            ("a, b, a desc", "a is there twice"),
            ("bucket(3", "no name of a column"),
            ("tidewater.headers", "no column that a table can be sorted by"),
            ("a,b,c,d,e,f,g,h,i", "9 columns, at most 8"),
        ] {
            let refused = SortChoice::parse(text).expect_err(text);
            assert!(refused.contains(part), "{text:?}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_order_or_refused(text in "[a-c.,() ]{0,12}|(a|b|, | desc| nulls| last){0,6}") {
            if let Ok(read) = SortChoice::parse(&text) {
                prop_assert_eq!(SortChoice::parse(&read.to_string()), Ok(read));
            }
        }
    }
}
