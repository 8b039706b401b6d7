//! One file's bytes: as reads see them, as a power cut would leave them, and the changes between the two.

use std::collections::{BTreeSet, VecDeque};

use crate::env::rng::Rng;

pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

pub(super) struct PendingChange {
    pub(super) change: Change,
    pub(super) completed: bool,
    pub(super) doomed: bool,
}

#[derive(Default)]
pub(super) struct Content {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: VecDeque<PendingChange>,
    /// Number of the first of `pending`; numbering continues when the front is taken off.
    pub(super) first_pending: u64,
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write { at, bytes: fresh } => {
                let end = at + fresh.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(fresh);
            }
            Change::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    pub(super) fn start(&mut self, change: Change) -> u64 {
        Self::apply(&mut self.live, &change);
        self.pending.push_back(PendingChange { change, completed: false, doomed: false });
        self.first_pending + self.pending.len() as u64 - 1
    }

    pub(super) fn complete(&mut self, number: u64) {
        let at = number.checked_sub(self.first_pending).and_then(|at| usize::try_from(at).ok());
        if let Some(pending) = at.and_then(|at| self.pending.get_mut(at)) {
            pending.completed = true;
        }
    }

    /// Numbers of the writes that a sync beginning now covers.
    pub(super) fn covered(&self) -> BTreeSet<u64> {
        let numbered = (self.first_pending..).zip(&self.pending);
        numbered.filter(|(_, p)| p.completed && !p.doomed).map(|(number, _)| number).collect()
    }

    pub(super) fn make_durable(&mut self, covered: &BTreeSet<u64>) {
        let mut kept: VecDeque<PendingChange> = VecDeque::new();
        let mut leading = true;
        for (number, pending) in (self.first_pending..).zip(std::mem::take(&mut self.pending)) {
            if covered.contains(&number) && !pending.doomed {
                Self::apply(&mut self.durable, &pending.change);
                // A lost write of the same bytes, after a failed sync, is overwritten or cut off for good.
                let lost = |old: &&mut PendingChange| old.doomed && old.change.overlaps(&pending.change);
                kept.iter_mut().filter(lost).for_each(|old| old.change = Change::nothing());
                if leading {
                    self.first_pending = number + 1;
                } else {
                    // An empty change instead, so that the numbers of later changes stay.
                    kept.push_back(PendingChange { change: Change::nothing(), completed: true, doomed: true });
                }
            } else {
                leading = false;
                kept.push_back(pending);
            }
        }
        self.pending = kept;
    }

    /// A sync of these changes failed: no later sync makes the writes durable. Lengths are the file system's own: a
    /// later sync that succeeds covers them, in their order.
    pub(super) fn doom(&mut self, covered: &BTreeSet<u64>) {
        for (number, pending) in (self.first_pending..).zip(&mut self.pending) {
            pending.doomed |= covered.contains(&number) && matches!(pending.change, Change::Write { .. });
        }
    }

    pub(super) fn crash(&mut self, rng: &Rng) {
        for pending in std::mem::take(&mut self.pending) {
            match (&pending.change, rng.below(3)) {
                (_, 0) => {}
                (Change::Write { at, bytes }, 1) if !bytes.is_empty() => {
                    let sector = if rng.below(2) == 0 { 512 } else { 4096 };
                    for (n, part) in bytes.chunks(sector).enumerate() {
                        if rng.below(2) == 0 {
                            let part = Change::Write { at: at + n * sector, bytes: part.to_vec() };
                            Self::apply(&mut self.durable, &part);
                        }
                    }
                }
                (change, _) => Self::apply(&mut self.durable, change),
            }
        }
        self.live.clone_from(&self.durable);
    }
}

impl Change {
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write { at, bytes }, Self::Write { at: from, bytes: others }) => {
                *at < from + others.len() && *from < at + bytes.len()
            }
            (Self::Write { at, bytes }, Self::SetLen(len)) => at + bytes.len() > *len,
            (Self::SetLen(_), _) => false,
        }
    }

    const fn nothing() -> Self {
        Self::Write { at: 0, bytes: Vec::new() }
    }
}
