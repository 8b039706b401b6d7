//! [`Cursor`]: what is left of a value, and of what its columns may take.

use crate::columns::fault::Fault;

/// Bytes of a varint at most.
const VARINT_BYTES: usize = 10;

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
    limit: usize,
    charged: usize,
}

/// A run of items of an array or map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) count: usize,
    /// Bytes left in the value where the block ends, if it says so.
    left_at_end: Option<usize>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(value: &'a [u8], limit: usize) -> Self {
        Self { rest: value, len: value.len(), limit, charged: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// Charges `count` items of `width` bytes.
    pub(super) fn charge(&mut self, count: usize, width: usize) -> Result<(), Fault> {
        self.charged = self.charged.saturating_add(count.saturating_mul(width));
        if self.charged > self.limit { Err(Fault::Large(self.limit)) } else { Ok(()) }
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, Fault> {
        let zigzag = match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                u64::from(*first)
            }
            [first, second, rest @ ..] if *second < 0x80 => {
                self.rest = rest;
                u64::from(*first & 0x7f) | u64::from(*second) << 7
            }
            _ => self.varint()?,
        };
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Of any length. More bytes than a number needs are allowed, as Java's library allows them.
    fn varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0_u64;
        for (at, byte) in self.rest.iter().take(VARINT_BYTES).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                if at == VARINT_BYTES - 1 && *byte > 1 {
                    return Err(Fault::Varint);
                }
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < VARINT_BYTES { Fault::Short } else { Fault::Varint })
    }

    #[inline]
    pub(super) fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.long()?).map_err(|_| Fault::Int)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Fault::Boolean(other)),
        }
    }

    pub(super) fn float(&mut self) -> Result<f32, Fault> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(super) fn double(&mut self) -> Result<f64, Fault> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(self.long()?).map_err(|_| Fault::Length)?;
        self.take(len)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Fault::Utf8)
    }

    /// Of a `fixed` of `size` bytes, or of bytes.
    pub(super) fn sized(&mut self, size: Option<usize>) -> Result<&'a [u8], Fault> {
        match size {
            Some(size) => self.take(size),
            None => self.bytes(),
        }
    }

    #[inline]
    pub(super) fn branch<'b, T>(&mut self, branches: &'b [T]) -> Result<&'b T, Fault> {
        let index = self.long()?;
        usize::try_from(index).ok().and_then(|at| branches.get(at)).ok_or(Fault::Branch(index))
    }

    pub(super) fn symbol<'b, T: AsRef<str>>(&mut self, symbols: &'b [T]) -> Result<&'b str, Fault> {
        let index = i64::from(self.int()?);
        let symbol = usize::try_from(index).ok().and_then(|at| symbols.get(at));
        symbol.map(AsRef::as_ref).ok_or(Fault::Symbol(index))
    }

    /// A block without items ends the array or map.
    pub(super) fn first_block(&mut self) -> Result<Block, Fault> {
        let count = self.long()?;
        let mut left_at_end = None;
        if count < 0 {
            let size = usize::try_from(self.long()?).map_err(|_| Fault::Block)?;
            left_at_end = Some(self.left().checked_sub(size).ok_or(Fault::Block)?);
        }
        let count = count.checked_abs().and_then(|count| usize::try_from(count).ok());
        Ok(Block { count: count.ok_or(Fault::Length)?, left_at_end })
    }

    pub(super) fn next_block(&mut self, ended: Block) -> Result<Block, Fault> {
        if ended.left_at_end.is_some_and(|left| left != self.left()) {
            return Err(Fault::Block);
        }
        self.first_block()
    }
}
