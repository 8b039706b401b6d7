//! What decoders of all formats append to columns: text and items with room for them, dates and times that engines can
//! show.

use std::collections::HashSet;

use uuid::Uuid;

use crate::columns::build::{Column, OFFSET_MAX, Values};
use crate::columns::fault::Fault;

/// Resolution of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// 0001-01-01, in days.
pub(super) const DAYS_MIN: i32 = -719_162;
/// 9999-12-31.
const DAYS_MAX: i32 = 2_932_896;
const DAY_US: i64 = 86_400_000_000;
/// Entries of a map from which on a set finds keys that come twice.
const KEYS_COMPARED: usize = 16;
/// Days since 1970, if they are in the years 1 to 9999.
pub(super) fn date(days: i32) -> Result<i32, Fault> {
    if (DAYS_MIN..=DAYS_MAX).contains(&days) { Ok(days) } else { Err(Fault::Time) }
}

pub(super) fn to_offset(len: usize) -> Result<i32, Fault> {
    i32::try_from(len).map_err(|_| Fault::Full)
}

pub(super) fn push_text(offsets: &mut Vec<i32>, bytes: &mut Vec<u8>, text: &str) -> Result<(), Fault> {
    if text.len() > OFFSET_MAX - bytes.len() {
        return Err(Fault::Full);
    }
    bytes.extend_from_slice(text.as_bytes());
    offsets.push(to_offset(bytes.len())?);
    Ok(())
}

pub(super) fn push_binary(offsets: &mut Vec<i64>, bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(value);
    offsets.push(bytes.len() as i64);
}

pub(super) fn time(micros: Option<i64>) -> Result<i64, Fault> {
    micros.filter(|micros| (0..DAY_US).contains(micros)).ok_or(Fault::Time)
}

/// The double that is the integer, if one is.
pub(super) fn exact_double(value: i64) -> Result<f64, Fault> {
    let double = value as f64;
    // 2^63 as a double would come back as the highest integer.
    if double as i64 == value && double < i64::MAX as f64 { Ok(double) } else { Err(Fault::Range) }
}

/// Nanoseconds cut to microseconds are moved towards the past, before 1970 too.
pub(super) fn timestamp(value: i64, from: Unit, to_nanos: bool) -> Result<i64, Fault> {
    let nanos_to_micros = |nanos: i64| nanos.div_euclid(1000);
    match (from, to_nanos) {
        (Unit::Nanos, true) => return Ok(value),
        (Unit::Nanos, false) => return Ok(nanos_to_micros(value)),
        _ => {}
    }
    let micros = if from == Unit::Millis { value.checked_mul(1000) } else { Some(value) };
    let years = i64::from(DAYS_MIN) * DAY_US..(i64::from(DAYS_MAX) + 1) * DAY_US;
    let micros = micros.filter(|micros| years.contains(micros)).ok_or(Fault::Time)?;
    if to_nanos { micros.checked_mul(1000).ok_or(Fault::Time) } else { Ok(micros) }
}

pub(super) fn uuid(text: &str) -> Result<Uuid, Fault> {
    Uuid::try_parse(text).map_err(|_| Fault::Uuid)
}

/// Whether the keys from `first` on have one twice.
pub(super) fn has_twice(keys: &Column, first: usize) -> bool {
    let Values::Text { offsets, bytes } = &keys.values else { return false };
    let key = |at: usize| &bytes[offsets[at].unsigned_abs() as usize..offsets[at + 1].unsigned_abs() as usize];
    let last = keys.len();
    if last - first <= KEYS_COMPARED {
        return (first..last).any(|at| (first..at).any(|before| key(before) == key(at)));
    }
    let mut seen = HashSet::with_capacity(last - first);
    (first..last).any(|at| !seen.insert(key(at)))
}
