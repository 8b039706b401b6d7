//! Sockets of a shard: listening, placing connections on shards, reading and writing without blocking.
//!
//! The only module beside `shard` that names glommio. A [`listen::Bound`] and an [`listen::Accepted`] are *messages*; a
//! [`stream::Stream`] is *shard-local*.

pub mod http;
pub mod listen;
pub mod placement;
pub mod sign_counts;
pub mod stream;
pub mod tokens;
