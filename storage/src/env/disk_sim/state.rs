//! The state of the simulated disk: names as a process sees them and as a power cut leaves them, files, ordered faults.
//! Every change is synchronous; `disk_sim` adds time and concurrency. Affinity: shard-local.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::{Counts, Fault, Operation, Twist, TwistKind};
use crate::env::rng::Rng;

pub(super) type Inode = u64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SimNode {
    Dir,
    File(Inode),
}

pub(super) enum NameChange {
    Put(PathBuf, SimNode),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

pub(super) struct SimDiskState {
    pub(super) rng: Rng,
    pub(super) names: BTreeMap<PathBuf, SimNode>,
    pub(super) durable_names: BTreeMap<PathBuf, SimNode>,
    pub(super) name_changes: Vec<(PathBuf, NameChange)>,
    pub(super) contents: BTreeMap<Inode, Content>,
    pub(super) next_inode: Inode,
    pub(super) capacity: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) twists: Vec<Twist>,
    pub(super) lies: Vec<String>,
    /// Operations take this many times as long.
    pub(super) slowness: u64,
    pub(super) counts: Counts,
}

pub(super) fn absent(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("")).to_path_buf()
}

impl SimDiskState {
    pub(super) fn change(names: &mut BTreeMap<PathBuf, SimNode>, change: &NameChange) {
        match change {
            NameChange::Put(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }

    pub(super) fn do_name(&mut self, in_dir: PathBuf, change: NameChange) {
        Self::change(&mut self.names, &change);
        self.name_changes.push((in_dir, change));
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let (synced, rest) = std::mem::take(&mut self.name_changes).into_iter().partition(|(in_dir, _)| in_dir == dir);
        self.name_changes = rest;
        for (_, change) in &synced {
            Self::change(&mut self.durable_names, change);
        }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Inode> {
        match self.names.get(path) {
            Some(SimNode::File(inode)) => Ok(*inode),
            Some(SimNode::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(absent(path)),
        }
    }

    pub(super) fn require_dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            _ if path.as_os_str().is_empty() || path == Path::new("/") => Ok(()),
            Some(SimNode::Dir) => Ok(()),
            Some(SimNode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(absent(path)),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Inode> {
        self.require_dir(&parent(path))?;
        let inode = self.next_inode;
        self.next_inode += 1;
        self.contents.insert(inode, Content::default());
        self.do_name(parent(path), NameChange::Put(path.to_path_buf(), SimNode::File(inode)));
        Ok(inode)
    }

    pub(super) fn used(&self) -> u64 {
        let inodes = self.names.values().filter_map(|node| match node {
            SimNode::File(inode) => Some(*inode),
            SimNode::Dir => None,
        });
        inodes.filter_map(|inode| self.contents.get(&inode)).map(|content| content.live.len() as u64).sum()
    }

    /// The fault that hits this operation, if any.
    pub(super) fn fault(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        let hit = self.faults.iter_mut().position(|fault| {
            let matches = fault.operation == operation && text.contains(&fault.path);
            let due = matches && fault.after == 0;
            if matches && !due {
                fault.after -= 1;
            }
            due
        });
        match hit.map(|at| self.faults.swap_remove(at).error) {
            Some(kind) => Err(io::Error::new(kind, format!("injected fault: {operation:?} of {}", path.display()))),
            None => Ok(()),
        }
    }

    pub(super) fn lies_about(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        self.lies.iter().any(|lie| text.contains(lie))
    }

    /// The twist of this write, if any.
    pub(super) fn twist(&mut self, path: &Path) -> Option<TwistKind> {
        let text = path.to_string_lossy();
        let hit = self.twists.iter_mut().position(|twist| {
            let matches = text.contains(&twist.path);
            let due = matches && twist.after == 0;
            if matches && !due {
                twist.after -= 1;
            }
            due
        });
        hit.map(|at| self.twists.swap_remove(at).kind)
    }

    pub(super) fn crash(&mut self) {
        let rng = self.rng.clone();
        let mut ended: BTreeSet<PathBuf> = BTreeSet::new();
        for (dir, change) in std::mem::take(&mut self.name_changes) {
            if ended.contains(&dir) || rng.below(3) == 0 {
                ended.insert(dir);
            } else {
                Self::change(&mut self.durable_names, &change);
            }
        }
        self.drop_orphans();
        self.names.clone_from(&self.durable_names);
        let named: BTreeSet<Inode> = self
            .names
            .values()
            .filter_map(|node| if let SimNode::File(inode) = node { Some(*inode) } else { None })
            .collect();
        self.contents.retain(|inode, _| named.contains(inode));
        for content in self.contents.values_mut() {
            content.crash(&rng);
        }
        self.faults.clear();
    }

    pub(super) fn drop_orphans(&mut self) {
        // Parents sort before their children, so one pass in order is enough.
        let mut kept: BTreeMap<PathBuf, SimNode> = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable_names) {
            let dir = parent(&path);
            if dir.as_os_str().is_empty() || dir == Path::new("/") || kept.get(&dir) == Some(&SimNode::Dir) {
                kept.insert(path, node);
            }
        }
        self.durable_names = kept;
    }
}
