//! A sink on a catalog that is reached over HTTP and fails ([`fake`]), and what is refused.
#![allow(clippy::panic)]

use std::net::TcpListener;
use std::sync::Arc;

use iceberg::NamespaceIdent;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::TimestampMs;
use tokio::runtime::{Builder, Runtime};

use super::check::{Probe, StepOutcome, check};
use super::*;
use crate::fixture::World;
use crate::sink::{Outcome, PauseReason, TableSink};

mod fake;

use fake::{Fake, Trouble};

const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime")
}

fn sink_of(world: &mut World, fake: &Fake) -> TableSink {
    sink_with(world, &fake.settings())
}

fn sink_with(world: &mut World, settings: &RestSettings) -> TableSink {
    let names = Names::random();
    let catalog = RestCatalog::new(settings, world.catalog().files(), names.clone()).expect("legal");
    TableSink::new(world.config(1), Arc::new(catalog), world.log.clone(), names)
}

/// Turns until the table has all; failures are tried again.
async fn fill(sink: &mut TableSink) -> Vec<Outcome> {
    let mut troubles = Vec::new();
    for _ in 0..30 {
        match sink.run_once(NOW).await {
            Outcome::Idle => return troubles,
            Outcome::Committed { .. } | Outcome::Again => sink.hurry(),
            other => troubles.push(other),
        }
    }
    panic!("the table is never full: {troubles:?}");
}

const COMMIT: &str = "POST /v1/namespaces/topics/tables/";
const LOAD: &str = "GET /v1/namespaces/topics/tables/";

#[test]
fn each_row_is_in_the_table_once_no_matter_how_an_answer_is_lost() {
    let troubles = [
        Trouble::CutBefore,
        Trouble::CutAfter,
        Trouble::StatusBefore(500),
        Trouble::StatusAfter(500),
        Trouble::StatusAfter(504),
        Trouble::StatusAfter(400),
        Trouble::StatusAfter(403),
        Trouble::StatusAfter(422),
        Trouble::StatusAfter(499),
        Trouble::StatusBefore(503),
        Trouble::StatusBefore(429),
        Trouble::Twice,
        Trouble::Nonsense,
        Trouble::Giant,
    ];
    for trouble in troubles {
        let runtime = runtime();
        let mut world = World::new(3);
        world.log.append(0, 5, NOW);
        let fake = Fake::start(world.catalog());
        let mut sink = sink_of(&mut world, &fake);
        runtime.block_on(fill(&mut sink));
        world.log.append(0, 7, NOW);
        fake.trouble(COMMIT, trouble);
        sink.hurry();
        let seen = runtime.block_on(fill(&mut sink));
        assert!(fake.state.lock().expect("whole").troubles.is_empty(), "{trouble:?} came");
        assert_eq!(runtime.block_on(world.rows()), world.expected(), "{trouble:?}: {seen:?}");
    }
}

#[test]
fn the_files_of_a_commit_that_a_proxy_sent_twice_stay() {
    let runtime = runtime();
    let mut world = World::new(4);
    world.log.append(0, 5, NOW);
    let fake = Fake::start(world.catalog());
    let mut sink = sink_of(&mut world, &fake);
    // The first is the one that makes it.
    runtime.block_on(fill(&mut sink));
    let before = fake.seen(COMMIT);
    world.log.append(0, 5, NOW);
    fake.trouble(COMMIT, Trouble::Twice);
    sink.hurry();
    runtime.block_on(fill(&mut sink));
    assert_eq!(fake.seen(COMMIT), before + 1, "the refusal is seen through");
    assert_eq!(runtime.block_on(world.rows()), world.expected());
}

#[test]
fn reads_are_tried_again_and_what_is_no_answer_is_no_table_that_is_gone() {
    for trouble in [
        Trouble::CutBefore,
        Trouble::StatusBefore(500),
        Trouble::StatusBefore(404),
        Trouble::StatusBefore(302),
        Trouble::Nonsense,
        Trouble::Giant,
    ] {
        let runtime = runtime();
        let mut world = World::new(5);
        world.log.append(0, 5, NOW);
        let fake = Fake::start(world.catalog());
        let mut sink = sink_of(&mut world, &fake);
        runtime.block_on(fill(&mut sink));
        let made = fake.seen("POST /v1/namespaces/topics/tables ");
        world.log.append(0, 5, NOW);
        fake.trouble(LOAD, trouble);
        sink.hurry();
        runtime.block_on(fill(&mut sink));
        assert_eq!(fake.seen("POST /v1/namespaces/topics/tables "), made, "{trouble:?}: no other table is made");
        assert_eq!(runtime.block_on(world.rows()), world.expected(), "{trouble:?}");
    }
}

#[test]
fn a_table_whose_making_got_no_answer_is_found() {
    for trouble in [Trouble::CutBefore, Trouble::CutAfter, Trouble::StatusAfter(502), Trouble::Nonsense] {
        let runtime = runtime();
        let mut world = World::new(6);
        world.log.append(0, 5, NOW);
        let fake = Fake::start(world.catalog());
        fake.trouble("POST /v1/namespaces/topics/tables ", trouble);
        let mut sink = sink_of(&mut world, &fake);
        runtime.block_on(fill(&mut sink));
        assert_eq!(runtime.block_on(world.rows()), world.expected(), "{trouble:?}");
    }
}

#[test]
fn an_unchanged_table_is_not_sent_again() {
    let runtime = runtime();
    let mut world = World::new(7);
    world.log.append(0, 5, NOW);
    let fake = Fake::start(world.catalog());
    let catalog = RestCatalog::new(&fake.settings(), world.catalog().files(), Names::random()).expect("legal");
    runtime.block_on(fill(&mut sink_of(&mut world, &fake)));
    let first = runtime.block_on(catalog.load(&world.table())).expect("loads");
    let second = runtime.block_on(catalog.load(&world.table())).expect("loads");
    assert!(Arc::ptr_eq(&first.metadata, &second.metadata));
}

fn pause_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Paused(PauseReason::Refused { detail, .. }) => detail,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_catalog_that_keeps_no_properties_or_puts_tables_elsewhere_is_refused_and_nothing_stays() {
    for (forgets, words) in [(true, "did not keep its property"), (false, "s3://other/place")] {
        let runtime = runtime();
        let mut world = World::new(8);
        world.log.append(0, 5, NOW);
        let fake = Fake::start(world.catalog());
        {
            let mut state = fake.state.lock().expect("whole");
            (state.forgets, state.elsewhere) = (forgets, !forgets);
        }
        let mut sink = sink_of(&mut world, &fake);
        let detail = pause_of(runtime.block_on(sink.run_once(NOW)));
        assert!(detail.contains(words), "{detail}");
        assert!(!runtime.block_on(world.catalog().table_exists(&world.table())).expect("looks"), "it is dropped");
    }
}

#[test]
fn a_token_that_expired_is_replaced_and_no_secret_is_in_an_error() {
    let runtime = runtime();
    let mut world = World::new(9);
    world.log.append(0, 5, NOW);
    let fake = Fake::start(world.catalog());
    let dir = std::env::temp_dir().join(format!("tidewater-rest-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("made");
    let file = dir.join("credential");
    std::fs::write(&file, "me:a:b\n").expect("written");
    let credentials = Credentials::OAuth2 { credential_file: file.clone(), server: None, scope: None };
    let settings = RestSettings { credentials, ..fake.settings() };
    fake.state.lock().expect("whole").token = Some("none yet".to_owned());
    let mut sink = sink_with(&mut world, &settings);
    assert_eq!(runtime.block_on(fill(&mut sink)).len(), 0);
    assert_eq!(fake.state.lock().expect("whole").given, 1, "one token serves many requests");
    fake.state.lock().expect("whole").token = Some("of another".to_owned());
    world.log.append(0, 5, NOW);
    sink.hurry();
    assert_eq!(runtime.block_on(fill(&mut sink)).len(), 0, "a token that is refused did nothing");
    assert_eq!(fake.state.lock().expect("whole").given, 2);
    assert_eq!(runtime.block_on(world.rows()), world.expected());
    std::fs::write(&file, "me:wrong-secret\n").expect("written");
    fake.state.lock().expect("whole").token = Some("of another".to_owned());
    let catalog = RestCatalog::new(&settings, world.catalog().files(), Names::random()).expect("legal");
    let refused = runtime.block_on(catalog.load(&world.table())).expect_err("is refused");
    let text = format!("{refused} {refused:?} {settings:?}");
    assert!(refused.disposition() == Disposition::Refused && text.contains("401"), "{text}");
    assert!(!text.contains("wrong-secret") && !text.contains("a:b") && !text.contains("a%3Ab"), "{text}");
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn a_catalog_that_is_down_is_asked_again_later() {
    let runtime = runtime();
    let mut world = World::new(10);
    world.log.append(0, 5, NOW);
    let free = TcpListener::bind(("127.0.0.1", 0)).expect("binds").local_addr().expect("bound");
    let settings = RestSettings::new(format!("http://{free}"));
    let mut sink = sink_with(&mut world, &settings);
    match runtime.block_on(sink.run_once(NOW)) {
        Outcome::Failed(error) => assert!(error.to_string().contains("onnection refused"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_that_cannot_be_used_are_refused_at_once() {
    let world = World::new(11);
    for (uri, words) in [
        ("catalog:8181", "scheme"),
        ("ftp://catalog", "scheme"),
        ("http://me:secret@catalog", "secrets"),
        ("http://catalog/?warehouse=x", "query"),
        ("", "not the URL"),
    ] {
        let refused = RestCatalog::new(&RestSettings::new(uri), world.catalog().files(), Names::random());
        let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(words) && !text.contains("secret@"), "{uri}: {text}");
    }
}

#[test]
fn the_probe_says_what_a_catalog_cannot_do() {
    let runtime = runtime();
    let world = World::new(12);
    let fake = Fake::start(world.catalog());
    let probe = |fake: &Fake, probe: Probe| {
        runtime.block_on(check(&fake.settings(), &probe, Names::random())).expect("settings are legal")
    };
    let good = probe(&fake, Probe { location: Some("s3://bucket/lake/check".to_owned()), namespace: None });
    assert!(good.usable && good.steps.iter().all(|step| step.outcome == StepOutcome::Ok), "{good:?}");
    assert_eq!(runtime.block_on(world.catalog().list_namespaces(None)).expect("lists").len(), 0, "nothing is left");
    fake.state.lock().expect("whole").forgets = true;
    let forgets = probe(&fake, Probe::default());
    let failed: Vec<_> = forgets.steps.iter().filter(|step| step.outcome == StepOutcome::Failed).collect();
    assert!(!forgets.usable && failed.len() == 1 && failed[0].step == "create", "{forgets:?}");
    assert_eq!(forgets.steps.last().map(|step| step.outcome), Some(StepOutcome::Ok), "cleaned up: {forgets:?}");
    let nothing = probe(&fake, Probe { namespace: Some(NamespaceIdent::new("nowhere".to_owned())), location: None });
    assert!(!nothing.usable, "{nothing:?}");
}
