//! [`Reader`]: Protobuf's wire format. Every length is compared with what is left before anything is taken.

use crate::columns::fault::Fault;

/// Bytes of a varint at most.
const VARINT_BYTES: usize = 10;
/// Groups inside each other that are read over at most.
const GROUPS_MAX: usize = 64;

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::columns) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Group,
    GroupEnd,
    Fixed32,
}

/// A value as it is written.
#[derive(Clone, Copy, Debug)]
pub(in crate::columns) enum Raw<'a> {
    Number(u64),
    /// Also what is between a group's tags.
    Bytes(&'a [u8]),
}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(in crate::columns) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::columns) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(in crate::columns) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(in crate::columns) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(in crate::columns) fn varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for (at, byte) in self.rest.iter().enumerate().take(VARINT_BYTES) {
            if at + 1 == VARINT_BYTES && *byte > 1 {
                return Err(Fault::Varint);
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(Fault::Short)
    }

    /// Number and wire type of the next field.
    #[inline]
    pub(in crate::columns) fn tag(&mut self) -> Result<(u32, Wire), Fault> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Fault::Tag)?;
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            3 => Wire::Group,
            4 => Wire::GroupEnd,
            5 => Wire::Fixed32,
            _ => return Err(Fault::Tag),
        };
        match tag >> 3 {
            0 => Err(Fault::Tag),
            number => Ok((number, wire)),
        }
    }

    /// The value behind the tag of field `number`.
    #[inline]
    pub(in crate::columns) fn value(&mut self, number: u32, wire: Wire) -> Result<Raw<'a>, Fault> {
        Ok(match wire {
            Wire::Varint => Raw::Number(self.varint()?),
            Wire::Fixed64 => Raw::Number(u64::from_le_bytes(self.array()?)),
            Wire::Fixed32 => Raw::Number(u32::from_le_bytes(self.array()?).into()),
            Wire::Bytes => Raw::Bytes(self.bytes()?),
            Wire::Group => Raw::Bytes(self.group(number)?),
            Wire::GroupEnd => return Err(Fault::Group),
        })
    }

    pub(in crate::columns) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(self.varint()?).map_err(|_| Fault::Short)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// What is between the tags of group `number`, of which the first was read.
    fn group(&mut self, number: u32) -> Result<&'a [u8], Fault> {
        let start = self.rest;
        let mut open = vec![number];
        while let Some(inmost) = open.last().copied() {
            let inside = start.len() - self.rest.len();
            match self.tag()? {
                (number, Wire::Group) if open.len() < GROUPS_MAX => open.push(number),
                (_, Wire::Group) => return Err(Fault::Deep),
                (number, Wire::GroupEnd) if number == inmost => {
                    open.pop();
                    if open.is_empty() {
                        return Ok(&start[..inside]);
                    }
                }
                (number, wire) => drop(self.value(number, wire)?),
            }
        }
        Err(Fault::Group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_tags_have_bounds() {
        let varint = |bytes: &[u8]| Reader::new(bytes).varint();
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), Err(Fault::Varint));
        assert_eq!(varint(&[0x80; 9]), Err(Fault::Short));
        assert_eq!(varint(&[0x80, 0]), Ok(0), "more bytes than needed");
        let tag = |bytes: &[u8]| Reader::new(bytes).tag();
        assert_eq!(tag(&[0x0a]), Ok((1, Wire::Bytes)));
        for bad in [&[0x02][..], &[0x0e], &[0x0f], &[0x80, 0x80, 0x80, 0x80, 0x10]] {
            assert_eq!(tag(bad), Err(Fault::Tag), "{bad:?}");
        }
    }

    #[test]
    fn groups_are_read_to_their_end() {
        let group = |bytes: &'static [u8]| match Reader::new(bytes).value(1, Wire::Group) {
            Ok(Raw::Bytes(inside)) => Ok(inside),
            Ok(raw) => unreachable!("{raw:?}"),
            Err(fault) => Err(fault),
        };
        // Field 2, then a group 3 with field 1 in it, then the end.
        assert_eq!(group(&[0x10, 5, 0x1b, 0x08, 1, 0x1c, 0x0c, 9]), Ok(&[0x10, 5, 0x1b, 0x08, 1, 0x1c][..]));
        assert_eq!(group(&[0x0c]), Ok(&[][..]));
        assert_eq!(group(&[0x14]), Err(Fault::Group), "another group's end");
        assert_eq!(group(&[0x10, 5]), Err(Fault::Short));
        assert_eq!(group(&[0x0b; 1000]), Err(Fault::Deep));
        assert!(matches!(Reader::new(&[]).value(1, Wire::GroupEnd), Err(Fault::Group)));
    }
}
