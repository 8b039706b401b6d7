//! What a test does to the simulated disk from outside: orders faults, damages bytes, limits the capacity, places and
//! reads files. Affinity: shard-local.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::state::SimNode;
use super::{Fault, SimDisk, Twist};

impl SimDisk {
    /// Orders a failure.
    pub fn inject(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Orders a write that goes wrong without an error.
    pub fn twist(&self, twist: Twist) {
        self.state.borrow_mut().twists.push(twist);
    }

    /// Cancels all ordered failures and twists.
    pub fn clear_faults(&self) {
        let mut state = self.state.borrow_mut();
        state.faults.clear();
        state.twists.clear();
    }

    /// From now on, syncs of files and directories whose path contains `path` report success and do nothing: a device
    /// that lies, or a program that forgot to sync.
    pub fn lie(&self, path: &str) {
        self.state.borrow_mut().lies.push(path.to_owned());
    }

    /// Ends [`SimDisk::lie`].
    pub fn tell_the_truth(&self) {
        self.state.borrow_mut().lies.clear();
    }

    /// From now on operations take `times` as long.
    pub fn set_slowness(&self, times: u64) {
        self.state.borrow_mut().slowness = times.max(1);
    }

    /// Removes every file and name.
    pub fn wipe(&self) {
        let mut state = self.state.borrow_mut();
        state.contents.clear();
        state.names.clear();
        state.durable_names.clear();
        state.name_changes.clear();
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state.borrow().used()
    }

    /// Total bytes of files the disk can hold; writes beyond fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.borrow_mut().capacity = bytes;
    }

    /// Flips one stored bit, as reads see it and durably. False if there is no such byte.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) -> bool {
        let byte = usize::try_from(at).ok().and_then(|at| self.contents(path)?.get(at).copied());
        byte.is_some_and(|byte| self.overwrite(path, at, &[byte ^ (1 << (bit % 8))]))
    }

    /// Replaces stored bytes, as reads see them and durably. False if they are not all within the file.
    pub fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(content) = state.file(path).ok().and_then(|inode| state.contents.get_mut(&inode)) else {
            return false;
        };
        let Some(range) = usize::try_from(at).ok().and_then(|at| Some(at..at.checked_add(bytes.len())?)) else {
            return false;
        };
        if let Some(durable) = content.durable.get_mut(range.clone()) {
            durable.copy_from_slice(bytes);
        }
        content.live.get_mut(range).map(|live| live.copy_from_slice(bytes)).is_some()
    }

    /// A copy of a file as reads see it now.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let inode = state.file(path).ok()?;
        state.contents.get(&inode).map(|content| content.live.clone())
    }

    /// All files as reads see them now, by path.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.borrow();
        let inodes = state.names.iter().filter_map(|(path, node)| match node {
            SimNode::File(inode) => Some((path.clone(), *inode)),
            SimNode::Dir => None,
        });
        inodes.filter_map(|(path, inode)| Some((path, state.contents.get(&inode)?.live.clone()))).collect()
    }

    /// Places a durable file with its directories, replacing a file of that path.
    pub fn place(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            state.names.insert(dir.to_path_buf(), SimNode::Dir);
            state.durable_names.insert(dir.to_path_buf(), SimNode::Dir);
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        let content = Content { live: bytes.to_vec(), durable: bytes.to_vec(), ..Content::default() };
        state.contents.insert(inode, content);
        state.names.insert(path.to_path_buf(), SimNode::File(inode));
        state.durable_names.insert(path.to_path_buf(), SimNode::File(inode));
    }
}
