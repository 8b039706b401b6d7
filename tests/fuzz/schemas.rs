//! What comes to the Schema Registry: requests over HTTP, records of `_schemas`, ids before and beside values.

use tidewater::schema::State;
use tidewater::schema::framing::{message_indexes, written_with};
use tidewater::schema::http::Request;
use tidewater::schema::http::route::{Routed, route};
use tidewater::schema::record::Record;

use super::target::Target;

/// The drafts' own schemas, which a JSON Schema is checked with, and the built-in imports of Protobuf.
const OWN_SCHEMAS: usize = 64 << 20;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("schema_request", request, requests).extra(OWN_SCHEMAS),
        Target::new("schema_record", record, records),
        Target::new("schema_framing", framing, framings),
    ]
}

/// A line with method, path and query, then the body.
fn request(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    let (method, target) = head.split_once(' ').unwrap_or((head, ""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let content_type = Some("application/json");
    let mut state = State::default();
    let asked = Request { method, path, query, content_type, body: body.as_bytes() };
    match route(&asked) {
        Ok(Routed::Command(command)) => {
            // Twice: the second time, the first one is what it is compared with.
            for _ in 0..2 {
                let Ok(plan) = state.plan(&command) else { return };
                plan.records.into_iter().for_each(|record| state.apply(record));
            }
        }
        Ok(Routed::Query(query)) => drop(state.answer(&query)),
        Ok(Routed::Root) | Err(_) => {}
    }
}

fn requests() -> Vec<Vec<u8>> {
    let register = |kind: &str, text: &str| {
        let body = serde_json::json!({ "schemaType": kind, "schema": text });
        format!("POST /subjects/orders-value/versions?normalize=true\n{body}")
    };
    let avro = r#"{"type":"record","name":"a.R","aliases":["Q"],"fields":[{"name":"f","type":["null",{"type":"array","items":"long"}],"default":null},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;
    let json = r##"{"type":"object","properties":{"a":{"type":"integer"},"b":{"$ref":"#/$defs/x"}},"required":["a"],"$defs":{"x":{"oneOf":[{"type":"null"},{"type":"string","format":"date-time"}]}}}"##;
    let proto = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message M { map<string, int64> m = 1; oneof o { google.protobuf.Timestamp t = 2; E e = 3; } enum E { Z = 0; } }";
    let all = [
        register("AVRO", avro),
        register("JSON", json),
        register("PROTOBUF", proto),
        "GET /schemas/ids/1?subject=:.dev:s&format=resolved\n".to_owned(),
        "PUT /config/s\n{\"compatibility\":\"FULL_TRANSITIVE\",\"compatibilityGroup\":\"g\"}".to_owned(),
        "DELETE /contexts/.dev/subjects/a%2Fb/versions/-1?permanent=true\n".to_owned(),
    ];
    all.into_iter().map(String::into_bytes).collect()
}

/// A line with the key, then the value.
fn record(input: &[u8]) {
    let at = input.iter().position(|byte| *byte == b'\n');
    let (key, value) = at.map_or((input, None), |at| (&input[..at], Some(&input[at + 1..])));
    let Ok(record) = Record::decode(key, value) else { return };
    let mut state = State::default();
    state.apply(record);
    for record in state.records() {
        let (key, value) = record.encode();
        assert_eq!(Record::decode(&key, value.as_deref()).as_ref(), Ok(&record), "what was read is written and read");
    }
}

fn records() -> Vec<Vec<u8>> {
    [
        r#"{"keytype":"SCHEMA","subject":":.dev:s","version":3,"magic":1}
{"subject":":.dev:s","version":3,"id":9,"guid":"00000000-0000-8000-8000-000000000001","schemaType":"PROTOBUF","references":[{"name":"a","subject":"b","version":1}],"metadata":{"properties":{"k":"v"}},"schema":"x","deleted":false}"#,
        r#"{"keytype":"CONFIG","subject":null,"magic":0}
{"compatibilityLevel":"FULL"}"#,
        r#"{"keytype":"MODE","subject":"s","magic":0}
{"subject":"s","mode":"IMPORT"}"#,
        r#"{"keytype":"NOOP","magic":0}
{"context":".","nextId":7,"lineage":2}"#,
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn framing(input: &[u8]) {
    if let Some((_, rest)) = written_with(input) {
        let _ = message_indexes(rest);
    }
}

fn framings() -> Vec<Vec<u8>> {
    let guid = [&[1][..], &[7; 16], &[4, 2, 6], b"message"].concat();
    vec![vec![0, 0, 0, 0, 7, 0, b'm'], guid]
}
