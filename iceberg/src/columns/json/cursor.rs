//! [`Cursor`]: what is left of a JSON text, and of what its columns may take. RFC 8259, nothing beside it.

use std::borrow::Cow;

use crate::columns::fault::Fault;

/// Arrays and objects inside each other at most, in parts that no column takes apart.
const NESTING_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    limit: usize,
    charged: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, limit: usize) -> Self {
        Self { text, at: 0, limit, charged: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was read from `start` on.
    pub(super) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.charged = self.charged.saturating_add(bytes);
        if self.charged > self.limit { Err(Fault::Large(self.limit)) } else { Ok(()) }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space; it is not taken.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, Fault> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return Ok(byte),
                None => return Err(Fault::Short),
            }
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(super) fn takes(&mut self, byte: u8) -> Result<bool, Fault> {
        let is_next = self.peek()? == byte;
        self.at += usize::from(is_next);
        Ok(is_next)
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.takes(byte)? { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Behind an item: whether another one follows, or else `close`.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, Fault> {
        if self.takes(b',')? {
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Err(Fault::Short) => Ok(()),
            _ => Err(Fault::Long(self.text.len() - self.at)),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(if word.as_bytes().starts_with(rest) { Fault::Short } else { Fault::Syntax })
    }

    pub(super) fn takes_null(&mut self) -> Result<bool, Fault> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.word("null").map(|()| true)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            _ => Err(Fault::Type("a boolean")),
        }
    }

    /// A number as it is written.
    pub(super) fn number(&mut self) -> Result<&'a str, Fault> {
        if !matches!(self.peek()?, b'-' | b'0'..=b'9') {
            return Err(Fault::Type("a number"));
        }
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        match self.byte() {
            _ if self.at > start => Ok(()),
            None => Err(Fault::Short),
            Some(_) => Err(Fault::Syntax),
        }
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.peek()? != b'"' {
            return Err(Fault::Type("a string"));
        }
        self.at += 1;
        let start = self.at;
        self.plain()?;
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut out = self.text[start..self.at].to_owned();
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => out.push(self.escaped()?),
                Some(_) => {
                    let start = self.at;
                    self.plain()?;
                    out.push_str(&self.text[start..self.at]);
                }
                None => return Err(Fault::Short),
            }
        }
    }

    /// Goes to the next quote or backslash.
    fn plain(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        let len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).ok_or(Fault::Short)?;
        self.at += len;
        if rest[len] < 0x20 { Err(Fault::Syntax) } else { Ok(()) }
    }

    fn escaped(&mut self) -> Result<char, Fault> {
        let escape = *self.text.as_bytes().get(self.at + 1).ok_or(Fault::Short)?;
        self.at += 2;
        Ok(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.four_digits()?;
                if !(0xd800..0xdc00).contains(&first) {
                    // A low surrogate alone is no character.
                    return char::from_u32(first).ok_or(Fault::Utf8);
                }
                if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    return Err(Fault::Utf8);
                }
                self.at += 2;
                let second = self.four_digits()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(Fault::Utf8);
                }
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(Fault::Utf8)?
            }
            _ => return Err(Fault::Syntax),
        })
    }

    fn four_digits(&mut self) -> Result<u32, Fault> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or(Fault::Short)?;
        let digit = |number: u32, byte: &u8| Some(number << 4 | char::from(*byte).to_digit(16)?);
        let number = digits.iter().try_fold(0, digit).ok_or(Fault::Syntax)?;
        self.at += 4;
        Ok(number)
    }

    /// Reads over any value; returns it as it is written.
    pub(super) fn any(&mut self) -> Result<&'a str, Fault> {
        self.peek()?;
        let start = self.at;
        self.skip(0)?;
        Ok(&self.text[start..self.at])
    }

    fn skip(&mut self, depth: usize) -> Result<(), Fault> {
        if depth >= NESTING_MAX {
            return Err(Fault::Deep);
        }
        match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut more = !self.takes(b'}')?;
                while more {
                    self.key()?;
                    self.skip(depth + 1)?;
                    more = self.more(b'}')?;
                }
            }
            b'[' => {
                self.at += 1;
                let mut more = !self.takes(b']')?;
                while more {
                    self.skip(depth + 1)?;
                    more = self.more(b']')?;
                }
            }
            b'"' => drop(self.string()?),
            b't' | b'f' => drop(self.boolean()?),
            b'n' => drop(self.takes_null()?),
            b'-' | b'0'..=b'9' => drop(self.number()?),
            _ => return Err(Fault::Syntax),
        }
        Ok(())
    }

    /// A member's name and the colon behind it.
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.peek()? != b'"' {
            return Err(Fault::Syntax);
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// A value of the wrong type, or none at all.
    pub(super) fn expected(&mut self, what: &'static str) -> Fault {
        match self.skip(0) {
            Ok(()) => Fault::Type(what),
            Err(fault) => fault,
        }
    }
}
