//! Tests of `fetch`, beside it.

use super::*;

#[test]
fn terms_are_bounded() {
    let request = FetchRequest::default;
    let wild = request().with_max_wait_ms(i32::MAX).with_max_bytes(i32::MAX).with_min_bytes(i32::MAX);
    let terms = Terms::of(&wild);
    assert_eq!((terms.wait, terms.max_bytes, terms.min_bytes), (FETCH_WAIT_MAX, FETCH_BYTES_MAX, FETCH_BYTES_MAX));
    let negative = request().with_max_wait_ms(-1).with_max_bytes(-1).with_min_bytes(-1);
    let terms = Terms::of(&negative);
    assert_eq!((terms.wait, terms.max_bytes, terms.min_bytes), (Duration::ZERO, 0, 0));
}

#[test]
fn epochs_fence() {
    let known = LeaderEpoch(3);
    assert_eq!((epoch_holds(-1, known), epoch_holds(3, known)), (Ok(()), Ok(())));
    assert_eq!(epoch_holds(2, known), Err(ErrorCode::FENCED_LEADER_EPOCH));
    assert_eq!(epoch_holds(4, known), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
}
