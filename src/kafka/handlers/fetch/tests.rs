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
