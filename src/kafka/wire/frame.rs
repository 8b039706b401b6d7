//! Cuts the byte stream of a connection into frames, holding no more memory than has really come.
//!
//! A frame is a 4-byte length and that many bytes (Kafka protocol guide, "Protocol Primitive Types"). The announced
//! length is only a limit check: the buffer grows with the bytes received, so a peer that announces 50 MiB and stops
//! costs a few KiB. A peer that has sent large frames before gets the room of its last one at once, which spares the
//! copies of growing. Cancel-safe: all state is here, none in a future.
//!
//! Small frames come many with one read into memory that the shard's connections share ([`Wanted::Gather`]) and are
//! copied from there; the rest of a large frame is received where it stays ([`Wanted::Rest`]). A connection between
//! two frames holds no memory.

use bytes::{Buf, BytesMut};

/// Room made before anything of a frame has come.
pub const ROOM_FIRST: usize = 4 << 10;
/// Bytes that one read may gather.
pub const GATHER_MAX: usize = 128 << 10;
/// The rest of a frame is received in place from this many bytes on.
const REST_MIN: usize = 32 << 10;
/// Room given at once to a peer that has proved to send frames of this size.
pub const ROOM_TRUSTED: usize = 2 << 20;
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

/// Where the next bytes of a connection go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// At most so many, through memory of the caller's, into [`FrameBuffer::gathered`].
    Gather(usize),
    /// At most so many, appended to [`FrameBuffer::rest`].
    Rest(usize),
}

/// Collects bytes until a frame is whole.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    max: usize,
    last_frame: usize,
}

impl FrameBuffer {
    /// Accepts frames of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { bytes: BytesMut::new(), max, last_frame: 0 }
    }

    /// Bytes received and not yet taken as frames.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Is the peer in the middle of a frame?
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Bytes it will hold when the frame at the front is whole, as far as the peer has told.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.whole_len().ok().flatten().map_or(self.held(), |whole| whole.max(self.held()))
    }

    fn announced(&self) -> Option<i32> {
        let prefix: [u8; 4] = self.bytes.get(..4)?.try_into().ok()?;
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
        let Some(len) = self.whole_len()?.filter(|len| *len <= self.bytes.len()) else { return Ok(None) };
        let mut frame =
            if len == self.bytes.len() { std::mem::take(&mut self.bytes) } else { self.bytes.split_to(len) };
        self.last_frame = len;
        frame.advance(4);
        Ok(Some(frame))
    }

    /// How the socket's next bytes are to be received; call it when [`FrameBuffer::next_frame`] has none.
    ///
    /// # Errors
    /// The announced length is not accepted.
    pub fn wanted(&mut self) -> Result<Wanted, FrameTooLarge> {
        let held = self.bytes.len();
        let Some(end) = self.whole_len()? else {
            // Behind a large frame comes another: no more of it than tells how large, the rest in place.
            let large = self.last_frame >= GATHER_MAX;
            return Ok(Wanted::Gather(if large { ROOM_FIRST } else { GATHER_MAX }));
        };
        if end.saturating_sub(held) < REST_MIN {
            return Ok(Wanted::Gather(GATHER_MAX));
        }
        let earned = (held * GROWTH).max(ROOM_FIRST);
        let capacity = end.min(earned.max(self.last_frame.min(ROOM_TRUSTED))).max(held + 1);
        if self.bytes.capacity() < capacity {
            self.bytes.reserve(capacity - held);
        }
        Ok(Wanted::Rest(end.min(self.bytes.capacity()) - held))
    }

    /// Takes in what was gathered.
    pub fn gathered(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::from(bytes);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// What has come of the frame so far; room for the rest is made.
    pub fn rest(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8]) -> Vec<BytesMut> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let taken = match buffer.wanted().expect("accepted") {
                Wanted::Gather(max) => {
                    let taken = bytes.len().min(max);
                    buffer.gathered(&bytes[..taken]);
                    taken
                }
                Wanted::Rest(max) => {
                    let taken = bytes.len().min(max);
                    buffer.rest().extend_from_slice(&bytes[..taken]);
                    taken
                }
            };
            bytes = &bytes[taken..];
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
        assert_eq!(buffer.wanted(), Ok(Wanted::Rest(ROOM_FIRST - 4)));
        assert!(buffer.bytes.capacity() <= 4 * ROOM_FIRST);
    }

    #[test]
    fn between_frames_nothing_is_held() {
        let mut buffer = FrameBuffer::new(4 << 20);
        let stream: Vec<u8> = [5000, 300_000, 7].iter().flat_map(|n| frame(*n, 1)).collect();
        drop(feed(&mut buffer, &stream));
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn small_frames_come_many_at_once_and_the_rest_of_large_ones_in_place() {
        let mut buffer = FrameBuffer::new(4 << 20);
        assert_eq!(buffer.wanted(), Ok(Wanted::Gather(GATHER_MAX)));
        let stream: Vec<u8> = (0..8).flat_map(|n| frame(16_000, n)).collect();
        buffer.gathered(&stream);
        let frames = std::iter::from_fn(|| buffer.next_frame().expect("accepted")).count();
        assert_eq!((frames, buffer.held()), (8, 0));
        feed(&mut buffer, &frame(1_000_000, 0));
        assert_eq!(buffer.wanted(), Ok(Wanted::Gather(ROOM_FIRST)));
        buffer.gathered(&frame(1_000_000, 0)[..ROOM_FIRST]);
        assert_eq!(buffer.wanted(), Ok(Wanted::Rest(1_000_004 - ROOM_FIRST)));
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for announced in [0, -1, i32::MIN, 1001] {
            let mut buffer = FrameBuffer::new(1000);
            buffer.gathered(&announced.to_be_bytes());
            assert_eq!(buffer.next_frame(), Err(FrameTooLarge { announced, max: 1000 }));
        }
    }
}
