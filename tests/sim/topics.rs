//! Topics that come and go while the broker dies: made, written, read, given more partitions, deleted, made again
//! under the same name. Each incarnation has a past of its own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tidewater::controller::ask::{TopicError, TopicSpec};
use tidewater::controller::image::TopicImage;
use tidewater_storage::model::{Offset, ProducerId, TopicId};

use crate::history::{History, Sent};
use crate::invariants::check_past;
use crate::workload::{self, Desk, PATIENCE};
use crate::world::{World, within};

/// What is known of a topic.
#[derive(Debug, Default)]
struct Known {
    /// Ids it had and lost: none may come back.
    gone: BTreeSet<TopicId>,
    /// The one that was acknowledged, with the least number of partitions it must have.
    here: Option<(TopicId, usize)>,
    /// Its deletion was asked for and not answered.
    going: bool,
    sent: u64,
}

/// A name under which topics come and go.
#[derive(Clone)]
pub(crate) struct Passing {
    desk: Desk,
    name: &'static str,
    known: Rc<RefCell<Known>>,
    history: Rc<RefCell<History>>,
}

impl Passing {
    pub(crate) fn new(desk: &Desk, name: &'static str) -> Self {
        Self { desk: desk.clone(), name, known: Rc::default(), history: Rc::default() }
    }

    /// Runs until stopped.
    pub(crate) async fn come_and_go(self) {
        while !self.desk.stop.get() {
            self.desk.pause(300).await;
            let Some(image) = self.look() else { continue };
            let Some(image) = image else {
                self.create().await;
                continue;
            };
            match self.desk.env.rng.below(8) {
                0 => self.delete().await,
                1 => self.add_partitions(&image).await,
                2 | 3 => self.read(&image).await,
                _ => self.write(&image).await,
            }
        }
    }

    /// The topic as the broker has it now, compared with what is known; `None` while no broker serves.
    #[allow(clippy::option_option, reason = "outer: no broker serves; inner: no such topic")]
    fn look(&self) -> Option<Option<Arc<TopicImage>>> {
        let node = self.desk.way.node()?;
        let image = node.controller.image().topic(self.name).cloned();
        let mut known = self.known.borrow_mut();
        match (&image, known.here) {
            (None, Some((id, _))) => {
                assert!(known.going, "topic {} ({id}) is gone, and was not deleted", self.name);
                known.gone.insert(id);
                known.here = None;
                known.going = false;
            }
            (Some(image), Some((id, least))) if image.id == id => {
                assert!(image.partitions.len() >= least, "topic {} has lost partitions: {least} were", self.name);
            }
            (Some(image), here) => {
                assert!(here.is_none() || known.going, "topic {} is another one than before", self.name);
                if let Some((id, _)) = here {
                    known.gone.insert(id);
                }
                assert!(!known.gone.contains(&image.id), "topic {} ({}) is back from the dead", self.name, image.id);
                known.here = Some((image.id, image.partitions.len()));
                known.going = false;
                *self.history.borrow_mut() = History::default();
            }
            (None, None) => {}
        }
        if let Some(image) = &image {
            for partition in &image.partitions {
                let there = known.going || node.replica(partition.id).is_some();
                assert!(there, "{} is in the image and not on its shard", partition.id);
            }
        }
        Some(image)
    }

    async fn create(&self) {
        let Some(node) = self.desk.way.node() else { return };
        let controller = node.controller.clone();
        drop(node);
        let spec = TopicSpec {
            name: self.name.to_owned(),
            partitions: Some(1 + i32::try_from(self.desk.env.rng.below(3)).expect("small")),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: vec![
                ("archive.lag.ms".into(), Some("300".into())),
                ("segment.bytes".into(), Some("20000".into())),
            ],
            validate_only: false,
            internal: false,
            copy: None,
        };
        match within(&self.desk.env, PATIENCE, controller.create_topic(spec)).await {
            Some(Ok(image)) => {
                let mut known = self.known.borrow_mut();
                assert!(!known.gone.contains(&image.id), "topic {} got an id it had before", self.name);
                if known.here.is_none_or(|(id, _)| id != image.id) {
                    known.here = Some((image.id, image.partitions.len()));
                    *self.history.borrow_mut() = History::default();
                }
            }
            None | Some(Err(TopicError::Unavailable | TopicError::Exists(_))) => {}
            Some(Err(error)) => panic!("topic {}: {error}", self.name),
        }
    }

    async fn delete(&self) {
        let Some(node) = self.desk.way.node() else { return };
        let controller = node.controller.clone();
        drop(node);
        self.known.borrow_mut().going = true;
        match within(&self.desk.env, PATIENCE, controller.delete_topic(self.name)).await {
            Some(Ok(())) => {
                let mut known = self.known.borrow_mut();
                if let Some((id, _)) = known.here.take() {
                    known.gone.insert(id);
                }
                known.going = false;
            }
            None | Some(Err(TopicError::Unavailable | TopicError::Unknown(_))) => {}
            Some(Err(error)) => panic!("topic {}: {error}", self.name),
        }
    }

    async fn add_partitions(&self, image: &TopicImage) {
        let Some(node) = self.desk.way.node().filter(|_| image.partitions.len() < 6) else { return };
        let controller = node.controller.clone();
        drop(node);
        let total = image.partitions.len() + 1;
        let asked = controller.create_partitions(self.name, i32::try_from(total).expect("few"), false);
        if let Some(Ok(())) = within(&self.desk.env, PATIENCE, asked).await
            && let Some((id, least)) = &mut self.known.borrow_mut().here
            && *id == image.id
        {
            *least = (*least).max(total);
        }
    }

    /// One batch, sent once, to any of its partitions.
    async fn write(&self, image: &TopicImage) {
        let Some(partition) = image.partitions.get(self.any(image)) else { return };
        let n = {
            let mut known = self.known.borrow_mut();
            known.sent += 1;
            known.sent
        };
        let producer = Some((ProducerId(1_000_000 + i64::try_from(n).expect("few")), 0));
        let (bytes, records) = workload::batch(&self.desk.env, u32::try_from(n).expect("few"), n, producer);
        let index = partition.id.index.0;
        let history = self.history.borrow().clone();
        let sent = Sent { writer: u32::try_from(n).expect("few"), n, producer: None, records, acked: None };
        history.sending(index, &bytes, sent);
        let answer = workload::send(&self.desk.env, &self.desk.way, partition.address(), bytes.clone()).await;
        if let Ok(base) = answer {
            self.acknowledged(&history, index, &bytes, base);
        }
    }

    fn acknowledged(&self, history: &History, index: i32, bytes: &Bytes, base: Offset) {
        // A topic that went meanwhile has another past now.
        history.acknowledged(index, bytes, Some(base));
    }

    fn any(&self, image: &TopicImage) -> usize {
        usize::try_from(self.desk.env.rng.below(image.partitions.len() as u64)).expect("few")
    }

    /// One partition from its start.
    async fn read(&self, image: &TopicImage) {
        let index = i32::try_from(self.any(image)).expect("few");
        let history = self.history.borrow().clone();
        let mut from = Offset::ZERO;
        while let Some(next) = self.read_at(&history, image, index, from).await {
            if next <= from {
                return;
            }
            from = next;
        }
    }

    /// As [`workload::read`], for a topic that may go at any time.
    async fn read_at(&self, history: &History, image: &TopicImage, index: i32, from: Offset) -> Option<Offset> {
        let id = self.known.borrow().here.map(|(id, _)| id);
        if id != Some(image.id) || self.known.borrow().going {
            return None;
        }
        workload::read(&self.desk.env, &self.desk.way, history, image, index, from, 50_000).await
    }

    /// In the end: the topics are those of the answers, and all their records can be read.
    pub(crate) async fn check(&self, world: &World) {
        drop(world.serving().await);
        let Some(Some(image)) = self.look() else { return };
        if self.known.borrow().going {
            return;
        }
        let history = self.history.borrow().clone();
        for partition in &image.partitions {
            let index = partition.id.index.0;
            let mut from = Offset::ZERO;
            let mut tries = 0;
            loop {
                let end = world.serving().await.describe(partition.id).map_or(0, |status| status.high_watermark);
                if from.get() >= end {
                    break;
                }
                match self.read_at(&history, &image, index, from).await {
                    Some(next) if next > from => from = next,
                    _ => {
                        tries += 1;
                        assert!(tries < 50, "{}: cannot read at {from} of {end}", partition.id);
                        world.sleep_ms(100).await;
                    }
                }
            }
            history.with(index, |past| {
                past.high_watermark = past.high_watermark.max(from);
                check_past(index, past);
            });
        }
    }
}
