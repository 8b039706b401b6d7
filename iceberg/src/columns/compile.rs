//! What decoders of all formats are compiled from: the places of a plan as indexes of a layout's columns.

use crate::columns::Refused;
use crate::columns::build::{Column, Layout, RowColumns, Values};
use crate::columns::evolve::{MemberPlace, Place, Plan};

/// A plan that does not fit its schema or layout.
pub(super) fn defect(what: impl Into<String>) -> Refused {
    Refused::Table(what.into())
}

/// Where the members of a value go.
pub(super) struct Targets {
    pub(super) row: RowColumns,
    pub(super) places: Vec<MemberPlace>,
    /// The columns that places are indexes of, without rows.
    pub(super) columns: Vec<Column>,
    /// Bytes that a row takes at least.
    pub(super) width: usize,
}

/// Where the members of a value go among the columns of `layout`. The one member of a record's key is all of it: where
/// that is a struct, its members are meant.
///
/// # Errors
/// The plan has conflicts, or is of another table.
pub(super) fn targets(plan: &Plan, layout: &Layout) -> Result<Targets, Refused> {
    if let Some(conflict) = plan.conflicts.first() {
        return Err(defect(conflict.to_string()));
    }
    let mut columns = layout.columns().map_err(|e| defect(e.to_string()))?;
    let slot = |place: &MemberPlace| {
        let target = place.target.as_ref().map(|(target, place)| {
            let slot = layout.slot(*target).ok_or_else(|| defect("a value's column is reserved"))?;
            Ok((slot, place.clone()))
        });
        Ok(MemberPlace { source: place.source, target: target.transpose()? })
    };
    let places = plan.places.iter().map(slot).collect::<Result<Vec<_>, Refused>>()?;
    let width = columns.iter().map(Column::width).sum();
    if layout.is_of_keys()
        && let [MemberPlace { target: Some((slot, Place::Struct(inside))), .. }] = places.as_slice()
    {
        return match columns.swap_remove(*slot).values {
            Values::Struct(columns) => {
                Ok(Targets { row: RowColumns::Inside(*slot), places: inside.clone(), columns, width })
            }
            _ => Err(defect("the members of a key are not inside a struct")),
        };
    }
    Ok(Targets { row: RowColumns::All, places, columns, width })
}
