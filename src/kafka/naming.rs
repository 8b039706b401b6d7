//! Waits until an answer can name the leader that it sends its client to (KIP-951).
//!
//! A leader that has just handed its lane over refuses what waited, some milliseconds before it has heard of its
//! successor. A client that is named none asks for metadata, which some do at most every five seconds (franz-go); one
//! that is named the leader goes there at once. Shard-local.

use std::pin::pin;
use std::time::Duration;

use futures::future::select;

use super::context::RequestContext;
use super::error_code::ErrorCode;
use super::topic_ref::TopicRef;
use super::view::Hints;

/// A leader that is not known after this time is being elected.
const NAMED_WITHIN: Duration = Duration::from_millis(300);

/// Waits until the leader of every partition whose answer says that it is elsewhere is known, or for a moment.
pub async fn until_named<'a>(
    ctx: &RequestContext,
    answers: impl Iterator<Item = (&'a TopicRef, i32, ErrorCode)> + Clone,
) {
    let all_named = || {
        let (image, leaders) = (ctx.image(), ctx.leaders());
        let mut hints = Hints::new(&image, &leaders);
        let moved = |error| error == ErrorCode::NOT_LEADER_OR_FOLLOWER && image.brokers.len() > 1;
        answers.clone().all(|(topic, index, error)| !moved(error) || hints.beside(error, topic, index).is_some())
    };
    let named = async {
        loop {
            let changed = ctx.broker.controller.leaders_changed();
            if all_named() {
                return;
            }
            changed.await;
        }
    };
    let pause = ctx.broker.env.tasks.sleep(NAMED_WITHIN);
    select(pin!(named), pin!(pause)).await;
}
