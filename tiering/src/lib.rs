//! The log in the bucket: everything Tidewater keeps of its log on object storage, and the order in which it gets
//! there.
//!
//! Does not own: Kafka requests, Raft, HTTP, Iceberg. Formats are in `FORMAT.md`, reasons in `DESIGN.md`.
//!
//! Records go out through the archiver, which stands on these layers:
//! 1. [`archive`]: one [`archive::Archiver`] per led lane. Its first loop takes committed batches from the lane and
//!    writes bundles, its second everything else (segment objects, gathering, publishing, deleting). What must precede
//!    what is [`archive::order`].
//! 2. [`mod@format`]: bytes and index of bundles, parts, segment objects and gathered objects.
//! 3. [`keys`]: the only place where an object's key is built or parsed.
//! 4. [`store`]: puts and gets with conditions, over a directory, S3, Google Cloud Storage, Azure or a simulated
//!    bucket; limits, retries and counts around it. [`bucket`] opens a cluster's root there and keeps its catalogue.
//! 5. [`manifest`]: a lane's and a partition's replicated state (what lies where), the commands that change it, and its
//!    published form in the bucket.
//!
//! They come back through the reader:
//! 6. [`fetch`]: [`fetch::RemoteReader`] finds rows in the manifest, runs in an index, chunks in memory, on disk or in
//!    the bucket, and gives out whole batches whose checksums hold.
//!
//! Whether all of it is there and whole, without a broker:
//! 7. [`verify`]: walks what a cluster's manifests name and reports what is damaged or missing.
//!
//! And the log start moves past them by:
//! 8. [`retention`]: how much of the archived log goes, and when.
//!
//! Others than its brokers read a cluster's bucket by:
//! 9. [`follow`]: which object of a lane to read next, and what its content changes.
//! 10. [`restore`]: the lanes of a lost cluster ended, and a new lineage epoch begun from what they left.
//! 11. [`cuts`]: earlier states of the whole cluster, kept for restores to go back to.
//!
//! Invariants. T1, T2 and T4 are checked by `manifest::check_lane`, `check_partition` and their `_step` forms after
//! every command of the tests; DESIGN.md's R1 to R11 are the rules that lead to them:
//! - **T1** rows of a partition are contiguous and do not overlap;
//! - **T2** archived ends, log starts, sequences and `follow_from` never fall;
//! - **T3** local bytes of an archived topic go only below its archived end, which the command `bundled` moves, and
//!   `trimmed` where the log start has passed it;
//! - **T4** an object is deleted only after a published manifest stopped naming it, and a grace; one that no manifest
//!   named, after a grace by its age;
//! - **T5** a bundle's key that is taken is adopted or stops the lane's archiving; it is never overwritten;
//! - **T6** no byte is given to a reader before its run's checksum held in the buffer that is given out;
//! - **T7** an error that will not pass by itself is never retried as one that does
//!   ([`tidewater_storage::disposition::Disposition`]).

pub mod archive;
pub mod bucket;
pub mod cuts;
pub mod fetch;
pub mod follow;
pub mod format;
pub mod keys;
pub mod manifest;
pub mod restore;
pub mod retention;
pub mod store;
pub mod verify;
