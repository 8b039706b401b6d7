//! engine (being written)
pub(crate) mod wake;
