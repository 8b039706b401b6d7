//! Cuts the byte stream of a connection into frames, holding no more memory than has really come.
//!
//! A frame is a 4-byte length and that many bytes (Kafka protocol guide, "Protocol Primitive Types"). The announced
//! length is only a limit check: the buffer grows with the bytes received, so a peer that announces 50 MiB and stops
//! costs a few KiB. A peer that has sent large frames before gets the room of its last one at once, which spares the
//! copies of growing. Cancel-safe: all state is here, none in a future.

use bytes::{Buf, BytesMut};

/// Room made before anything of a frame has come.
pub const ROOM_FIRST: usize = 4 << 10;
/// Largest piece asked of the socket at once.
pub const ROOM_STEP: usize = 128 << 10;
/// Room given at once to a peer that has proved to send frames of this size.
pub const ROOM_TRUSTED: usize = 1 << 20;
/// What of the room given on trust must have been used by the last frame: it is then no larger than twice that.
const GROWTH: usize = 2;

/// The peer announced a frame that is not accepted; the connection must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {announced} bytes announced; accepted are 1 to {max}")]
pub struct FrameTooLarge {
    /// As announced.
    pub announced: i32,
    /// The limit.
    pub max: usize,
}

/// Collects bytes until a frame is whole.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    /// Bytes of `bytes` that came from the peer; beyond is zeroed room.
    filled: usize,
    max: usize,
    last_frame: usize,
}

impl FrameBuffer {
    /// Accepts frames of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { bytes: BytesMut::new(), filled: 0, max, last_frame: 0 }
    }

    /// Bytes received and not yet taken as frames.
    #[must_use]
    pub fn held(&self) -> usize {
        self.filled
    }

    /// Is the peer in the middle of a frame?
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.filled > 0
    }

    fn announced(&self) -> Option<i32> {
        let prefix: [u8; 4] = self.bytes.get(..self.filled)?.get(..4)?.try_into().ok()?;
        Some(i32::from_be_bytes(prefix))
    }

    /// Length of the frame at the front, prefix included.
    fn whole_len(&self) -> Result<Option<usize>, FrameTooLarge> {
        let Some(announced) = self.announced() else { return Ok(None) };
        match usize::try_from(announced) {
            Ok(len) if len > 0 && len <= self.max => Ok(Some(len + 4)),
            _ => Err(FrameTooLarge { announced, max: self.max }),
        }
    }

    /// The next whole frame, without its length prefix.
    ///
    /// # Errors
    /// The announced length is not accepted.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, FrameTooLarge> {
        let Some(len) = self.whole_len()?.filter(|len| *len <= self.filled) else { return Ok(None) };
        let mut frame = self.bytes.split_to(len);
        self.filled -= len;
        self.last_frame = len;
        frame.advance(4);
        Ok(Some(frame))
    }

    /// Where the socket's next bytes go; never empty. Report them with [`FrameBuffer::advance`].
    ///
    /// # Errors
    /// The announced length is not accepted.
    pub fn room(&mut self) -> Result<&mut [u8], FrameTooLarge> {
        let end = match self.whole_len()? {
            // Up to the end of this frame, so that the next one gets a buffer of its own.
            Some(len) if len > self.filled => len,
            // Unknown yet: small requests come whole with one read.
            _ => self.filled + ROOM_FIRST,
        };
        let earned = (self.filled * GROWTH).max(ROOM_FIRST);
        let trusted = self.last_frame.min(ROOM_TRUSTED);
        let capacity = end.min(earned.max(trusted));
        let capacity = capacity.max(self.filled + 1);
        if self.bytes.capacity() < capacity {
            self.bytes.reserve(capacity - self.bytes.len());
        }
        let target = capacity.min(self.filled + ROOM_STEP);
        if self.bytes.len() < target {
            self.bytes.resize(target, 0);
        }
        let max = self.max;
        self.bytes.get_mut(self.filled..target).ok_or(FrameTooLarge { announced: 0, max })
    }

    /// `n` bytes were written to the room.
    pub fn advance(&mut self, n: usize) {
        self.filled = (self.filled + n).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8]) -> Vec<BytesMut> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let room = buffer.room().expect("accepted");
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            buffer.advance(n);
            bytes = &bytes[n..];
            while let Some(frame) = buffer.next_frame().expect("accepted") {
                out.push(frame);
            }
        }
        out
    }

    fn frame(len: usize, byte: u8) -> Vec<u8> {
        let mut out = (len as u32).to_be_bytes().to_vec();
        out.resize(len + 4, byte);
        out
    }

    #[test]
    fn frames_come_out_as_sent_however_cut() {
        let sizes = [1, 3, 100, 5000, 300_000, 2_000_000, 7, 1_500_000];
        let stream: Vec<u8> = sizes.iter().enumerate().flat_map(|(i, n)| frame(*n, i as u8)).collect();
        for piece in [1_000_003, 65_536, 1009] {
            let mut buffer = FrameBuffer::new(4 << 20);
            let frames: Vec<_> = stream.chunks(piece).flat_map(|c| feed(&mut buffer, c)).collect();
            assert_eq!(frames.iter().map(BytesMut::len).collect::<Vec<_>>(), sizes);
            assert!(frames.iter().enumerate().all(|(i, f)| f.iter().all(|b| *b == i as u8)));
            assert_eq!(buffer.held(), 0);
        }
    }

    #[test]
    fn an_announcement_costs_nothing() {
        let mut buffer = FrameBuffer::new(100 << 20);
        feed(&mut buffer, &(50u32 << 20).to_be_bytes());
        assert!(buffer.room().expect("accepted").len() <= ROOM_FIRST);
        assert!(buffer.bytes.capacity() <= 4 * ROOM_FIRST);
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for announced in [0, -1, i32::MIN, 1001] {
            let mut buffer = FrameBuffer::new(1000);
            buffer.room().expect("accepted")[..4].copy_from_slice(&announced.to_be_bytes());
            buffer.advance(4);
            assert_eq!(buffer.next_frame(), Err(FrameTooLarge { announced, max: 1000 }));
        }
    }
}
