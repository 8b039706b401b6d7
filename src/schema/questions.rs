//! A script of questions with the answers that Confluent's contract gives: `questions/*.txt`, each a list of scenes.
//!
//! `## name` begins a scene with an empty registry. A question is a line with method, path and body; the line below,
//! after `=`, is the status and what the answer has: of an object at least these members (`null`: not there), of an
//! array exactly these items, of a string that begins with `~` the rest somewhere inside. A body after `@`, `@JSON` or
//! `@PROTOBUF` is a schema's text, and members behind ` || ` go beside it; `\n` in it is a line's end.
//!
//! Every record goes through its bytes, and every scene is replayed from them.

use super::http::reply::Reply;
use super::http::route::{Routed, route};
use super::http::{MEDIA_TYPES, Request};
use super::json::Json;
use super::record::{Pair, Record};
use super::state::State;

/// A registry without a log behind it.
#[derive(Default)]
struct Registry {
    state: State,
    written: Vec<Pair>,
}

impl Registry {
    fn ask(&mut self, method: &str, target: &str, body: &str) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let content_type = Some(MEDIA_TYPES[0]);
        let request = Request { method, path, query, content_type, body: body.as_bytes() };
        let answered = route(&request).and_then(|routed| match routed {
            Routed::Root => Ok(Reply::root()),
            Routed::Query(query) => self.state.answer(&query).map(Reply::from),
            Routed::Command(command) => {
                let plan = self.state.plan(&command)?;
                for record in plan.records {
                    let (key, value) = record.encode();
                    self.state.apply(Record::decode(&key, value.as_deref()).expect("its own record"));
                    self.written.push((key, value));
                }
                Ok(plan.answer.into())
            }
        });
        answered.unwrap_or_else(Reply::from)
    }
}

fn body(text: &str) -> String {
    let (text, beside) = text.split_once(" || ").unwrap_or((text, "{}"));
    let kind = match text.split_once(' ') {
        Some(("@", schema)) => (None, schema),
        Some(("@JSON", schema)) => (Some("JSON"), schema),
        Some(("@PROTOBUF", schema)) => (Some("PROTOBUF"), schema),
        _ => return text.to_owned(),
    };
    let (kind, schema) = kind;
    let mut members = vec![("schema".to_owned(), Json::from(schema.replace("\\n", "\n")))];
    members.extend(kind.map(|kind| ("schemaType".to_owned(), kind.into())));
    members.extend(Json::parse(beside).expect(beside).as_object().expect("members").iter().cloned());
    Json::Object(members).to_string()
}

fn has(found: &Json, wanted: &Json) -> bool {
    match (found, wanted) {
        (Json::Object(_), Json::Object(members)) => members.iter().all(|(name, wanted)| match found.get(name) {
            None => *wanted == Json::Null,
            Some(found) => has(found, wanted),
        }),
        (Json::Array(found), Json::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| has(found, wanted))
        }
        (Json::String(found), Json::String(wanted)) => match wanted.strip_prefix('~') {
            Some(part) => found.contains(part),
            None => found == wanted,
        },
        (found, wanted) => found == wanted,
    }
}

/// The number of questions asked, and what was answered otherwise.
fn run(name: &str, script: &str) -> (usize, Vec<String>) {
    let (mut asked, mut bad, mut scene) = (0, Vec::new(), String::new());
    let mut registry = Registry::default();
    let mut lines = script.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        if let Some(next) = line.strip_prefix("## ") {
            check_replay(&registry, &scene);
            (registry, scene) = (Registry::default(), next.to_owned());
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let reply = registry.ask(method, target, &body(words.next().unwrap_or_default()));
        let (_, wanted) = lines.next().unwrap_or_default();
        let wanted = wanted.strip_prefix("= ").unwrap_or_else(|| panic!("{name}:{}: no answer below", n + 1));
        let (status, wanted) = wanted.split_once(' ').unwrap_or((wanted, ""));
        let fits = match wanted.strip_prefix("text ") {
            Some(text) => reply.body == text.replace("\\n", "\n"),
            None if wanted.is_empty() => true,
            None => {
                let wanted = Json::parse(wanted).unwrap_or_else(|why| panic!("{name}:{}: {why}", n + 2));
                Json::parse(&reply.body).is_ok_and(|found| has(&found, &wanted))
            }
        };
        asked += 1;
        if !fits || reply.status.to_string() != status {
            bad.push(format!(
                "{name}:{} ({scene}): {line}\n  wanted {status} {wanted}\n  got    {} {}",
                n + 1,
                reply.status,
                reply.body
            ));
        }
    }
    check_replay(&registry, &scene);
    (asked, bad)
}

const SCRIPTS: [(&str, &str); 5] = [
    ("subjects", include_str!("questions/subjects.txt")),
    ("settings", include_str!("questions/settings.txt")),
    ("avro", include_str!("questions/avro.txt")),
    ("json", include_str!("questions/json.txt")),
    ("protobuf", include_str!("questions/protobuf.txt")),
];

/// Rounds of [`damaged_questions_are_answered_too`]; `TIDEWATER_FUZZ_ROUNDS=n` asks for another number.
const ROUNDS: u64 = 4;

/// Every question again with a few bytes of its body and path changed, taken out or written twice: each is
/// answered, and the state replays.
#[test]
fn damaged_questions_are_answered_too() {
    let rounds = std::env::var("TIDEWATER_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    for round in 0..rounds {
        let mut random = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below.max(1) as u64).expect("small")
        };
        for (name, script) in SCRIPTS {
            let mut registry = Registry::default();
            for line in script.lines() {
                if line.starts_with("## ") {
                    check_replay(&registry, name);
                    registry = Registry::default();
                }
                if line.is_empty() || line.starts_with(['#', '=']) {
                    continue;
                }
                let mut words = line.splitn(3, ' ');
                let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let body = body(words.next().unwrap_or_default());
                // Half of the questions stay whole, so that the damaged ones meet something.
                let (target, body) = match next(4) {
                    0 | 1 => (target.to_owned(), body),
                    2 => (target.to_owned(), damaged(&body, &mut next)),
                    _ => (damaged(target, &mut next), body),
                };
                let reply = registry.ask(method, &target, &body);
                assert!((200..600).contains(&reply.status), "{method} {target} {body}");
            }
            check_replay(&registry, name);
        }
    }
}

fn damaged(text: &str, next: &mut impl FnMut(usize) -> usize) -> String {
    const LETTERS: &[u8] = b"{}[]\"\\:,0-9.e+azAZ_ =;()<>*/%#?\x01\xc3\xa9tfn";
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        let letter = LETTERS.get(next(LETTERS.len())).copied().unwrap_or_default();
        match (next(4), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte = letter,
            (1, Some(_)) => drop(bytes.remove(at)),
            (2, Some(_)) => {
                let end = (at + 1 + next(40)).min(bytes.len());
                let twice = bytes.get(at..end).unwrap_or_default().to_vec();
                drop(bytes.splice(at..at, twice).collect::<Vec<_>>());
            }
            _ => bytes.insert(at.min(bytes.len()), letter),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check_replay(registry: &Registry, scene: &str) {
    let mut replayed = State::default();
    for (key, value) in &registry.written {
        replayed.apply(Record::decode(key, value.as_deref()).expect("its own record"));
    }
    assert_eq!(replayed.records(), registry.state.records(), "{scene}: replayed from the log");
    let mut restored = State::default();
    registry.state.records().into_iter().for_each(|record| restored.apply(record));
    assert_eq!(restored.records(), registry.state.records(), "{scene}: rebuilt from a snapshot");
}

#[test]
fn questions_are_answered_as_confluents_registry_answers_them() {
    let (mut asked, mut bad) = (0, Vec::new());
    for (name, script) in SCRIPTS {
        let (questions, wrong) = run(name, script);
        asked += questions;
        bad.extend(wrong);
    }
    assert!(bad.is_empty(), "{} of {asked} answers differ:\n{}", bad.len(), bad.join("\n"));
    assert!(asked >= 300, "only {asked} questions");
}
