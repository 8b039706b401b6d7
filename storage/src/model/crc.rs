//! Joins checksums: the crc32c of two pieces, one after the other, from the crc32c of each, without their bytes.
//!
//! A producer's batch has a checksum of nearly all its bytes, which is verified once, when the batch arrives. The
//! journal's and the segment's checksums over the same bytes are joined from it, so that a large batch is read once and
//! not three times. Bytes damaged in memory after the verification then fail the checks of later reads.
//!
//! Appending `n` bytes to a piece multiplies its checksum by x^8n modulo the polynomial (the method of zlib's
//! `crc32_combine`, here for Castagnoli's polynomial). Pure.

/// Castagnoli's polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// From this many bytes on, joining is cheaper than reading them.
pub const JOIN_MIN: usize = 16 << 10;

/// x^(2^n), enough for every length in memory.
static POWERS: [u32; 64] = powers();

/// `a` times `b` modulo the polynomial; the highest bit is x^0.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut bit, mut product) = (1 << 31, 0);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
            if a & (bit - 1) == 0 {
                break;
            }
        }
        bit >>= 1;
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
    }
    product
}

const fn powers() -> [u32; 64] {
    let mut out = [1 << 30; 64];
    let mut n = 1;
    while n < out.len() {
        out[n] = multiply(out[n - 1], out[n - 1]);
        n += 1;
    }
    out
}

/// x^8n: the factor of a checksum when `bytes` follow its piece.
fn shift(bytes: usize) -> u32 {
    let (mut left, mut product) = (bytes, 1 << 31);
    for power in POWERS.iter().skip(3) {
        if left & 1 == 1 {
            product = multiply(*power, product);
        }
        left >>= 1;
        if left == 0 {
            break;
        }
    }
    product
}

/// The crc32c of a piece with checksum `head`, followed by one of `len` bytes with checksum `tail`.
#[must_use]
pub fn join(head: u32, tail: u32, len: usize) -> u32 {
    multiply(shift(len), head) ^ tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_beyond_four_gibibytes_agree_with_joining_twice() {
        let half = 3usize << 31;
        assert_eq!(multiply(shift(half), shift(half)), shift(half * 2));
    }

    proptest! {
        #[test]
        fn joined_is_what_reading_gives(bytes in proptest::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(join(crc32c::crc32c(head), crc32c::crc32c(tail), tail.len()), crc32c::crc32c(&bytes));
        }
    }
}
