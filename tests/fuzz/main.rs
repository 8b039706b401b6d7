//! Every decoder of bytes from outside, fed with damaged ones: none panics, overflows, hangs or allocates far more than
//! it was given.
//!
//! A target is a plain function over `&[u8]` ([`target`]); [`drive`] mutates seeds, which the targets build with the
//! product's own encoders, and the inputs of `corpus/`, which once found a defect or reach far. [`meter`] counts what
//! is allocated. Stable and seeded: `TIDEWATER_FUZZ_SECONDS=n` fuzzes each target for n seconds (default 1),
//! `TIDEWATER_FUZZ_TARGET=part-of-name` only some, `TIDEWATER_SEED=n` otherwise. With coverage as a guide:
//! `tests/fuzz/coverage.sh` ([`coverage`]).
#![allow(clippy::panic, clippy::disallowed_methods, reason = "a test binary")]
#![allow(clippy::ptr_arg, reason = "a mender may change the length")]
#![cfg(feature = "lakehouse")]

#[path = "../support/allocator.rs"]
#[allow(unreachable_pub, reason = "shared")]
mod allocator;
mod answers;
mod author;
mod batches;
mod broker;
mod bucket;
mod corpus;
mod coverage;
mod drive;
mod files;
mod meter;
mod mutate;
mod peers;
mod requests;
mod schemas;
mod settings;
mod shard_dir;
mod table;
mod target;
mod values;

#[global_allocator]
static METER: allocator::Counted = allocator::Counted(meter::count);

#[test]
fn no_decoder_falls_over_bytes_from_outside() {
    drive::all(&target::all());
}
