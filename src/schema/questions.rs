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
    let scripts = [
        ("subjects", include_str!("questions/subjects.txt")),
        ("settings", include_str!("questions/settings.txt")),
        ("avro", include_str!("questions/avro.txt")),
        ("json", include_str!("questions/json.txt")),
        ("protobuf", include_str!("questions/protobuf.txt")),
    ];
    let (mut asked, mut bad) = (0, Vec::new());
    for (name, script) in scripts {
        let (questions, wrong) = run(name, script);
        asked += questions;
        bad.extend(wrong);
    }
    assert!(bad.is_empty(), "{} of {asked} answers differ:\n{}", bad.len(), bad.join("\n"));
    assert!(asked >= 300, "only {asked} questions");
}
