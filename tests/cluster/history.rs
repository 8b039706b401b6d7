//! What the clients wrote down, and whether it agrees with the log.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// A record's identity: the producer's name and its number, counted up in the order it sent.
type Id = (String, u64);

/// The histories of all clients.
#[derive(Debug, Default)]
pub struct History {
    acknowledged: HashMap<Id, (i32, u64)>,
    /// Acknowledged without an offset, by partition.
    unplaced: HashMap<Id, i32>,
    /// Given up: in the log once or not at all.
    open: HashMap<Id, i32>,
    /// Values by partition and offset.
    read: BTreeMap<(i32, u64), String>,
    /// Times and offsets, by partition.
    committed: BTreeMap<i32, Vec<(f64, u64)>>,
    started: BTreeMap<i32, Vec<(f64, u64)>>,
    /// Records that came at another offset than the next.
    jumps: Vec<String>,
}

impl History {
    /// Adds the history of the client `name`, which has ended by itself: a line that is not understood fails the test.
    pub fn add(&mut self, name: &str, path: &Path) {
        let text = std::fs::read_to_string(path).expect("the client's history");
        for line in text.lines() {
            assert!(self.add_line(name, line).is_some(), "the history of {name} has a line of no known form: {line:?}");
        }
    }

    /// Adds one line. `None`: it has none of the forms that load.py lists.
    fn add_line(&mut self, name: &str, line: &str) -> Option<()> {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let word = |n: usize| words.get(n).copied();
        let number = |n: usize| word(n)?.parse::<u64>().ok();
        let partition = |n: usize| word(n)?.parse::<i32>().ok();
        let time = || word(1)?.parse::<f64>().ok();
        match word(0)? {
            "A" => {
                let (id, partition) = ((name.to_owned(), number(1)?), partition(2)?);
                if word(3)? == "-1" {
                    self.unplaced.insert(id, partition);
                } else if let Some(before) = self.acknowledged.insert(id, (partition, number(3)?)) {
                    panic!("{name} is told twice that a record is stored, first at {before:?}: {line}");
                }
            }
            "O" => {
                self.open.insert((name.to_owned(), number(1)?), partition(2)?);
            }
            "R" => {
                let value = word(3)?;
                let before = self.read.entry((partition(1)?, number(2)?)).or_insert_with(|| value.to_owned());
                assert_eq!(before, value, "{name} reads something else than another member: {line}");
            }
            "C" => self.committed.entry(partition(2)?).or_default().push((time()?, number(3)?)),
            "S" => self.started.entry(partition(2)?).or_default().push((time()?, number(3)?)),
            "X" => self.jumps.push(format!("{name}: {line}")),
            _ => return None,
        }
        Some(())
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Records whose producer does not know whether they are stored.
    pub fn given_up(&self) -> usize {
        self.open.len()
    }

    pub fn read(&self) -> usize {
        self.read.len()
    }

    /// The records from a little before an offset on, and where each was acknowledged.
    fn around(&self, partition: i32, records: &[String], at: usize) -> String {
        let from = at.saturating_sub(10);
        let line = |(n, value): (usize, &String)| {
            let mut parts = value.split(':');
            let name = parts.next().unwrap_or_default().to_owned();
            let number: u64 = parts.next().and_then(|n| n.parse().ok()).unwrap_or_default();
            format!(
                "{partition}/{n}: {name} {number}, acknowledged {:?}\n",
                self.acknowledged.get(&(name.clone(), number))
            )
        };
        records.iter().enumerate().skip(from).take(40).map(line).collect()
    }

    /// No record twice.
    fn check_once(&self, log: &[Vec<String>], seed: u64) {
        for (partition, records) in (0_i32..).zip(log) {
            let mut first: HashMap<&str, usize> = HashMap::new();
            for (offset, value) in records.iter().enumerate() {
                if let Some(before) = first.insert(value, offset) {
                    let around = |at| self.around(partition, records, at);
                    panic!(
                        "{value} is at {partition}/{before} and at {offset}, seed {seed}; around them:\n{}\n{}",
                        around(before),
                        around(offset)
                    );
                }
            }
        }
    }

    /// Every acknowledged record once, at its offset, in order; none invented; what members read is the log; a start
    /// never lies before a commit that was answered before; no record below a commit was skipped.
    pub fn check(&self, log: &[Vec<String>], seed: u64) {
        self.check_once(log, seed);
        let mut seen: HashSet<Id> = HashSet::new();
        for (partition, records) in (0_i32..).zip(log) {
            let mut last: HashMap<&str, u64> = HashMap::new();
            for (offset, value) in (0_u64..).zip(records) {
                let at = format!("{partition}/{offset}, seed {seed}");
                let mut parts = value.splitn(3, ':');
                let name = parts.next().expect("a name");
                let number: u64 = parts.next().and_then(|n| n.parse().ok()).expect("a number");
                let padding = "abcdefghij".repeat(usize::try_from(number % 60).expect("small"));
                assert_eq!(parts.next(), Some(padding.as_str()), "the value at {at}");
                let id = (name.to_owned(), number);
                if let Some(before) = last.insert(name, number) {
                    assert!(before < number, "{id:?} comes after number {before} at {at}");
                }
                match (self.acknowledged.get(&id), self.open.get(&id).or_else(|| self.unplaced.get(&id))) {
                    (Some(held), _) => assert!(
                        *held == (partition, offset),
                        "{id:?} is acknowledged at {held:?} and is at {at}; around it:\n{}",
                        self.around(partition, records, usize::try_from(offset.min(held.1)).expect("small"))
                    ),
                    (None, Some(p)) => assert_eq!(*p, partition, "{id:?} at {at}"),
                    (None, None) => panic!("{id:?} at {at} was never sent"),
                }
                seen.insert(id);
            }
        }
        let acknowledged = self.acknowledged.keys().chain(self.unplaced.keys());
        let lost: Vec<_> = acknowledged.filter(|id| !seen.contains(*id)).take(10).collect();
        assert!(lost.is_empty(), "acknowledged and lost, seed {seed}: {lost:?}");
        assert!(
            self.jumps.is_empty(),
            "offsets jumped, seed {seed}: {:?}",
            self.jumps.iter().take(10).collect::<Vec<_>>()
        );
        for ((partition, offset), value) in &self.read {
            let held = log.get(*partition as usize).and_then(|log| log.get(usize::try_from(*offset).ok()?));
            assert_eq!(held, Some(value), "a member read something else at {partition}/{offset}, seed {seed}");
        }
        for (partition, commits) in &self.committed {
            for (asked, start) in self.started.get(partition).into_iter().flatten() {
                let before = commits.iter().filter(|(answered, _)| answered < asked).map(|(_, at)| *at).max();
                assert!(
                    before.is_none_or(|before| *start >= before),
                    "partition {partition}: {before:?} was committed, a member started at {start}, seed {seed}"
                );
            }
            let most = commits.iter().map(|(_, at)| *at).max().unwrap_or(0);
            let read: BTreeSet<u64> =
                self.read.range((*partition, 0)..(*partition, most)).map(|((_, at), _)| *at).collect();
            let skipped = (0..most).find(|offset| !read.contains(offset));
            assert_eq!(skipped, None, "partition {partition}: {most} was committed and a record skipped, seed {seed}");
        }
    }
}
