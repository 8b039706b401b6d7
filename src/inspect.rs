//! Looks into files and objects.
