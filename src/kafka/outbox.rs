//! Responses on their way to the socket: many ready ones go out with one write, stored batches without a copy.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::limits::PIECE_COPIED_MAX;
use crate::net::stream::Stream;

/// Slices given to one write, at most.
const SLICES_MAX: usize = 32;

/// What waits to be sent, in order. Shard-local.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Small pieces gathered behind `pieces`.
    small: BytesMut,
    bytes: usize,
}

impl Outbox {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is nothing waiting?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a response.
    pub fn push(&mut self, response: Vec<Bytes>) {
        let alone = self.small.is_empty() && response.len() == 1;
        for piece in response {
            self.bytes += piece.len();
            if piece.len() > PIECE_COPIED_MAX || (alone && self.pieces.is_empty()) {
                self.seal();
                self.pieces.push_back(piece);
            } else {
                self.small.extend_from_slice(&piece);
            }
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// Sends as much as the socket takes; ready when everything is gone. Answers bytes and writes since the last call.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>, sent: &mut Sent) -> Poll<io::Result<()>> {
        self.seal();
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let written = ready!(stream.poll_write(cx, slices.get(..count).unwrap_or_default()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            sent.writes += 1;
            sent.bytes += written;
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > n {
                front.advance(n);
                return;
            }
            n -= front.len();
            self.pieces.pop_front();
        }
    }
}

/// What went out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub bytes: usize,
    pub writes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_gathered_large_ones_are_not_copied() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![1; 100_000]);
        outbox.push(vec![Bytes::from_static(b"one")]);
        outbox.push(vec![Bytes::from_static(b"two"), large.clone(), Bytes::from_static(b"three")]);
        outbox.push(vec![Bytes::from_static(b"four")]);
        outbox.seal();
        let lens: Vec<_> = outbox.pieces.iter().map(Bytes::len).collect();
        assert_eq!(lens, [3, 3, 100_000, 9]);
        assert_eq!(outbox.pieces[2].as_ptr(), large.as_ptr());
        outbox.advance(50_006);
        assert_eq!((outbox.bytes(), outbox.pieces.len()), (50_009, 2));
    }
}
