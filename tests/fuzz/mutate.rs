//! How an input is damaged: bits, bytes, numbers in both byte orders, lengths, splices, truncation, a dictionary.

use tidewater_storage::env::Rng;

/// Values at which arithmetic goes wrong.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    16,
    63,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    32_767,
    32_768,
    65_535,
    65_536,
    1 << 20,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_fffe,
    -0x8000_0000,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
    i64::MIN + 1,
    1 << 40,
    1 << 62,
];

/// Words of the formats.
const WORDS: &[&[u8]] = &[
    b"{}",
    b"[]",
    b"null",
    b"\"\"",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"TWJ",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xc3\x28",
    b"\x1f\x8b\x08",
    b"\x04\x22\x4d\x18",
    b"\x28\xb5\x2f\xfd",
    b"\x82SNAPPY\x00",
];

/// No input grows beyond this by mutation, unless it was larger already.
const LEN_MAX: usize = 96 << 10;

fn below(rng: &Rng, n: usize) -> usize {
    usize::try_from(rng.below(n.max(1) as u64)).unwrap_or(0)
}

/// A place, more often near the front, where headers are.
fn place(rng: &Rng, len: usize) -> usize {
    let end = if rng.below(3) == 0 { len.min(128) } else { len };
    below(rng, end)
}

/// Damages `bytes` one to six times; `other` is another input of the same target.
pub(crate) fn mutate(rng: &Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=rng.below(if rng.below(3) == 0 { 6 } else { 2 }) {
        once(rng, bytes, other);
    }
    bytes.truncate(LEN_MAX.max(other.len()));
}

fn once(rng: &Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let len = bytes.len();
    let at = place(rng, len);
    match rng.below(12) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.next_u64().to_le_bytes()[0];
            }
        }
        3 | 4 => overwrite(rng, bytes, at, NUMBERS[below(rng, NUMBERS.len())]),
        5 => nudge(rng, bytes, at),
        6 => bytes.truncate(at),
        7 => {
            let end = (at + 1 + below(rng, 32)).min(len);
            drop(bytes.drain(at.min(end)..end));
        }
        8 => {
            let end = (at + 1 + below(rng, 64)).min(len);
            let copy: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
            let to = below(rng, len + 1);
            drop(bytes.splice(to..to, copy));
        }
        9 => {
            let word = WORDS[below(rng, WORDS.len())];
            let to = below(rng, len + 1);
            let end = if rng.below(2) == 0 { to } else { (to + word.len()).min(len) };
            drop(bytes.splice(to..end, word.iter().copied()));
        }
        10 => {
            // The front of one, the end of another.
            let from = place(rng, other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        _ => {
            let from = below(rng, other.len());
            let part = other.get(from..(from + 1 + below(rng, 40)).min(other.len())).unwrap_or_default();
            let end = (at + part.len()).min(len);
            drop(bytes.splice(at..end, part.iter().copied()));
        }
    }
}

/// A whole number in one of the usual widths and both orders.
fn overwrite(rng: &Rng, bytes: &mut [u8], at: usize, number: i64) {
    let width = [1, 2, 4, 8][below(rng, 4)];
    let mut word = number.to_le_bytes();
    let word = &mut word[..width];
    if rng.below(2) == 0 {
        word.reverse();
    }
    bytes.iter_mut().skip(at).zip(word.iter()).for_each(|(byte, new)| *byte = *new);
}

/// One more or a few less than it was: what length fields break on.
fn nudge(rng: &Rng, bytes: &mut [u8], at: usize) {
    let width = [1, 2, 4, 8][below(rng, 4)];
    let by = i64::try_from(rng.below(17)).unwrap_or(0) - 8;
    let big = rng.below(2) == 0;
    let Some(field) = bytes.get_mut(at..at + width) else { return };
    let mut word = [0; 8];
    word[..width].copy_from_slice(field);
    if big {
        word[..width].reverse();
    }
    word = i64::from_le_bytes(word).wrapping_add(by).to_le_bytes();
    if big {
        word[..width].reverse();
    }
    field.copy_from_slice(&word[..width]);
}
