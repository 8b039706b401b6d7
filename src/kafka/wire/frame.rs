//! Cuts the byte stream of a connection into frames, holding no more memory than has really come.
//!
//! A frame is a 4-byte length and that many bytes (Kafka protocol guide, "Protocol Primitive Types"). The announced
//! length is only a limit check: the buffer grows with the bytes received, so a peer that announces 50 MiB and stops
//! costs a few KiB. A peer that has sent large frames before gets the room of its last one at once, which spares the
//! copies of growing. Cancel-safe: all state is here, none in a future.
//!
//! Small frames come many with one read into memory that the shard's connections share ([`Wanted::Gather`]) and are
//! copied from there, each into memory of its own: who keeps a part of one keeps none of its neighbours. The rest of a
//! large frame is received where it stays ([`Wanted::Rest`]). A connection between two frames holds no memory.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

/// Room made before anything of a frame has come.
pub const ROOM_FIRST: usize = 4 << 10;
/// Bytes that one read may gather.
pub const GATHER_MAX: usize = 128 << 10;
/// The rest of a frame is received in place from this many bytes on.
const REST_MIN: usize = 32 << 10;
/// Room given at once to a peer that has proved to send frames of this size.
pub const ROOM_TRUSTED: usize = 2 << 20;
/// Frames of one read that get memory of their own at once; those behind them, small ones, when their turn comes.
const APART_MAX: usize = 64;
/// What of the room given on trust must have been used by the last frame: it is then no larger than twice that.
const GROWTH: usize = 2;

/// The peer announced a frame that is not accepted; the connection must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {announced} bytes announced; accepted are 1 to {max}")]
pub struct FrameTooLarge {
    pub announced: i32,
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
    /// Whole frames without their lengths, in front of what is in `bytes`.
    ready: VecDeque<BytesMut>,
    /// What came behind them; a frame's length comes first.
    bytes: BytesMut,
    /// Other frames were, or are, in the same memory as the front of `bytes`.
    crowded: bool,
    max: usize,
    last_frame: usize,
}

impl FrameBuffer {
    /// Accepts frames of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { ready: VecDeque::new(), bytes: BytesMut::new(), crowded: false, max, last_frame: 0 }
    }

    /// Bytes received and not yet taken as frames.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.len() + self.ready.iter().map(|frame| frame.len() + 4).sum::<usize>()
    }

    /// Is the peer in the middle of a frame?
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.bytes.is_empty() || !self.ready.is_empty()
    }

    /// Bytes it will hold when the frame at the front is whole, as far as the peer has said.
    #[must_use]
    pub fn whole(&self) -> usize {
        whole_len(&self.bytes, self.max).ok().flatten().map_or(self.held(), |whole| whole.max(self.held()))
    }

    /// The next whole frame, without its length prefix.
    ///
    /// # Errors
    /// The announced length is not accepted.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, FrameTooLarge> {
        if let Some(frame) = self.ready.pop_front() {
            if self.ready.is_empty() {
                self.ready = VecDeque::new();
            }
            self.last_frame = frame.len() + 4;
            return Ok(Some(frame));
        }
        let whole = whole_len(&self.bytes, self.max)?;
        let Some(len) = whole.filter(|len| *len <= self.bytes.len()) else {
            if std::mem::take(&mut self.crowded) {
                self.bytes = BytesMut::from(&*self.bytes);
            }
            return Ok(None);
        };
        self.last_frame = len;
        self.crowded |= len < self.bytes.len();
        if !self.crowded {
            let mut frame = std::mem::take(&mut self.bytes);
            frame.advance(4);
            return Ok(Some(frame));
        }
        let frame = BytesMut::from(self.bytes.get(4..len).unwrap_or_default());
        self.bytes.advance(len);
        if self.bytes.is_empty() {
            (self.bytes, self.crowded) = (BytesMut::new(), false);
        }
        Ok(Some(frame))
    }

    /// How the socket's next bytes are to be received; call it when [`FrameBuffer::next_frame`] has none.
    ///
    /// # Errors
    /// The announced length is not accepted.
    pub fn wanted(&mut self) -> Result<Wanted, FrameTooLarge> {
        let held = self.bytes.len();
        let Some(end) = whole_len(&self.bytes, self.max)? else {
            // Behind a large frame comes another: only its length is read here, the rest in place.
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
        let mut rest = self.complete(bytes);
        if !self.bytes.is_empty() {
            // Of a frame that is not accepted, or whose end has not come.
            self.bytes.extend_from_slice(rest);
            return;
        }
        while self.ready.len() < APART_MAX
            && let Ok(Some(len)) = whole_len(rest, self.max)
            && let (Some(frame), Some(behind)) = (rest.get(4..len), rest.get(len..))
        {
            self.ready.push_back(BytesMut::from(frame));
            rest = behind;
        }
        if !rest.is_empty() {
            self.bytes = BytesMut::from(rest);
        }
    }

    /// Adds to the frame that has begun what is its own, no byte of the next; what is left of `bytes` comes back.
    fn complete<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !self.bytes.is_empty() && !bytes.is_empty() {
            let Ok(whole) = whole_len(&self.bytes, self.max) else { break };
            let missing = whole.unwrap_or(4).saturating_sub(self.bytes.len());
            if missing == 0 {
                break;
            }
            let (own, behind) = bytes.split_at(missing.min(bytes.len()));
            self.bytes.extend_from_slice(own);
            bytes = behind;
            if whole.is_some_and(|len| len == self.bytes.len()) {
                let mut frame = std::mem::take(&mut self.bytes);
                frame.advance(4);
                self.ready.push_back(frame);
            }
        }
        bytes
    }

    /// What has come of the frame so far; room for the rest is made.
    pub fn rest(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

/// Length of the frame at the front, prefix included.
fn whole_len(bytes: &[u8], max: usize) -> Result<Option<usize>, FrameTooLarge> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*prefix);
    match usize::try_from(announced) {
        Ok(len) if len > 0 && len <= max => Ok(Some(len + 4)),
        _ => Err(FrameTooLarge { announced, max }),
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
    fn who_keeps_a_frame_keeps_no_other() {
        // Few, more than get memory of their own at once, and small ones behind a large one; the last is cut.
        for sizes in [vec![16_000; 8], vec![300; 400], [vec![200_000], vec![50; 100]].concat()] {
            let mut buffer = FrameBuffer::new(4 << 20);
            let mut stream: Vec<u8> = sizes.iter().enumerate().flat_map(|(n, size)| frame(*size, n as u8)).collect();
            stream.extend_from_slice(&frame(5000, 9)[..3000]);
            let frames = feed(&mut buffer, &stream);
            assert_eq!(frames.iter().map(BytesMut::len).collect::<Vec<_>>(), sizes);
            let same = |n: usize, frame: &BytesMut| frame.iter().all(|byte| *byte == n as u8);
            assert!(frames.iter().enumerate().all(|(n, frame)| same(n, frame)));
            assert!(frames.iter().all(|frame| frame.capacity() <= 2 * frame.len()));
            let frames: Vec<_> = frames.into_iter().map(BytesMut::freeze).collect();
            assert!(frames.iter().all(bytes::Bytes::is_unique));
            assert!(buffer.bytes.capacity() < 6000, "{} for 3000 bytes", buffer.bytes.capacity());
            let last = feed(&mut buffer, &frame(5000, 9)[3000..]);
            assert!(matches!(&last[..], [last] if last[..] == [9; 5000]));
        }
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
