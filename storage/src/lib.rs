//! Bytes on this machine: the storage of one shard, and the machine it runs on.
//!
//! What happens to a record, in order:
//!
//! 1. **Admit.** Before anything is proposed, [`engine::Engine::admit`] reserves disk for journal and segments
//!    ([`budget`]). It refuses when disk, journal or memory is full.
//! 2. **Append.** [`journal::LaneLog::append`] writes the entry of the record's lane; one durable write carries the
//!    entries of all lanes. Raft, above this crate, commits the entry.
//! 3. **Apply.** [`log::PartitionLog::append`] takes each committed batch: readable at once, from memory.
//! 4. **Write back.** `log::write_back` writes batches in large blocks to the partition's [`segment`] files. No client
//!    waits.
//! 5. **Checkpoint.** [`engine::Engine::checkpoint`] syncs the segments and makes one record for each changed lane and
//!    partition durable together ([`checkpoint`]).
//! 6. **Purge.** The lanes purge what the checkpoint covers ([`journal::LaneLog::purge`]); `journal::release` recycles
//!    files.
//! 7. **Read.** [`log::PartitionLog::read`] returns batches from memory or, checked against their run's sum, from disk.
//!    Offsets below the local start are `tiering`'s.
//! 8. **Trim.** [`log::PartitionLog::trim`] drops segments; `engine::removal` removes their files after a checkpoint.
//!
//! A start, [`engine::Engine::open`], reads the checkpoint, then the journal; the layer above applies the entries after
//! the checkpoint again. [`engine::relocate()`] changes the number of shards.
//!
//! Below all of these: [`mod@env`] (clock, disk, tasks, random numbers; real or simulated), [`model`] (ids, offsets,
//! batches), [`codec`] (bytes ↔ fields), [`disposition`] (what to do about an error), [`metrics`].
//!
//! Invariants; the headers of `journal` (J), `log` (L), `checkpoint` (C) and `engine` (E) give their own in detail:
//!
//! 1. An entry is acknowledged only when it and everything before it in the journal are durable (J1).
//! 2. Segment files hold committed batches only, so no batch in one is ever truncated.
//! 3. A block that a durable checkpoint names is never written again (L3, C2).
//! 4. A checkpoint names nothing that is not synced (E1), and nothing that is applied beyond the durable journal (E2).
//! 5. Journal is released, and files are removed, only after the checkpoint that no longer needs them is durable (E3).
//! 6. Every read from disk is checked; damage is an error that names file and position, never other data (L4).
//! 7. After a failed write or sync, other than a full disk, nothing more is acknowledged: the process ends and
//!    recovers.
//! 8. Code on a shard reaches time, disk, tasks and random numbers through [`mod@env`] only, so a seed repeats a run.

pub mod budget;
pub mod checkpoint;
pub mod codec;
pub mod disposition;
pub mod engine;
pub mod env;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod model;
#[doc(hidden)]
pub mod outside;
pub mod segment;
