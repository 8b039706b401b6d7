//! The way of a read: one partition from the local log or the bucket, many side by side, and readers that wait for
//! more.

pub mod followed;
pub mod internal;
pub mod read_path;
pub mod readable;
pub mod side_by_side;
pub mod watch;
