//! How long a client waits for a change of the cluster: the `timeout_ms` of its request.

use std::time::Duration;

use crate::limits::CONTROLLER_PATIENCE;

/// A longer wait is cut: what waits is held in memory, and a cluster that has no leader for so long needs its operator.
const PATIENCE_MAX: Duration = Duration::from_secs(300);

/// The time that a request gives, in milliseconds; without any, as librdkafka's by default, as long as the broker's own
/// requests wait. After it the answer is REQUEST_TIMED_OUT where the change may have been made, NOT_CONTROLLER where it
/// was not.
#[must_use]
pub fn of(timeout_ms: i32) -> Duration {
    let given = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    given.unwrap_or(CONTROLLER_PATIENCE).min(PATIENCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_as_long_as_it_says() {
        assert_eq!(of(1500), Duration::from_millis(1500));
        assert_eq!([of(0), of(-1)], [CONTROLLER_PATIENCE; 2]);
        assert_eq!(of(i32::MAX), PATIENCE_MAX);
    }
}
