//! One script of questions, asked of us and of a real Apache Kafka; where the answers differ, the reason is on record.
//!
//! Owns the comparison and the file of differences (`answers.toml`). The questions are in `questions.txt`, who asks and
//! leaves out what no two brokers share is `java/Answers.java`. A difference that is not on record fails; one on record
//! that is gone is reported, and leaves the file when it is written next.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clients::{java, output};
use super::support::broker::{Broker, Options};
use super::support::cache::source;
use super::support::kafka::Kafka;

#[derive(Default, Serialize, Deserialize)]
struct Held {
    #[serde(default)]
    unseen: Vec<Unseen>,
    difference: Vec<Difference>,
}

/// A difference that the script cannot show, such as one of time.
#[derive(Clone, Serialize, Deserialize)]
struct Unseen {
    what: String,
    why: String,
}

/// How the answers to one question differ.
#[derive(Serialize, Deserialize)]
struct Difference {
    question: String,
    /// Why it stays, or which work ends it.
    why: String,
    paths: Vec<String>,
}

/// Asks both and compares.
pub fn compare() {
    let dir = tempfile::tempdir().expect("tempdir");
    let kafka = Kafka::start(&dir.path().join("kafka"), "512m");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    let (theirs, ours) = (ask(&kafka.addr), ask(&broker.kafka));
    let mut seen = Vec::new();
    for ((question, kafka), (same, own)) in theirs.iter().zip(&ours) {
        assert_eq!(question, same, "one script");
        let mut paths = Vec::new();
        differ("", kafka, own, &mut paths);
        if !paths.is_empty() {
            seen.push((question.clone(), paths));
        }
    }
    assert_eq!(theirs.len(), ours.len(), "every question is answered by both");
    println!("{} questions, {} answered otherwise than by Kafka", theirs.len(), seen.len());
    broker.stop();
    judge(&seen);
}

/// Title and answer of each question.
fn ask(boot: &str) -> Vec<(String, Value)> {
    let printed = output(java("Answers.java").arg(source("kafka/questions.txt")).arg(boot)).expect("answers");
    let line = |line: &str| {
        let mut told: Value = serde_json::from_str(line).expect("JSON");
        (told["question"].as_str().expect("a title").to_owned(), told["answer"].take())
    };
    printed.lines().map(line).collect()
}

/// Compares with the file, or writes it.
fn judge(seen: &[(String, Vec<String>)]) {
    let path = source("kafka/answers.toml");
    let held: Held =
        std::fs::read_to_string(&path).map(|text| toml::from_str(&text).expect("TOML")).unwrap_or_default();
    let why: BTreeMap<&str, &str> = held.difference.iter().map(|d| (d.question.as_str(), d.why.as_str())).collect();
    if super::writing() {
        let whole = |(question, paths): &(String, Vec<String>)| Difference {
            question: question.clone(),
            why: why.get(question.as_str()).copied().unwrap_or_default().to_owned(),
            paths: paths.clone(),
        };
        let text =
            toml::to_string_pretty(&Held { unseen: held.unseen.clone(), difference: seen.iter().map(whole).collect() })
                .expect("TOML");
        std::fs::write(&path, text).expect("writable");
    }
    let known: BTreeSet<(&str, &str)> = held.difference.iter().flat_map(Difference::each).collect();
    let found: BTreeSet<(&str, &str)> = seen
        .iter()
        .flat_map(|(question, paths)| paths.iter().map(move |path| (question.as_str(), path.as_str())))
        .collect();
    for (question, path) in known.difference(&found) {
        println!("no longer seen: {question}: {path}");
    }
    let silent: Vec<&str> =
        seen.iter().map(|(q, _)| q.as_str()).filter(|q| why.get(q).is_none_or(|why| why.is_empty())).collect();
    assert!(silent.is_empty(), "differences without a reason in tests/kafka/answers.toml: {silent:#?}");
    let new: Vec<_> = found.difference(&known).collect();
    assert!(super::writing() || new.is_empty(), "new differences (TIDEWATER_WRITE=1 puts them on record): {new:#?}");
}

impl Difference {
    fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        self.paths.iter().map(|path| (self.question.as_str(), path.as_str()))
    }
}

/// Where two answers differ: one line per place, a whole subtree that only one of them has being one place.
fn differ(at: &str, kafka: &Value, ours: &Value, out: &mut Vec<String>) {
    let (Some(theirs), Some(own)) = (children(kafka), children(ours)) else {
        if kafka != ours {
            out.push(format!("{at}: Kafka {}, here {}", short(kafka), short(ours)));
        }
        return;
    };
    let names: BTreeSet<&String> = theirs.keys().chain(own.keys()).collect();
    for name in names {
        let at = format!("{at}/{name}");
        match (theirs.get(name), own.get(name)) {
            (Some(kafka), Some(ours)) => differ(&at, kafka, ours, out),
            (Some(kafka), None) => out.push(format!("{at}: only Kafka, {}", short(kafka))),
            (None, Some(ours)) => out.push(format!("{at}: only here, {}", short(ours))),
            (None, None) => {}
        }
    }
}

/// What tells the elements of an array apart, so that their order does not count.
const NAMES: [&str; 9] =
    ["name", "apiKey", "partitionIndex", "index", "partition", "groupId", "topic", "resourceName", "key"];

/// The parts of an object or array by name; `None` for anything else.
fn children(value: &Value) -> Option<BTreeMap<String, &Value>> {
    match value {
        Value::Object(fields) => Some(fields.iter().map(|(name, value)| (name.clone(), value)).collect()),
        Value::Array(elements) => Some(named(elements)),
        _ => None,
    }
}

/// Elements by what tells them apart, or by their place; the second of the same name is `name#2`.
fn named(elements: &[Value]) -> BTreeMap<String, &Value> {
    let mut parts = BTreeMap::new();
    for (place, element) in elements.iter().enumerate() {
        let name = NAMES.iter().find_map(|name| element.get(name));
        let name = name.map_or_else(
            || place.to_string(),
            |name| name.as_str().map_or_else(|| name.to_string(), ToOwned::to_owned),
        );
        let repeated = (2..).map(|n| format!("{name}#{n}"));
        let free = std::iter::once(name.clone()).chain(repeated).find(|name| !parts.contains_key(name));
        parts.extend(free.map(|name| (name, element)));
    }
    parts
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(77).chain("...".chars()).collect() } else { text }
}
