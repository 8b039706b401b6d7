//! What was acknowledged, what was left open, and whether the log agrees.

use std::collections::{HashMap, HashSet};

use tidewater_storage::model::record::Record;

/// A record's identity: producer and number, counted up in the order it sent.
pub type Id = (u64, u64);

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: String,
    pub value: String,
}

impl Found {
    pub fn of(record: &Record) -> Self {
        let text = |bytes: &Option<bytes::Bytes>| {
            String::from_utf8(bytes.as_ref().expect("neither key nor value is null").to_vec()).expect("text")
        };
        Self { key: text(&record.key), value: text(&record.value) }
    }

    fn id(&self) -> Id {
        let mut parts = self.value.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        (number().expect("a producer"), number().expect("a number"))
    }
}

/// The value of a record: JSON with its producer and number, which also decide its length. Of some the end is missing.
pub fn value_of((producer, number): Id) -> String {
    let len = (number.wrapping_mul(2_654_435_761) >> 7) % 900;
    let text = "abcdefghij".repeat(90);
    let end = if number.is_multiple_of(17) { "" } else { "\"}" };
    format!("{{\"p\":{producer},\"n\":{number},\"t\":\"{}{end}", text.get(..len as usize).expect("shorter"))
}

/// What producers know. Offsets are `None` where only "appended before" was answered.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: HashMap<Id, (i32, Option<u64>)>,
    open: HashMap<Id, i32>,
}

impl Ledger {
    pub fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.open.extend(other.open);
    }

    pub fn acknowledge(&mut self, id: Id, partition: i32, offset: Option<u64>) {
        assert!(self.acknowledged.insert(id, (partition, offset)).is_none(), "{id:?} is acknowledged twice");
    }

    /// Sent, and never answered: it is in the log once or not at all.
    pub fn leave_open(&mut self, id: Id, partition: i32) {
        self.open.insert(id, partition);
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Every acknowledged record once, at its offset, in order; none invented.
    pub fn check(&self, log: &[Vec<Found>], seed: u64) {
        let mut seen = HashSet::new();
        for (partition, records) in (0_i32..).zip(log) {
            let mut last: HashMap<u64, u64> = HashMap::new();
            for (offset, record) in (0_u64..).zip(records) {
                let id = record.id();
                let at = format!("{partition}/{offset}, seed {seed}");
                assert!(seen.insert(id), "{id:?} is there twice, again at {at}");
                assert_eq!(record.value, value_of(id), "at {at}");
                assert_eq!(record.key, format!("producer-{}", id.0), "at {at}");
                if let Some(before) = last.insert(id.0, id.1) {
                    assert!(before < id.1, "{id:?} comes after number {before} at {at}");
                }
                match (self.acknowledged.get(&id), self.open.get(&id)) {
                    (Some((p, o)), _) => {
                        assert!(
                            *p == partition && o.is_none_or(|o| o == offset),
                            "{id:?} was acknowledged at {p}/{o:?} and is at {at}"
                        );
                    }
                    (None, Some(p)) => assert_eq!(*p, partition, "{id:?} at {at}"),
                    (None, None) => panic!("{id:?} at {at} was never sent"),
                }
            }
        }
        let lost: Vec<_> = self.acknowledged.iter().filter(|(id, _)| !seen.contains(*id)).take(10).collect();
        assert!(lost.is_empty(), "acknowledged and lost, seed {seed}: {lost:?}");
    }
}
