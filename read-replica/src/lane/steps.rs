//! One request of a followed lane, and when the next is due.
//!
//! Owns: which answer goes to which `on_` function of the lane. Does not own: their effect. No borrow lives across an
//! await, and every answer is taken whole between two awaits, so that the task may end at any of them.

use std::cell::RefMut;

use futures::StreamExt as _;
use futures::stream;
use tidewater_tiering::fetch::indexes::{FoundIndex, IndexError};
use tidewater_tiering::follow::{Changes, FollowedLane, Next, Purpose, ReadPages, RootStep};
use tidewater_tiering::keys::{Home, ObjectKind, ObjectName, Sequence};
use tidewater_tiering::manifest::{PageRef, PublishedLane, Root, decode_page};
use tidewater_tiering::store::StoreError;

use super::{LaneFollower, Pause, backoff};
use crate::error::ReplicaError;
use crate::source::{Answer, get_changed};
use crate::status::Requests;

impl LaneFollower {
    pub(super) async fn step(&self) -> Pause {
        if !self.inner.refreshes.borrow().is_empty() {
            self.driven().look_at_manifest();
        }
        let next = self.driven().next();
        let done = match next {
            Next::Manifest(object) => self.read_manifest(object).await,
            Next::Pages { partitions, .. } => self.read_pages(partitions).await,
            Next::Bundle(object) => self.read_bundles(object).await,
            Next::Root(_) => self.read_root().await,
        };
        done.unwrap_or_else(|error| self.fail(&error))
    }

    /// The lane that requests are made for: the successor, if there is one.
    fn driven(&self) -> RefMut<'_, FollowedLane> {
        let successor = self.inner.successor.borrow_mut();
        match RefMut::filter_map(successor, Option::as_mut) {
            Ok(successor) => successor,
            Err(_) => self.inner.lane.borrow_mut(),
        }
    }

    async fn read_manifest(&self, object: ObjectName) -> Result<Pause, ReplicaError> {
        // A request for the manifest that fails is followed by a pause.
        let in_doubt = self.inner.in_doubt.replace(false);
        let version = self.driven().base_version().cloned();
        let answer = get_changed(&*self.inner.parts.store, &object.key(), version.as_ref()).await;
        self.count(|requests| match answer {
            Ok(_) => requests.manifests += 1,
            Err(_) => requests.failed += 1,
        });
        let before = self.driven().base_version().cloned();
        let changes = match answer? {
            Answer::Same => {
                self.driven().on_same_manifest();
                Changes::default()
            }
            Answer::Missing => {
                self.driven().on_no_manifest()?;
                Changes::default()
            }
            Answer::Changed(body, version) => match PublishedLane::decode(&body) {
                Ok(published) => self.driven().on_manifest(published, version)?,
                Err(error) => {
                    // Bundles may go on meanwhile, if the lane knows where.
                    if self.driven().base().is_some() {
                        self.driven().on_same_manifest();
                    }
                    return Err(ReplicaError::Format { object, error });
                }
            },
        };
        if !in_doubt || self.driven().base_version().cloned() != before {
            self.taken(&changes);
        }
        if self.driven().closed_for().is_some() {
            // The seal may be missing, or pages be gone already, while a restore has switched.
            self.read_root().await?;
        }
        let is_same = self.driven().base_version().cloned() == before;
        if !is_same {
            self.inner.rebased.set(Some(self.inner.parts.env.clock.now()));
        }
        let reads_pages = matches!(self.driven().next(), Next::Pages { .. });
        if !reads_pages {
            self.looked();
        }
        // The bundle did not count, and the manifest does not help: both may be better later.
        let stuck = in_doubt && is_same && !reads_pages;
        // The last look for a bundle found none, and another one now would not either.
        let is_idle = is_same && !reads_pages && self.inner.idle.get() > 0;
        Ok(match () {
            () if stuck => self.pause_after_failure(),
            () if is_idle => self.pause_of_poll(),
            () => Pause::Now,
        })
    }

    async fn read_pages(&self, pages: Vec<PageRef>) -> Result<Pause, ReplicaError> {
        let (store, ahead) = (&*self.inner.parts.store, self.inner.parts.config.pages_ahead.max(1));
        let read = |page: PageRef| async move { (page, store.get(&page.page.key(), None).await) };
        let mut read = stream::iter(pages).map(read).buffered(ahead);
        let mut found = ReadPages::default();
        while let Some((page, got)) = read.next().await {
            let object = page.page;
            self.count(|requests| match got {
                Ok(_) => requests.pages += 1,
                Err(_) => requests.failed += 1,
            });
            let decoded = match got {
                Ok(got) => decode_page(&page, &got.body).map_err(|error| ReplicaError::Format { object, error }),
                Err(StoreError::NotFound { .. }) => Err(ReplicaError::NoPage { object }),
                Err(error) => Err(error.into()),
            };
            match decoded {
                Ok(partitions) => found.partitions.insert(object, partitions),
                Err(error) => {
                    self.driven().forget_pages();
                    self.looked();
                    return Err(error);
                }
            };
        }
        drop(read);
        let changes = self.driven().on_pages(found);
        if changes.is_ok() {
            self.inner.rebased.set(Some(self.inner.parts.env.clock.now()));
        }
        self.looked();
        self.taken(&changes?);
        Ok(Pause::Now)
    }

    async fn read_bundles(&self, first: ObjectName) -> Result<Pause, ReplicaError> {
        let ObjectKind::Bundle { lane, sequence } = first.kind else { return Ok(Pause::Now) };
        let width = self.inner.width.get();
        let sequences = (sequence.0..).take(width).map(Sequence);
        let indexes = &self.inner.parts.indexes;
        let read = |object: ObjectName| async move { (object, indexes.at_key(object).await) };
        let mut read =
            stream::iter(sequences.map(|sequence| first.home.bundle(lane, sequence))).map(read).buffered(width);
        while let Some((object, got)) = read.next().await {
            self.count(|requests| match &got {
                Ok(_) => requests.bundles += 1,
                Err(IndexError::Store(StoreError::NotFound { .. })) => requests.missing += 1,
                Err(_) => requests.failed += 1,
            });
            match got {
                Ok(found) => {
                    if !self.take_bundle(object, found)? {
                        return Ok(Pause::Now);
                    }
                }
                Err(IndexError::Store(StoreError::NotFound { .. })) => return Ok(self.nothing_yet()),
                Err(IndexError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    // The lane manifest may be ahead of it.
                    self.inner.in_doubt.set(true);
                    self.driven().look_at_manifest();
                    return Err(ReplicaError::of_index(object, error));
                }
            }
        }
        // All were there: more may be.
        self.inner.width.set((width * 2).min(self.inner.parts.config.ahead.max(1)));
        Ok(Pause::Now)
    }

    /// Takes a bundle that was read. `false`: the lane is to read something else now.
    fn take_bundle(&self, object: ObjectName, found: FoundIndex) -> Result<bool, ReplicaError> {
        let changes = match self.driven().on_bundle(&found.index, found.at, found.size) {
            Ok(changes) => changes,
            Err(error) => {
                self.inner.in_doubt.set(true);
                return Err(error.into());
            }
        };
        self.inner.idle.set(0);
        self.inner.caught_up.set(None);
        let goes_on = matches!(self.driven().next(), Next::Bundle(_));
        if goes_on {
            self.inner.parts.indexes.remember(object, found);
        }
        self.taken(&changes);
        Ok(goes_on)
    }

    /// The next bundle is not there: not yet, as long as the lane manifest does not say otherwise.
    fn nothing_yet(&self) -> Pause {
        let config = &self.inner.parts.config;
        self.inner.width.set(1);
        self.well();
        let now = self.inner.parts.env.clock.now();
        if self.inner.successor.borrow().is_none() {
            self.inner.caught_up.set(Some(now));
            self.inner.has_caught_up.set(true);
        }
        self.inner.idle.set(self.inner.idle.get().saturating_add(1));
        let due = self.inner.looked.get().is_none_or(|at| now.since(at) >= config.manifest_interval);
        if due {
            self.driven().look_at_manifest();
            return Pause::Now;
        }
        self.pause_of_poll()
    }

    fn pause_of_poll(&self) -> Pause {
        let (shortest, longest) = self.inner.parts.config.poll;
        let idle = self.inner.idle.get().saturating_sub(1).min(64);
        Pause::For(shortest.mul_f64(1.25f64.powi(idle.cast_signed())).min(longest))
    }

    /// The lane ended here, or its manifest was closed: which home goes on?
    async fn read_root(&self) -> Result<Pause, ReplicaError> {
        let name = self.inner.parts.name.clone();
        let key = name.root_key();
        let got = self.inner.parts.store.get(&key, None).await;
        self.count(|requests| match got {
            Ok(_) => requests.roots += 1,
            Err(_) => requests.failed += 1,
        });
        let body = match got {
            Err(StoreError::NotFound { .. }) => return Err(ReplicaError::NoCluster { name, key }),
            got => got?.body,
        };
        let root = Root::decode(&body).map_err(|reason| ReplicaError::Pointer { key, reason })?;
        let step = self.inner.root.borrow_mut().on_root(&root)?;
        self.well();
        Ok(match step {
            RootStep::Serve(home) => {
                self.succeed(home);
                Pause::Now
            }
            RootStep::Same | RootStep::Restoring(_) => Pause::For(self.inner.parts.config.poll.1),
        })
    }

    fn succeed(&self, home: Home) {
        tracing::info!(lane = %self.inner.parts.lane, cluster = %home.cluster, epoch = %home.epoch, "the source was restored; its lane is followed in the new epoch");
        let successor = FollowedLane::new(home, self.inner.parts.lane, Purpose::Read);
        *self.inner.successor.borrow_mut() = Some(successor);
        self.inner.idle.set(0);
        self.inner.width.set(1);
        self.inner.looked.set(None);
    }

    /// An answer was taken. A successor that is known now is served from here on.
    fn taken(&self, changes: &Changes) {
        self.well();
        let is_known = self.inner.successor.borrow().as_ref().is_some_and(FollowedLane::is_known);
        if !is_known {
            if self.inner.successor.borrow().is_none() && !changes.partitions.is_empty() {
                (self.inner.parts.changed)(changes);
            }
            return;
        }
        let Some(successor) = self.inner.successor.borrow_mut().take() else { return };
        let before = self.inner.lane.replace(successor);
        self.inner.has_caught_up.set(false);
        let lane = self.inner.lane.borrow();
        let partitions = before.partitions().keys().chain(lane.partitions().keys()).copied().collect();
        drop(lane);
        (self.inner.parts.changed)(&Changes { partitions });
    }

    /// The lane manifest was looked at, with its pages.
    fn looked(&self) {
        self.inner.looked.set(Some(self.inner.parts.env.clock.now()));
        for waiting in self.inner.refreshes.borrow_mut().drain(..) {
            // The reader may be gone.
            let _ = waiting.send(());
        }
    }

    fn well(&self) {
        if !self.inner.in_doubt.get() {
            self.inner.failures.set(0);
            *self.inner.error.borrow_mut() = None;
        }
    }

    fn fail(&self, error: &ReplicaError) -> Pause {
        let text = error.to_string();
        if self.inner.error.borrow().as_ref() != Some(&text) {
            tracing::warn!(lane = %self.inner.parts.lane, source = %self.inner.parts.name, %error, "the source's lane cannot be followed now; what was followed is served still");
        }
        *self.inner.error.borrow_mut() = Some(text);
        self.inner.width.set(1);
        // A bundle that did not count sends the lane to its manifest at once.
        if self.inner.in_doubt.get() { Pause::Now } else { self.pause_after_failure() }
    }

    fn pause_after_failure(&self) -> Pause {
        let failures = self.inner.failures.get().saturating_add(1);
        self.inner.failures.set(failures);
        Pause::For(backoff(self.inner.parts.config.backoff, failures))
    }

    fn count(&self, change: impl FnOnce(&mut Requests)) {
        let mut requests = self.inner.requests.get();
        change(&mut requests);
        self.inner.requests.set(requests);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pauses_grow_and_end_at_the_longest() {
        let pauses = (Duration::from_millis(200), Duration::from_secs(10));
        let all: Vec<u128> = (1..9).map(|n| backoff(pauses, n).as_millis()).collect();
        assert_eq!(all, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff(pauses, u32::MAX), Duration::from_secs(10));
    }
}
