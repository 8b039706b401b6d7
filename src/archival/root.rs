//! Whether the cluster's root, which the start found, is still in the bucket: [`RootPresence`].
//!
//! A bucket without its root was emptied, or is another one. Then every free key says nothing: an archiver would go on
//! beside the loss, and local bytes would be deleted although their copies are gone. Owns: that state and its words.
//! Does not own: how it is noticed (`successor`); a root that is gone at the start (`Bucket::open`). Node-wide, cheap
//! to clone.

use std::sync::Arc;

use tokio::sync::watch;

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct RootPresence {
    /// Why the root counts as gone; `None`: it is there.
    gone: Arc<watch::Sender<Option<String>>>,
}

impl RootPresence {
    /// Why the root counts as gone; `None`: it is there.
    #[must_use]
    pub fn gone(&self) -> Option<String> {
        self.gone.borrow().clone()
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    /// Notes that the root is gone; `bucket` is the bucket's URL.
    pub fn lost(&self, bucket: &str, why: String) {
        let first = self.gone.send_replace(Some(why.clone())).is_none();
        if first {
            tracing::error!(
                bucket,
                why,
                "the bucket was emptied or is another one: nothing is archived, and what is on this disk stays; put the \
                 bucket's objects back under the same URL, from the store's versions or a copy, then archiving goes on by \
                 itself"
            );
        }
    }

    /// Notes that the root is there.
    pub fn found(&self, bucket: &str) {
        if self.is_gone() {
            tracing::info!(bucket, "the cluster's root is in the bucket again: archiving goes on");
            self.gone.send_replace(None);
        }
    }

    /// Returns once the root is gone.
    pub async fn until_lost(&self) {
        self.until(true).await;
    }

    /// Returns once the root is there.
    pub async fn until_found(&self) {
        self.until(false).await;
    }

    async fn until(&self, gone: bool) {
        // The sender is held here, so the wait does not fail.
        let _ = self.gone.subscribe().wait_for(|why| why.is_some() == gone).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn waits_end_with_the_state_they_wait_for() {
        let root = RootPresence::default();
        assert!(root.until_found().now_or_never().is_some() && root.until_lost().now_or_never().is_none());
        root.clone().lost("file:///bucket", "there is no root".to_owned());
        assert_eq!(root.gone().as_deref(), Some("there is no root"));
        assert!(root.until_found().now_or_never().is_none() && root.until_lost().now_or_never().is_some());
        root.found("file:///bucket");
        assert_eq!(root.gone(), None);
    }
}
