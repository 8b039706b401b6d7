//! Answers requests about topics: plan → propose → image → every shard reconciles → reply. Queued requests are handled
//! together, one change per topic at a time: creating a thousand topics costs a few syncs and a few images.
//!
//! Shard-local, on shard 0. A request that creates a topic is answered when the topic's partitions serve.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::join_all;
use tidewater_storage::env::Env;
use tidewater_storage::model::{ProducerId, ShardId, TopicId};
use tokio::sync::watch;

use super::client::{ControllerHandle, ControllerRequest, Quorum, TopicError};
use super::command::Command;
use super::image::{ClusterImage, TopicImage};
use super::lane::ControllerLane;
use super::leaders::{LeaderReport, Leaders};
use super::plan::{self, Context};
use super::reconcile::Reconcile;
use super::state::{Surroundings, TopicRecord, Verdict};
use crate::limits;
use crate::raft::ProposeError;
use crate::shard::mesh::{Inbox, Mesh, Reply};

pub struct Controller {
    env: Env,
    lane: Rc<ControllerLane>,
    around: Surroundings,
    /// The image made last: the next shares with it what did not change.
    last: RefCell<Option<Arc<ClusterImage>>>,
    num_partitions: u32,
    shards: Mesh<Reconcile>,
    handle: ControllerHandle,
    /// Where the side runtime sees an image, once every shard has followed it.
    images: Option<watch::Sender<Arc<ClusterImage>>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({:?})", self.lane)
    }
}

impl Controller {
    /// A controller over its lane. `handle` is shard 0's, so that it knows the newest image first.
    #[must_use]
    pub fn new(
        env: Env,
        lane: Rc<ControllerLane>,
        around: Surroundings,
        num_partitions: u32,
        shards: Mesh<Reconcile>,
        handle: ControllerHandle,
        images: Option<watch::Sender<Arc<ClusterImage>>>,
    ) -> Self {
        Self {
            env,
            lane,
            around,
            last: RefCell::default(),
            num_partitions,
            shards,
            handle,
            images,
        }
    }

    /// Makes every shard agree with the state as it is, and the broker's own topics with what this version wants of them;
    /// call once the lanes lead.
    pub async fn settle(&self) {
        let wanted = plan::mend_internal(&self.lane.state());
        for command in &wanted {
            // What could not be written is tried again at the next start; until then the topic is as it was.
            let _ = self.propose(command).await;
        }
        self.spread().await;
    }

    /// Serves requests until the mesh closes: queued requests are planned and proposed together, every shard follows the
    /// new image once, then the requests are answered.
    pub async fn run(self: Rc<Self>, inbox: Inbox<ControllerRequest>) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(first) => first,
                None => match inbox.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let mut topics: HashSet<String> = subject(&first).into_iter().collect();
            let mut together = vec![first];
            while together.len() < limits::CONTROLLER_BATCH_MAX
                && let Some(next) = inbox.try_recv()
            {
                // Two requests about one topic are planned one after the other.
                if subject(&next).is_some_and(|topic| !topics.insert(topic)) {
                    held = Some(next);
                    break;
                }
                together.push(next);
            }
            self.serve(together).await;
        }
    }

    async fn serve(&self, requests: Vec<ControllerRequest>) {
        let asked: Vec<Asked> = requests.into_iter().filter_map(|request| self.plan(request)).collect();
        let proposed = join_all(asked.iter().map(|asked| self.propose(&asked.command))).await;
        if proposed.iter().any(|verdict| matches!(verdict, Ok(Verdict::Done))) {
            self.spread().await;
        }
        for (asked, verdict) in asked.into_iter().zip(proposed) {
            self.answer(asked.answer, verdict);
        }
    }

    /// The command a request asks for. A request that changes nothing or cannot be done is answered here.
    fn plan(&self, request: ControllerRequest) -> Option<Asked> {
        let state = self.lane.state();
        let (planned, validate_only, answer) = match request {
            ControllerRequest::Create(spec, reply) => {
                let id = TopicId(self.env.rng.uuid());
                let planned = plan::create(&state, self.context(), &spec, id);
                if let (true, Ok(Command::CreateTopic { name, id, lanes, overrides })) = (spec.validate_only, &planned)
                {
                    let (lanes, overrides) = (lanes.clone(), overrides.clone());
                    let record = TopicRecord { id: *id, lanes, overrides, changed: 0 };
                    reply.send(Ok(Arc::new(record.image(name, &self.around))));
                    return None;
                }
                (planned, false, Answer::Topic(spec.name, reply))
            }
            ControllerRequest::Delete { name, id, reply } => {
                (plan::delete(&state, &name, id), false, Answer::Done(reply))
            }
            ControllerRequest::Partitions { topic, total, validate_only, reply } => {
                (plan::add_partitions(&state, self.context(), &topic, total), validate_only, Answer::Done(reply))
            }
            ControllerRequest::Configs { topic, ops, validate_only, reply } => {
                (plan::configure(&state, &topic, &ops), validate_only, Answer::Done(reply))
            }
            ControllerRequest::ProducerIds(reply) => {
                let command = Command::TakeProducerIds { count: limits::PRODUCER_ID_BLOCK };
                (Ok(command), false, Answer::ProducerIds(reply))
            }
            ControllerRequest::Quorum(reply) => {
                reply.send(self.quorum());
                return None;
            }
            ControllerRequest::Lanes(..) => return None,
        };
        match planned {
            Ok(_) if validate_only => answer.only_checked(),
            Ok(command) => return Some(Asked { command, answer }),
            Err(error) => answer.refuse(error),
        }
        None
    }

    fn quorum(&self) -> Result<Quorum, TopicError> {
        let stands = self.lane.status.leading().zip(self.lane.status.applied()).ok_or(TopicError::Unavailable)?;
        Ok(Quorum { term: stands.0, end: stands.1.index.next(), revision: self.lane.state().revision })
    }

    fn context(&self) -> Context {
        let around = &self.around;
        Context { broker: around.broker.id, shards: around.shards, num_partitions: self.num_partitions }
    }

    fn answer(&self, answer: Answer, verdict: Result<Verdict, TopicError>) {
        match (answer, verdict) {
            (answer, Err(error)) => answer.refuse(error),
            (Answer::ProducerIds(reply), Ok(Verdict::ProducerIds(first))) => {
                reply.send(Ok((first, limits::PRODUCER_ID_BLOCK)));
            }
            (Answer::Done(reply), Ok(Verdict::Done)) => reply.send(Ok(())),
            (Answer::Topic(name, reply), Ok(Verdict::Done)) => {
                reply.send(self.handle.image().topic(&name).cloned().ok_or(TopicError::Unavailable));
            }
            (answer, Ok(_)) => answer.refuse(TopicError::Unavailable),
        }
    }

    async fn propose(&self, command: &Command) -> Result<Verdict, TopicError> {
        self.lane.propose(command).await.map_err(|error| match error {
            ProposeError::TooLarge { .. } => TopicError::InvalidRequest(error.to_string()),
            error => {
                tracing::warn!(%error, ?command, "the controller could not commit a change");
                TopicError::Unavailable
            }
        })
    }

    /// Sends the newest image to every shard and waits until all have followed it.
    async fn spread(&self) {
        let image = self.current();
        let asked = (0..self.shards.shards()).map(|shard| {
            let image = Arc::clone(&image);
            self.shards.call(ShardId(shard), move |reply| Reconcile::Image { image, reply })
        });
        let lanes = join_all(asked).await.into_iter().flatten().flatten().collect();
        self.lead(LeaderReport { from: image.here, lanes }).await;
        if let Some(images) = &self.images {
            images.send_replace(image);
        }
    }

    /// Takes a report, and shows changed leaders on every shard.
    async fn lead(&self, report: LeaderReport) {
        let mut leaders = Leaders::clone(&self.handle.leaders());
        if !leaders.see(&report) {
            return;
        }
        let leaders = Arc::new(leaders);
        let asked = (0..self.shards.shards()).map(|shard| {
            let leaders = Arc::clone(&leaders);
            self.shards.call(ShardId(shard), move |reply| Reconcile::Leaders { leaders, reply })
        });
        join_all(asked).await;
    }

    fn current(&self) -> Arc<ClusterImage> {
        let mut last = self.last.borrow_mut();
        let image = Arc::new(self.lane.state().image(&self.around, last.as_deref()));
        *last = Some(Arc::clone(&image));
        image
    }
}

/// A request that became a command.
struct Asked {
    command: Command,
    answer: Answer,
}

/// Where its answer goes.
enum Answer {
    Done(Reply<Result<(), TopicError>>),
    Topic(String, Reply<Result<Arc<TopicImage>, TopicError>>),
    ProducerIds(Reply<Result<(ProducerId, u32), TopicError>>),
}

impl Answer {
    fn refuse(self, error: TopicError) {
        match self {
            Self::Done(reply) => reply.send(Err(error)),
            Self::Topic(_, reply) => reply.send(Err(error)),
            Self::ProducerIds(reply) => reply.send(Err(error)),
        }
    }

    /// Answers a request that asked only for a check.
    fn only_checked(self) {
        match self {
            Self::Done(reply) => reply.send(Ok(())),
            other => other.refuse(TopicError::Unavailable),
        }
    }
}

/// The topic a request is about, as far as two of them may collide.
fn subject(request: &ControllerRequest) -> Option<String> {
    let name = match request {
        ControllerRequest::Create(spec, _) => spec.name.as_str(),
        ControllerRequest::Delete { name, .. } => name.as_str(),
        ControllerRequest::Partitions { topic, .. } | ControllerRequest::Configs { topic, .. } => topic,
        ControllerRequest::ProducerIds(_) | ControllerRequest::Quorum(_) | ControllerRequest::Lanes(..) => return None,
    };
    Some(name.replace('.', "_"))
}
