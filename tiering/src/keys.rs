//! Object keys: the only file that builds or parses one.
//!
//! Owns: the layout of the bucket (see `FORMAT.md` §1), the validated [`ObjectKey`], the compact [`ObjectName`] that
//! manifests carry instead of strings. Does not own: what is inside the objects. All types are *messages*.
//! Numbers are padded, so keys of one kind sort as their numbers do.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{Incarnation, LaneId, Offset, PartitionId, PartitionIndex, Term, TopicId};
use uuid::Uuid;

/// Longest key of any kind, in bytes (S3 allows 1,024; a prefix of the store's comes before it).
pub const KEY_BYTES_MAX: usize = 800;

/// Which cluster wrote an object. Given once, at first start; survives restores as the lineage's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Lineage epoch: 1 for a new cluster, one more at each restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LineageEpoch(pub u32);

impl LineageEpoch {
    /// Of a cluster that was never restored.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for LineageEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a bundle in its lane; the first is 1, 0 is "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first bundle.
    pub const NONE: Self = Self(0);

    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes the key of an object unique among attempts. Random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub u64);

/// Cluster and epoch: what every key but the root's begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Home {
    pub cluster: ClusterId,
    pub epoch: LineageEpoch,
}

/// A cluster's name: 1 to 64 of `[a-z0-9._-]`, first a letter or digit. Several clusters share a bucket by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Arc<str>);

/// A checked object key, relative to the store's prefix. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(Arc<str>);

/// Why a string is not a key or a cluster name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing in it.
    #[error("object key is empty")]
    Empty,
    /// Too long.
    #[error("object key has {0} bytes, more than the {KEY_BYTES_MAX} allowed")]
    TooLong(usize),
    /// A path segment that is empty, `.` or `..`.
    #[error("object key {0:?} has an empty, \".\" or \"..\" segment")]
    Segment(String),
    /// A character outside the set that every store takes unescaped.
    #[error("object key {key:?} contains {found:?}; legal are ASCII letters, digits and ! - _ . ' ( ) = / + @ ,")]
    Character {
        key: String,
        /// The first bad character.
        found: char,
    },
    /// Not a cluster name.
    #[error("cluster name {0:?} is not 1 to 64 of a-z, 0-9, '.', '_', '-' beginning with a letter or digit")]
    ClusterName(String),
}

/// What an object is, with what distinguishes it from others of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// Topics, ids, configs, lanes of one epoch (JSON).
    Catalogue,
    /// A lane's new bytes (or the seal that ends its lineage).
    Bundle { lane: LaneId, sequence: Sequence },
    /// One partition's bytes that a bundle points to.
    Part {
        partition: PartitionId,
        /// Lane of the bundle.
        lane: LaneId,
        /// Sequence of the bundle it was written for.
        sequence: Sequence,
        /// The writer's term.
        term: Term,
        /// Unique.
        nonce: Nonce,
    },
    /// One partition's closed segment.
    Segment {
        partition: PartitionId,
        /// First offset inside.
        base: Offset,
        /// The writer's term.
        term: Term,
        /// Unique.
        nonce: Nonce,
    },
    /// Several bundles of a lane, sorted by partition.
    Gathered {
        lane: LaneId,
        /// First bundle that went in.
        first: Sequence,
        /// The writer's term.
        term: Term,
        /// Unique.
        nonce: Nonce,
    },
    /// Old manifest rows of one partition.
    Spill {
        partition: PartitionId,
        /// First offset of its first row.
        start: Offset,
        /// 0 holds rows, `n` holds pages of level `n - 1`.
        level: u8,
        /// Unique.
        nonce: Nonce,
    },
    /// The lane's manifest, moved by put-if-match.
    LaneManifest { lane: LaneId },
    /// Partition manifests of a lane, immutable.
    Page {
        lane: LaneId,
        /// The writer's term.
        term: Term,
        /// Unique.
        nonce: Nonce,
    },
    /// A consistent cut of the cluster.
    Cut { number: u64 },
}

/// An object of some cluster's epoch. What manifests hold; [`ObjectName::key`] is where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Whose.
    pub home: Home,
    pub kind: ObjectKind,
}

impl ObjectKey {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn new(key: &str) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(key.len()));
        }
        let legal = |c: &char| c.is_ascii_alphanumeric() || "!-_.'()=/+@,".contains(*c);
        if let Some(found) = key.chars().find(|c| !legal(c)) {
            return Err(KeyError::Character { key: key.to_owned(), found });
        }
        if key.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(KeyError::Segment(key.to_owned()));
        }
        Ok(Self(key.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = KeyError;

    fn try_from(key: String) -> Result<Self, KeyError> {
        Self::new(&key)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.as_str().to_owned()
    }
}

impl ClusterName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`KeyError::ClusterName`].
    pub fn new(name: &str) -> Result<Self, KeyError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !first || name.len() > 64 || !name.chars().all(legal) {
            return Err(KeyError::ClusterName(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where this cluster's root lies: under its *name*, so that it is found knowing nothing else.
    #[must_use]
    pub fn root_key(&self) -> ObjectKey {
        ObjectKey(format!("{}/root", self.0).into())
    }

    /// Under which prefix (ending in `/`) this cluster's tables lie.
    #[must_use]
    pub fn warehouse_prefix(&self) -> String {
        format!("{}/warehouse/", self.0)
    }

    /// Where the sweeper of a lane writes to learn the store's time; the content has no meaning.
    #[must_use]
    pub fn clock_key(&self, lane: LaneId) -> ObjectKey {
        ObjectKey(format!("{}/clock/{:010}", self.0, lane.0).into())
    }

    /// A key for the preflight's proof; `nonce` keeps proofs apart.
    #[must_use]
    pub fn proof_key(&self, nonce: Nonce) -> ObjectKey {
        ObjectKey(format!("{}/preflight/{:016x}", self.0, nonce.0).into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = KeyError;

    fn try_from(name: String) -> Result<Self, KeyError> {
        Self::new(&name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.as_str().to_owned()
    }
}

impl Home {
    /// What every key of this home begins with, ending in `/`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/{:010}/", self.cluster, self.epoch.0)
    }

    /// Where the index of this home's cuts lies.
    #[must_use]
    pub fn cuts_key(&self) -> ObjectKey {
        ObjectKey(format!("{}cuts/index", self.prefix()).into())
    }

    /// Names an object of this home.
    #[must_use]
    pub const fn name(self, kind: ObjectKind) -> ObjectName {
        ObjectName { home: self, kind }
    }

    /// Names a bundle of this home.
    #[must_use]
    pub const fn bundle(self, lane: LaneId, sequence: Sequence) -> ObjectName {
        self.name(ObjectKind::Bundle { lane, sequence })
    }

    /// Names a lane's manifest of this home.
    #[must_use]
    pub const fn lane_manifest(self, lane: LaneId) -> ObjectName {
        self.name(ObjectKind::LaneManifest { lane })
    }
}

impl ObjectName {
    /// Where it lies.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let prefix = self.home.prefix();
        let partition = |p: &PartitionId| format!("{}/{:010}-{:010}", p.topic, p.index.0, p.incarnation.0);
        let key = match &self.kind {
            ObjectKind::Catalogue => format!("{prefix}catalogue"),
            ObjectKind::Bundle { lane, sequence } => format!("{prefix}lanes/{:010}/{:020}", lane.0, sequence.0),
            ObjectKind::Part { partition: p, lane, sequence, term, nonce } => {
                let p = partition(p);
                format!("{prefix}parts/{p}/{:010}-{:020}-{:020}-{:016x}", lane.0, sequence.0, term.0, nonce.0)
            }
            ObjectKind::Segment { partition: p, base, term, nonce } => {
                format!("{prefix}segments/{}/{:020}-{:020}-{:016x}", partition(p), base.get(), term.0, nonce.0)
            }
            ObjectKind::Gathered { lane, first, term, nonce } => {
                format!("{prefix}gathered/{:010}/{:020}-{:020}-{:016x}", lane.0, first.0, term.0, nonce.0)
            }
            ObjectKind::Spill { partition: p, start, level, nonce } => {
                format!("{prefix}spills/{}/{:020}-{level:03}-{:016x}", partition(p), start.get(), nonce.0)
            }
            ObjectKind::LaneManifest { lane } => format!("{prefix}manifests/{:010}", lane.0),
            ObjectKind::Page { lane, term, nonce } => {
                format!("{prefix}pages/{:010}/{:020}-{:016x}", lane.0, term.0, nonce.0)
            }
            ObjectKind::Cut { number } => format!("{prefix}cuts/{number:020}"),
        };
        ObjectKey(key.into())
    }

    /// The partition that alone has the object; `None` for objects of lanes and clusters.
    #[must_use]
    pub fn owner(&self) -> Option<PartitionId> {
        match self.kind {
            ObjectKind::Segment { partition, .. }
            | ObjectKind::Spill { partition, .. }
            | ObjectKind::Part { partition, .. } => Some(partition),
            _ => None,
        }
    }

    /// What lies at `key`; `None` for keys that are not of this layout. Exactly the inverse of [`ObjectName::key`].
    #[must_use]
    pub fn parse(key: &ObjectKey) -> Option<Self> {
        let mut parts = key.as_str().split('/');
        let cluster = ClusterId(Uuid::try_parse(parts.next()?).ok()?);
        let home = Home { cluster, epoch: LineageEpoch(parts.next()?.parse().ok()?) };
        let folder = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let name = home.name(parse_kind(folder, &rest)?);
        // Anything that does not print back the same (other padding, upper case) is not ours.
        (name.key() == *key).then_some(name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

fn parse_kind(folder: &str, rest: &[&str]) -> Option<ObjectKind> {
    let lane = |text: &str| text.parse().ok().map(LaneId);
    Some(match (folder, rest) {
        ("catalogue", []) => ObjectKind::Catalogue,
        ("lanes", [l, sequence]) => ObjectKind::Bundle { lane: lane(l)?, sequence: Sequence(sequence.parse().ok()?) },
        ("parts", [topic, p, file]) => {
            let [l, sequence, term, nonce] = fields(file)?;
            let (sequence, term) = (Sequence(sequence.parse().ok()?), Term(term.parse().ok()?));
            let partition = parse_partition(topic, p)?;
            ObjectKind::Part { partition, lane: lane(l)?, sequence, term, nonce: parse_nonce(nonce)? }
        }
        ("segments", [topic, p, file]) => {
            let [base, term, nonce] = fields(file)?;
            ObjectKind::Segment {
                partition: parse_partition(topic, p)?,
                base: parse_offset(base)?,
                term: Term(term.parse().ok()?),
                nonce: parse_nonce(nonce)?,
            }
        }
        ("gathered", [l, file]) => {
            let [first, term, nonce] = fields(file)?;
            let (first, term) = (Sequence(first.parse().ok()?), Term(term.parse().ok()?));
            ObjectKind::Gathered { lane: lane(l)?, first, term, nonce: parse_nonce(nonce)? }
        }
        ("spills", [topic, p, file]) => {
            let [start, level, nonce] = fields(file)?;
            ObjectKind::Spill {
                partition: parse_partition(topic, p)?,
                start: parse_offset(start)?,
                level: level.parse().ok()?,
                nonce: parse_nonce(nonce)?,
            }
        }
        ("manifests", [l]) => ObjectKind::LaneManifest { lane: lane(l)? },
        ("pages", [l, file]) => {
            let [term, nonce] = fields(file)?;
            ObjectKind::Page { lane: lane(l)?, term: Term(term.parse().ok()?), nonce: parse_nonce(nonce)? }
        }
        ("cuts", [number]) => ObjectKind::Cut { number: number.parse().ok()? },
        _ => return None,
    })
}

fn fields<const N: usize>(file: &str) -> Option<[&str; N]> {
    file.split('-').collect::<Vec<_>>().try_into().ok()
}

fn parse_partition(topic: &str, rest: &str) -> Option<PartitionId> {
    let [index, incarnation] = fields(rest)?;
    Some(PartitionId {
        topic: TopicId(Uuid::try_parse(topic).ok()?),
        index: PartitionIndex(index.parse().ok().filter(|i| *i >= 0)?),
        incarnation: Incarnation(incarnation.parse().ok()?),
    })
}

fn parse_offset(text: &str) -> Option<Offset> {
    text.parse().ok().filter(|o| *o <= Offset::MAX.get()).map(Offset::new)
}

fn parse_nonce(text: &str) -> Option<Nonce> {
    u64::from_str_radix(text, 16).ok().map(Nonce)
}

#[cfg(test)]
pub(crate) mod tests;
