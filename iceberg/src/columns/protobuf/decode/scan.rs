//! One pass over a message's fields: [`scan`] gathers what each field has into slots, and appends items of lists at
//! once.
//!
//! What the wire format demands of a reader is here: fields come in any order and any number of times; of a scalar the
//! last one counts; the parts of a message that comes twice are one message, which is what its bytes behind each other
//! say; the last field of a oneof clears the others; numbers of lists come packed or one by one; what the schema does
//! not name is read over.

use super::step::{Step, fill};
use super::wire::{Raw, Reader, Wire};
use crate::columns::build::{Column, Values};
use crate::columns::fault::Fault;

/// What one part of a message or an entry of a map takes until its message is read.
const PART_BYTES: usize = 32;

/// The fields of a message that are looked at, by number.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) rules: Box<[Rule]>,
    pub(super) oneofs: usize,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) number: u32,
    pub(super) wire: Wire,
    pub(super) take: Take,
    pub(super) oneof: Option<usize>,
}

/// What becomes of a field's values.
#[derive(Debug)]
pub(super) enum Take {
    /// Clears the others of its oneof.
    Skip,
    /// A scalar: the last.
    Last,
    /// A message: all parts.
    Merge,
    /// Entries of a map: all.
    Collect,
    /// Items of the list that is column `target`.
    Items { step: Step, width: usize, target: usize },
}

/// What a field has.
#[derive(Clone, Debug, Default)]
pub(super) enum Slot<'a> {
    #[default]
    Absent,
    Number(u64),
    Bytes(&'a [u8]),
    Parts(Vec<&'a [u8]>),
}

impl<'a> From<Raw<'a>> for Slot<'a> {
    fn from(raw: Raw<'a>) -> Self {
        match raw {
            Raw::Number(number) => Self::Number(number),
            Raw::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl<'a> Slot<'a> {
    /// Of a message: none if it is absent.
    pub(super) fn parts(&self) -> &[&'a [u8]] {
        match self {
            Self::Absent => &[],
            Self::Bytes(part) => std::slice::from_ref(part),
            Self::Parts(parts) => parts,
            Self::Number(_) => unreachable!("a message is bytes"),
        }
    }
}

/// A value that is being read.
#[derive(Debug)]
pub(super) struct Run<'a> {
    value: &'a [u8],
    at: usize,
    limit: usize,
    charged: usize,
    /// Of the messages that are open, the inmost last.
    slots: Vec<Slot<'a>>,
}

impl<'a> Run<'a> {
    pub(super) const fn new(value: &'a [u8], limit: usize) -> Self {
        Self { value, at: 0, limit, charged: 0, slots: Vec::new() }
    }

    /// The byte before which the last field begins.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) const fn charged(&self) -> usize {
        self.charged
    }

    /// Charges what columns take.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.charged = self.charged.saturating_add(bytes);
        if self.charged > self.limit { Err(Fault::Large(self.limit)) } else { Ok(()) }
    }

    /// Takes slot `at` of the message whose slots begin at `base`.
    pub(super) fn take(&mut self, base: usize, at: usize) -> Slot<'a> {
        std::mem::take(&mut self.slots[base + at])
    }

    /// Forgets the slots of the message whose slots begin at `base`.
    pub(super) fn close(&mut self, base: usize) {
        self.slots.truncate(base);
    }

    fn see(&mut self, rest: &'a [u8]) {
        self.at = rest.as_ptr().addr().saturating_sub(self.value.as_ptr().addr());
    }
}

impl Rules {
    fn find(&self, likely: usize, number: u32) -> Option<usize> {
        match self.rules.get(likely) {
            Some(rule) if rule.number == number => Some(likely),
            _ => self.rules.binary_search_by_key(&number, |rule| rule.number).ok(),
        }
    }
}

/// Reads all parts of a message; returns where its slots begin, one for each rule. The caller closes it.
pub(super) fn scan<'a>(
    rules: &'a Rules,
    parts: &[&'a [u8]],
    run: &mut Run<'a>,
    columns: &mut [Column],
) -> Result<usize, Fault> {
    let base = run.slots.len();
    run.slots.resize(base + rules.rules.len() + rules.oneofs, Slot::Absent);
    let mut likely = 0;
    for part in parts {
        let mut reader = Reader::new(part);
        while !reader.is_empty() {
            run.see(reader.rest());
            let (number, wire) = reader.tag()?;
            match rules.find(likely, number) {
                Some(at) => {
                    take(rules, at, wire, &mut reader, (base, &mut *run), columns)?;
                    likely = at + 1;
                }
                None => drop(reader.value(number, wire)?),
            }
        }
    }
    Ok(base)
}

fn take<'a>(
    rules: &'a Rules,
    at: usize,
    wire: Wire,
    reader: &mut Reader<'a>,
    (base, run): (usize, &mut Run<'a>),
    columns: &mut [Column],
) -> Result<(), Fault> {
    let Rule { number, wire: wanted, take, oneof } = &rules.rules[at];
    if let Some(oneof) = oneof {
        let current = base + rules.rules.len() + oneof;
        if let Slot::Number(other) = std::mem::replace(&mut run.slots[current], Slot::Number(at as u64))
            && other != at as u64
        {
            run.slots[base + other as usize] = Slot::Absent;
        }
    }
    let is_packed = wire == Wire::Bytes && !matches!(wanted, Wire::Bytes | Wire::Group);
    match take {
        Take::Skip => return reader.value(*number, wire).map(drop),
        Take::Items { step, width, target } if is_packed => {
            let mut packed = Reader::new(reader.bytes()?);
            while !packed.is_empty() {
                run.see(packed.rest());
                let raw = packed.value(*number, *wanted)?;
                item(step, *width, raw, run, &mut columns[*target])?;
            }
            return Ok(());
        }
        _ if wire != *wanted => return Err(Fault::Wire(*number)),
        _ => {}
    }
    let raw = reader.value(*number, wire)?;
    let slot = base + at;
    match (take, raw) {
        (Take::Items { step, width, target }, raw) => item(step, *width, raw, run, &mut columns[*target])?,
        (Take::Merge | Take::Collect, Raw::Bytes(part)) => {
            run.charge(PART_BYTES)?;
            let slot = &mut run.slots[slot];
            match slot {
                Slot::Absent if matches!(take, Take::Merge) => *slot = Slot::Bytes(part),
                Slot::Absent => *slot = Slot::Parts(vec![part]),
                Slot::Bytes(first) => *slot = Slot::Parts(vec![first, part]),
                Slot::Parts(parts) => parts.push(part),
                Slot::Number(_) => unreachable!("a message is bytes"),
            }
        }
        (_, raw) => run.slots[slot] = raw.into(),
    }
    Ok(())
}

fn item<'a>(step: &'a Step, width: usize, raw: Raw<'a>, run: &mut Run<'a>, column: &mut Column) -> Result<(), Fault> {
    let Values::List { items, .. } = &mut column.values else { unreachable!("items go to a list") };
    run.charge(width)?;
    fill(step, raw.into(), run, items)
}
