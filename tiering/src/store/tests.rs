//! The contract suite over every store; what is special to each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::sim::World;
use tokio::runtime::Runtime;

use super::*;
use crate::keys::{ClusterName, Nonce};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("legal")
}

fn name() -> ClusterName {
    ClusterName::new("tidewater").expect("legal")
}

#[test]
fn a_directory_keeps_the_contract() {
    let runtime = Runtime::new().expect("runtime");
    let directory = tempfile::tempdir().expect("directory");
    let url = format!("file://{}/deep/bucket", directory.path().display());
    let options = StoreOptions::default();
    let store = open(&url, runtime.handle().clone(), &options).expect("opens");
    // Another executor than the one that does the I/O.
    futures::executor::block_on(async {
        contract::check(&store, "suite").await.expect("contract");
        contract::check_order(&*store, "suite").await.expect("order");
        prove(&*store, &name(), Nonce(1)).await.expect("proof");
        assert_eq!(store.list("tidewater/", None, 10).await, Ok(Vec::new()), "the proof cleans up");
        let private = store.put(&key(".tidewater/tmp/x"), Bytes::new(), PutMode::Overwrite).await;
        assert!(matches!(private, Err(StoreError::Refused { .. })), "{private:?}");
    });
    let temporaries = std::fs::read_dir(directory.path().join("deep/bucket/.tidewater/tmp")).expect("there").count();
    assert_eq!(temporaries, 0, "nothing is left over");
    assert!(options.stats.requests(RequestKind::Put) > 100);
    assert_eq!(options.stats.failures(RequestKind::Put), 1, "the private key");
}

#[test]
fn a_directory_that_is_attached_is_left_as_it_is() {
    let runtime = Runtime::new().expect("runtime");
    let directory = tempfile::tempdir().expect("directory");
    let url = |name: &str| format!("file://{}/{name}", directory.path().display());
    let attached = |name: &str| attach(&url(name), runtime.handle().clone(), &StoreOptions::default());
    assert!(matches!(attached("nowhere"), Err(OpenError::Directory { .. })));
    let names = || std::fs::read_dir(directory.path()).expect("there").count();
    assert_eq!(names(), 0, "nothing is made");
    std::fs::create_dir_all(directory.path().join("copy/deep")).expect("made");
    std::fs::write(directory.path().join("copy/deep/there"), b"1").expect("written");
    let store = attached("copy").expect("attaches");
    futures::executor::block_on(async {
        assert_eq!(store.get(&key("deep/there"), None).await.map(|got| got.body), Ok(Bytes::from_static(b"1")));
        let absent = store.get(&key("deep/absent"), None).await;
        assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
        std::fs::rename(directory.path().join("copy"), directory.path().join("aside")).expect("renamed");
        let away = store.get(&key("deep/there"), None).await.err();
        assert!(away.as_ref().is_some_and(|e| e.disposition().passes()), "{away:?}");
    });
    assert!(!directory.path().join("aside/.tidewater").exists());
}

#[test]
fn a_directory_that_is_not_mounted_says_nothing_of_its_objects() {
    let runtime = Runtime::new().expect("runtime");
    let directory = tempfile::tempdir().expect("directory");
    let (root, aside) = (directory.path().join("bucket"), directory.path().join("aside"));
    let store = DirectoryStore::open(root.clone(), runtime.handle().clone()).expect("opens");
    futures::executor::block_on(async {
        let (there, absent) = (key("deep/there"), key("deep/absent"));
        store.put(&there, Bytes::from_static(b"1"), PutMode::IfAbsent).await.expect("absent");
        let missing = store.get(&absent, None).await;
        assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
        std::fs::rename(&root, &aside).expect("renamed");
        for _ in 0..2 {
            for away in [store.get(&there, None).await.err(), store.head(&there).await.err()] {
                assert!(away.as_ref().is_some_and(|e| e.disposition().passes()), "{away:?}");
            }
            let put = store.put(&absent, Bytes::new(), PutMode::IfAbsent).await;
            assert!(put.as_ref().is_err_and(|e| e.disposition().passes()), "{put:?}");
            // Second round: the mount point without its file system.
            let _ = std::fs::create_dir(&root);
        }
        std::fs::remove_dir(&root).expect("nothing was made in it");
        std::fs::rename(&aside, &root).expect("renamed");
        assert_eq!(store.get(&there, None).await.expect("there").body, Bytes::from_static(b"1"));
    });
}

#[test]
fn what_a_directory_will_never_take_is_refused_and_not_retried() {
    let runtime = Runtime::new().expect("runtime");
    let directory = tempfile::tempdir().expect("directory");
    let options = StoreOptions::default();
    let url = format!("file://{}", directory.path().display());
    let store = open(&url, runtime.handle().clone(), &options).expect("opens");
    assert_eq!(store.key_limits(), KeyLimits::DIRECTORY, "through all layers");
    futures::executor::block_on(async {
        let put = |at: String| {
            let store = Arc::clone(&store);
            async move { store.put(&key(&at), Bytes::from_static(b"1"), PutMode::Overwrite).await }
        };
        put(format!("topics/{}", "t".repeat(255))).await.expect("the longest name");
        let long = format!("topics/{}/metadata/v1", "t".repeat(256));
        let error = put(long.clone()).await.expect_err("too long");
        assert_eq!(error.disposition(), Disposition::Refused, "{error}");
        assert!(error.to_string().contains("at most 255"), "{error}");
        let error = store.get(&key(&long), None).await.expect_err("too long");
        assert_eq!(error.disposition(), Disposition::Refused, "{error}");
        put("one/object".to_owned()).await.expect("fits");
        let error = put("one/object/below".to_owned()).await.expect_err("an object is no directory");
        assert_eq!(error.disposition(), Disposition::Refused, "{error}");
    });
    assert_eq!(options.stats.requests(RequestKind::Put), 4, "each once");
}

#[test]
fn two_processes_share_a_directory() {
    let runtime = Runtime::new().expect("runtime");
    let directory = tempfile::tempdir().expect("directory");
    let open = || DirectoryStore::open(directory.path().into(), runtime.handle().clone()).expect("opens");
    let (one, two) = (open(), open());
    futures::executor::block_on(async {
        let at = key("shared/counter");
        let first = one.put(&at, Bytes::from_static(b"1"), PutMode::IfAbsent).await.expect("absent").etag;
        let second = two.put(&at, Bytes::from_static(b"2"), PutMode::IfMatch(first.clone())).await.expect("match").etag;
        assert_eq!(
            one.put(&at, Bytes::new(), PutMode::IfMatch(first)).await.map_err(|e| e.disposition()),
            Err(Disposition::Conflict)
        );
        assert_eq!(one.head(&at).await.expect("there").etag, second);
    });
}

#[test]
fn the_simulated_bucket_keeps_the_contract() {
    let world = World::new(7);
    let latency = Faults { latency_max: Duration::from_millis(50), ..Faults::default() };
    let bucket = SimBucket::new(&world.env_of(99), latency);
    let store = bucket.store();
    world.block_on(async {
        contract::check(&store, "suite").await.expect("contract");
        contract::check_order(&*store, "suite").await.expect("order");
        prove(&*store, &name(), Nonce(1)).await.expect("proof");
    });
    assert!(world.now() > tidewater_storage::env::Mono::default() + Duration::from_secs(1), "requests take time");
}

#[test]
fn a_rough_bucket_with_retries_does_what_is_asked_the_same_way_each_time() {
    let run = |seed| {
        let world = World::new(seed);
        let env = world.env_of(99);
        let bucket = SimBucket::new(&env, Faults { throttled: 200, torn: 100, ..Faults::rough() });
        let policy = RetryPolicy { attempts_max: 30, ..RetryPolicy::default() };
        let store = Retrying::new(bucket.store(), policy, Arc::new(SimSleeper::new(&env)));
        world.block_on(async {
            for n in 0..50u8 {
                let at = key(&format!("rough/{n}"));
                let put = store.put(&at, Bytes::from(vec![n; 10]), PutMode::IfAbsent).await;
                assert!(matches!(put, Ok(_) | Err(StoreError::Taken { .. })), "{put:?}");
                let got = store.get(&at, None).await;
                assert!(got.is_ok_and(|got| got.body.as_ref() == [n; 10]));
            }
        });
        (bucket.take_log(), world.now())
    };
    assert_eq!(run(3), run(3), "a seed repeats");
    assert_ne!(run(3).0, run(4).0, "another seed differs");
}

#[test]
fn a_bucket_that_is_down_and_one_that_lies_are_told_apart() {
    let world = World::new(1);
    let bucket = SimBucket::new(&world.env_of(99), Faults { down: true, ..Faults::default() });
    let store = bucket.store();
    world.block_on(async {
        let proof = prove(&*store, &name(), Nonce(1)).await;
        assert!(matches!(proof, Err(PreflightError::Store(StoreError::Unavailable { .. }))), "{proof:?}");
        bucket.set_faults(Faults { corrupt: 1000, ..Faults::default() });
        let proof = prove(&*store, &name(), Nonce(2)).await;
        assert!(matches!(proof, Err(PreflightError::ReadBack(_))), "{proof:?}");
    });
}

/// Needs `TIDEWATER_TEST_S3=s3://bucket/prefix` and the usual `AWS_*` variables.
#[test]
fn an_s3_server_keeps_the_contract() {
    let Ok(url) = std::env::var("TIDEWATER_TEST_S3") else { return };
    let runtime = Runtime::new().expect("runtime");
    let store = open(&url, runtime.handle().clone(), &StoreOptions::default()).expect("opens");
    let prefix = format!("suite-{}", uuid::Uuid::new_v4());
    futures::executor::block_on(async {
        contract::check(&store, &prefix).await.expect("contract");
        prove(&*store, &name(), Nonce(1)).await.expect("proof");
    });
}

#[test]
fn urls_that_are_none_are_refused_with_a_way_out() {
    let runtime = Runtime::new().expect("runtime");
    for bad in ["", "bucket", "file://relative", "ftp://host/dir", "s3://"] {
        let error = open(bad, runtime.handle().clone(), &StoreOptions::default()).expect_err("not a bucket");
        assert!(matches!(error, OpenError::Url { .. }), "{bad}: {error}");
    }
}

#[test]
fn the_bucket_of_one_caller_is_away_and_the_others_use_it() {
    let world = World::new(4);
    let bucket = SimBucket::new(&world.env_of(99), Faults::default());
    bucket.set_faults_for(2, Some(Faults { down: true, ..Faults::default() }));
    let (one, two) = (bucket.store_for(1), bucket.store_for(2));
    world.block_on(async {
        one.put(&key("a"), Bytes::from_static(b"1"), PutMode::IfAbsent).await.expect("is there");
        let away = two.head(&key("a")).await;
        assert!(matches!(away, Err(StoreError::Unavailable { .. })), "{away:?}");
        bucket.set_faults_for(2, None);
        assert_eq!(two.head(&key("a")).await.expect("is there").size, 1);
    });
}
