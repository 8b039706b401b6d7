//! What Kafka's users bring: real clients in six languages, Kafka's own tools and Connect against one broker each, with
//! the card (`README.md`) of which request each of them was seen to use; and one script of questions that a real
//! Apache Kafka answers too (`answers.toml`).
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test: it stops with a message")]

mod answers;
mod card;
mod clients;
mod connect;
mod sessions;
#[path = "../support/support.rs"]
mod support;

use support::cache::source;

/// Whether the generated files are to be written instead of compared.
fn writing() -> bool {
    std::env::var_os("TIDEWATER_WRITE").is_some()
}

#[test]
fn the_card_is_current() {
    let columns: Vec<card::Column> = clients::CLIENTS.iter().map(clients::run).collect();
    let failures: Vec<String> =
        columns.iter().filter_map(|c| Some(format!("== {}\n{}", c.name, c.failure.as_ref()?))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let path = source("kafka/README.md");
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    if writing() {
        std::fs::write(&path, card::markdown(&columns)).expect("writable");
        return;
    }
    let missing = card::missing(&columns, &held);
    assert!(missing.is_empty(), "tests/kafka/README.md is out of date (TIDEWATER_WRITE=1):\n{}", missing.join("\n"));
}

/// Two members that joined at once shared no partitions once: kafka-python forgets a join (`clients/kafka_python.py`).
#[test]
#[ignore = "a stress that runs for minutes"]
fn members_that_join_at_once_share_the_partitions() {
    clients::join_again_and_again();
}

#[test]
fn kafka_gives_the_same_answers() {
    answers::compare();
}
