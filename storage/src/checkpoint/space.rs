//! Free blocks of the page file: those that neither valid root names. Pure.

use super::root::Root;

/// Free gaps between named pages, in order, then everything after the last page. Handed out in one sweep.
#[derive(Debug)]
pub(super) struct Space {
    /// `[start, end)` of each gap, in reverse so that the next is popped.
    gaps: Vec<(u64, u64)>,
    /// First block after all named pages.
    end: u64,
}

impl Space {
    pub(super) fn beside(roots: &[&Root]) -> Self {
        let pages = roots.iter().flat_map(|root| &root.pages).filter(|page| page.len > 0);
        let mut used: Vec<(u64, u64)> = pages.map(|page| (page.block, page.block + page.blocks())).collect();
        used.sort_unstable();
        let (mut gaps, mut end) = (Vec::new(), 0);
        for (from, to) in used {
            if from > end {
                gaps.push((end, from));
            }
            end = end.max(to);
        }
        gaps.reverse();
        Self { gaps, end }
    }

    /// Takes `blocks` free blocks in a row; returns the first.
    pub(super) fn take(&mut self, blocks: u64) -> u64 {
        assert!(blocks > 0, "an empty page takes no block");
        while let Some((from, to)) = self.gaps.pop() {
            if to - from >= blocks {
                if to - from > blocks {
                    self.gaps.push((from + blocks, to));
                }
                return from;
            }
        }
        let at = self.end;
        self.end += blocks;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::root::PageRef;

    fn root(pages: &[(u64, u32)]) -> Root {
        let pages = pages.iter().map(|(block, len)| PageRef { block: *block, len: *len, crc: 0 }).collect();
        Root { generation: 1, bytes: 0, pages }
    }

    #[test]
    fn gaps_first_then_the_end_and_never_what_is_named() {
        let (new, old) = (root(&[(0, 4096), (4, 1)]), root(&[(2, 5000), (9, 0)]));
        let mut space = Space::beside(&[&new, &old]);
        assert_eq!((space.take(1), space.take(1), space.take(3)), (1, 5, 6));
        let mut space = Space::beside(&[&new]);
        assert_eq!((space.take(2), space.take(2), space.take(1)), (1, 5, 7));
    }
}
