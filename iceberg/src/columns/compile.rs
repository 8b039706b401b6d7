//! What decoders of all formats are compiled from: the places of a plan as indexes of a layout's columns.

use crate::columns::Refused;
use crate::columns::build::{Column, Layout};
use crate::columns::evolve::{MemberPlace, Plan};

/// A plan that does not fit its schema or layout.
pub(super) fn defect(what: impl Into<String>) -> Refused {
    Refused::Table(what.into())
}

/// Where the members of a value go among the columns of `layout`, and those columns without rows.
///
/// # Errors
/// The plan has conflicts, or is of another table.
pub(super) fn targets(plan: &Plan, layout: &Layout) -> Result<(Vec<MemberPlace>, Vec<Column>), Refused> {
    if let Some(conflict) = plan.conflicts.first() {
        return Err(defect(conflict.to_string()));
    }
    let columns = layout.columns().map_err(|e| defect(e.to_string()))?;
    let slot = |place: &MemberPlace| {
        let target = place.target.as_ref().map(|(target, place)| {
            let slot = layout.slot(*target).ok_or_else(|| defect("a value's column is reserved"))?;
            Ok((slot, place.clone()))
        });
        Ok(MemberPlace { source: place.source, target: target.transpose()? })
    };
    let places = plan.places.iter().map(slot).collect::<Result<Vec<_>, Refused>>()?;
    Ok((places, columns))
}
