//! Reads a journal file from front to back, ahead of the decoder.
//!
//! Owns: windows of the file in memory, one being read while another is decoded, and the check that a commit belongs
//! where it lies. Does not own: what its records mean. Affinity: shard-local.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;

use super::format::{BLOCK, CommitHeader, FormatError, Located, decode_commit};
use crate::env::File;

/// One read; the kernel splits it into parallel ones. Bytes.
const WINDOW: u64 = 4 << 20;
/// Reads in flight. With two, one is read while the other is decoded. With more, several complete together, and nothing
/// is read while they are decoded.
const AHEAD: usize = 2;

/// A window: the length asked for, and the bytes read.
type Window = (u64, Bytes);

/// Reads a file forward, in windows.
pub(super) struct Scanner<'a> {
    file: &'a File,
    /// Length of the file.
    end: u64,
    /// Position of the first window.
    from: u64,
    /// Position of the next read.
    next: u64,
    windows: VecDeque<Bytes>,
    reads: FuturesOrdered<LocalBoxFuture<'a, io::Result<Window>>>,
}

impl<'a> Scanner<'a> {
    /// A scanner of a file of `end` bytes.
    pub(super) fn new(file: &'a File, end: u64) -> Self {
        Self { file, end, from: 0, next: 0, windows: VecDeque::new(), reads: FuturesOrdered::new() }
    }

    /// The header of the commit that belongs at `at`.
    pub(super) async fn header(
        &mut self,
        journal: u64,
        generation: u64,
        at: u64,
    ) -> io::Result<Result<CommitHeader, FormatError>> {
        let bytes = self.get(at, BLOCK as u64).await?;
        Ok(CommitHeader::decode(&bytes).and_then(|header| {
            let field = |field, value| Err(FormatError::Field { field, value });
            match header {
                _ if header.journal != journal => field("journal id", header.journal),
                _ if header.generation != generation => field("generation", header.generation),
                _ if header.position != at => field("position", header.position),
                _ => Ok(header),
            }
        }))
    }

    /// The commit at `at`, if it is complete and has sequence `expected`.
    pub(super) async fn commit(
        &mut self,
        journal: u64,
        generation: u64,
        at: u64,
        expected: u64,
    ) -> io::Result<Result<(CommitHeader, Vec<Located>), FormatError>> {
        let header = match self.header(journal, generation, at).await? {
            Ok(header) if header.sequence != expected => {
                return Ok(Err(FormatError::Field { field: "sequence", value: header.sequence }));
            }
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        let bytes = self.get(at, header.total_len() as u64).await?;
        Ok(decode_commit(&header, &bytes).map(|records| (header, records)))
    }

    /// The `len` bytes at `at`; fewer at the end of the file.
    async fn get(&mut self, at: u64, len: u64) -> io::Result<Bytes> {
        if at < self.from || at > self.next {
            self.windows.clear();
            self.reads = FuturesOrdered::new();
            (self.from, self.next) = (at, at);
        }
        while self.windows.front().is_some_and(|first| self.from + first.len() as u64 <= at) {
            self.from += self.windows.pop_front().map_or(0, |first| first.len() as u64);
        }
        while self.until() < at.saturating_add(len).min(self.end) {
            self.ask();
            let Some((asked, window)) = self.reads.next().await.transpose()? else { break };
            let short = (window.len() as u64) < asked;
            self.windows.push_back(window);
            if short {
                // The file is shorter than the layout says.
                self.end = self.until();
                self.reads = FuturesOrdered::new();
            }
        }
        Ok(self.held(at, len))
    }

    /// Position after the last window.
    fn until(&self) -> u64 {
        self.from + self.windows.iter().map(|window| window.len() as u64).sum::<u64>()
    }

    fn ask(&mut self) {
        while self.reads.len() < AHEAD && self.next < self.end {
            let (file, at, len) = (self.file, self.next, WINDOW.min(self.end - self.next));
            let read = async move {
                let bytes = file.read_at(at, usize::try_from(len).unwrap_or(usize::MAX)).await?;
                Ok((len, bytes))
            };
            self.reads.push_back(Box::pin(read));
            self.next += len;
        }
    }

    /// What the windows hold of the `len` bytes at `at`: a slice of one window, or a copy from several.
    fn held(&self, at: u64, len: u64) -> Bytes {
        let end = at.saturating_add(len);
        let (mut begin, mut joined) = (self.from, BytesMut::new());
        for window in &self.windows {
            let within =
                |place: u64| usize::try_from(place.saturating_sub(begin)).unwrap_or(usize::MAX).min(window.len());
            let piece = within(at)..within(end);
            begin += window.len() as u64;
            if at >= begin - window.len() as u64 && end <= begin {
                return window.slice(piece);
            }
            joined.extend_from_slice(window.get(piece).unwrap_or_default());
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::OpenMode;
    use crate::env::sim::World;

    const LEN: u64 = 3 * WINDOW + 5 * BLOCK as u64;

    fn byte(at: u64) -> u8 {
        (at / 4096 * 31 + at % 251) as u8
    }

    #[test]
    fn what_lies_across_windows_is_whole_and_the_end_is_the_end() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async move {
            let file = env.disk.open(Path::new("/file"), OpenMode::CreateNew).await.expect("made");
            let mut buffer = file.alloc(usize::try_from(LEN).expect("small"));
            (0..LEN).zip(buffer.iter_mut()).for_each(|(at, place)| *place = byte(at));
            file.write_at(buffer, 0).await.expect("written");
            // Once as long as the file is, once as if it had been longer.
            for end in [LEN, LEN + 2 * WINDOW] {
                let mut scanner = Scanner::new(&file, end);
                let mut at = 0;
                for len in [1, BLOCK as u64, WINDOW - 7, WINDOW + 9, WINDOW * 2, WINDOW] {
                    let bytes = scanner.get(at, len).await.expect("read");
                    let expected: Vec<u8> = (at..(at + len).min(LEN)).map(byte).collect();
                    assert!(bytes == expected, "{len} bytes at {at} of {end}");
                    at += len / 2;
                }
                assert!(scanner.get(LEN, 10).await.expect("read").is_empty());
                assert_eq!(scanner.get(7, 1).await.expect("read")[..], [byte(7)]);
            }
        });
    }
}
