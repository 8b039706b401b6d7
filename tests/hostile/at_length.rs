//! Tests that wait for a minute and more and take little processor time meanwhile, side by side: all together take as
//! long as the longest. Each is ignored where it stands, and runs alone with `--ignored`.

use super::{bucket, crowd, disk, gone, outage};

const CASES: [(&str, fn()); 5] = [
    ("a peer that stopped reading", gone::a_peer_that_stopped_reading_is_let_go),
    ("half a request", crowd::a_request_that_stays_half_is_given_up),
    ("an emptied bucket", bucket::an_emptied_bucket_is_named_and_no_local_record_goes_until_its_objects_are_back),
    ("a deleted topic", disk::a_deleted_topic_frees_its_share_of_a_directory_bucket),
    ("an S3 server that dies", outage::an_s3_server_that_dies_under_load_and_comes_back),
];

#[test]
fn what_takes_a_minute_is_waited_for() {
    std::thread::scope(|scope| {
        let running = CASES.map(|(name, case)| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            (name, thread.spawn_scoped(scope, case).expect("a thread"))
        });
        let failed: Vec<&str> =
            running.into_iter().filter_map(|(name, case)| case.join().is_err().then_some(name)).collect();
        assert!(failed.is_empty(), "failed, with messages by the thread's name above: {}", failed.join(", "));
    });
}
