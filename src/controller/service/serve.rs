//! Requests that this broker answers because it leads the controller's lane.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::rc::Rc;

use futures::channel::oneshot;
use futures::future::{Either, join_all, select};
use tidewater_storage::model::{LaneId, NodeId, TopicId};

use super::{Controller, Queued};
use crate::controller::ask::{Answered, Ask, AskError, Quorum, Registered, TopicError, TopicSpec};
use crate::controller::brokers;
use crate::controller::command::Command;
use crate::controller::features;
use crate::controller::placement::Planned;
use crate::controller::plan::{self, Context};
use crate::controller::sources;
use crate::controller::state::{ControllerState, TopicRecord, Verdict};
use crate::limits::{self, CONTROLLER_PATIENCE};
use crate::raft::ProposeError;

type Answer = Result<Answered, AskError>;

/// A request that became commands, and what is answered once they are applied.
struct Planning {
    commands: Vec<Command>,
    then: Then,
}

enum Then {
    Done,
    Topic(TopicRecord),
    ProducerIds,
    Registered,
    Widening,
}

/// A request that asks for commands, or that is answered without.
enum Plan {
    Write(Planning),
    Answer(Answer),
}

impl Controller {
    /// Serves queued requests: planned and proposed together, answered when they are applied and shown.
    pub(super) async fn serve_queue(self: Rc<Self>) {
        loop {
            let together = self.take_together();
            if together.is_empty() {
                self.queued.notified().await;
            } else {
                self.serve(together).await;
            }
        }
    }

    /// Queued requests that are planned together: two about one topic are planned one after the other.
    fn take_together(&self) -> Vec<Queued> {
        let (mut queue, mut topics, mut together) = (self.queue.borrow_mut(), HashSet::new(), Vec::new());
        while together.len() < limits::CONTROLLER_BATCH_MAX
            && let Some(next) = queue.pop_front()
        {
            if subject(&next.ask).is_some_and(|topic| !topics.insert(topic)) {
                queue.push_front(next);
                break;
            }
            together.push(next);
        }
        together
    }

    async fn serve(self: &Rc<Self>, together: Vec<Queued>) {
        if self.lane.status.leading().is_none() {
            let leader = self.lane.status.raft().and_then(|raft| raft.leadership().leader);
            return together.into_iter().for_each(|queued| reply(queued.reply, Err(AskError::NotLeader(leader))));
        }
        self.make_lanes_for(&together).await;
        let planned = Planned::default();
        let mut writing = Vec::new();
        for Queued { ask, again, reply: to } in together {
            if ask == Ask::Quorum {
                let this = Rc::clone(self);
                let task = async move { reply(to, this.quorum().await) };
                drop(self.env.tasks.spawn("controller quorum", task));
                continue;
            }
            match self.plan(ask, again, &planned) {
                Plan::Answer(answer) => reply(to, answer),
                Plan::Write(planning) => writing.push((planning, to)),
            }
        }
        if writing.is_empty() {
            return;
        }
        self.writing.set(true);
        let all = writing.iter().map(|(planning, _)| join_all(planning.commands.iter().map(|one| self.propose(one))));
        let pause = self.env.tasks.sleep(CONTROLLER_PATIENCE);
        let written = match select(join_all(all), pin!(pause)).await {
            Either::Left((written, _)) => Some(written),
            // No quorum answers: whether it was written is known when one does.
            Either::Right(_) => None,
        };
        self.writing.set(false);
        self.written.notify_waiters();
        let Some(written) = written else {
            return writing.into_iter().for_each(|(_, to)| reply(to, Err(AskError::Unknown)));
        };
        let revision = self.lane.state().revision;
        for ((planning, to), verdicts) in writing.into_iter().zip(written) {
            let this = Rc::clone(self);
            let task = async move { reply(to, this.answer(planning, verdicts, revision).await) };
            drop(self.env.tasks.spawn("controller answer", task));
        }
    }

    /// Makes the lanes of factors that are asked for the first time.
    async fn make_lanes_for(&self, together: &[Queued]) {
        let missing: BTreeSet<u16> = {
            let state = self.lane.state();
            let specs = together.iter().filter_map(|queued| match &queued.ask {
                Ask::Create { spec, .. } => plan::factor_of(&state, spec).ok(),
                _ => None,
            });
            specs.filter(|factor| state.lanes.pool(*factor).next().is_none()).collect()
        };
        for factor in missing {
            let command = plan::make_lanes(&self.lane.state(), factor);
            if let Some(command) = command {
                // A topic that finds no lane is refused for now.
                let _ = self.propose(&command).await;
            }
        }
    }

    fn plan(&self, ask: Ask, again: bool, planned: &Planned) -> Plan {
        let state = self.lane.state();
        let context = Context { num_partitions: self.options.num_partitions, planned };
        let done = || Plan::Answer(Ok(Answered::Done { revision: state.revision }));
        let (command, then, validate_only) = match ask {
            Ask::Create { spec, id } => return plan_creation(&state, context, &spec, id),
            Ask::Delete { name, id } => match plan::delete(&state, &name, id) {
                Err(TopicError::Unknown(_) | TopicError::UnknownId(_)) if again => return done(),
                planned => (planned, Then::Done, false),
            },
            Ask::Partitions { topic, total, assignments, validate_only } => {
                let has = state.topics.get(topic.as_str()).map(|record| i32::try_from(record.lanes.len()));
                if again && has == Some(Ok(total)) {
                    return done();
                }
                (plan::add_partitions(&state, context, &topic, total, &assignments), Then::Done, validate_only)
            }
            Ask::Configs { topic, ops, validate_only } => {
                (plan::configure(&state, &topic, &ops), Then::Done, validate_only)
            }
            Ask::ProducerIds => {
                (Ok(Command::TakeProducerIds { count: limits::PRODUCER_ID_BLOCK }), Then::ProducerIds, false)
            }
            Ask::Register(asked) => return self.plan_registration(&state, asked),
            Ask::Widen { factor } => {
                return match plan::widen(&state, factor) {
                    Ok(commands) => Plan::Write(Planning { commands, then: Then::Widening }),
                    Err(error) => refused(error),
                };
            }
            Ask::Follow { id, spec } => match sources::follow(&state, id, spec) {
                Ok(Some(command)) => (Ok(command), Then::Done, false),
                Ok(None) => return done(),
                Err(error) => return refused(error),
            },
            Ask::Unfollow { id } => match sources::unfollow(&state, id) {
                Some(command) => (Ok(command), Then::Done, false),
                None => return done(),
            },
            Ask::EndHold if state.may_hold() => (Ok(Command::EndHold {}), Then::Done, false),
            Ask::EndHold => return done(),
            Ask::Copied { id, partition, at } => match state.topics.values().find(|topic| topic.id == id) {
                Some(TopicRecord { copy: Some(copy), .. }) if !copy.done.contains(&partition) => {
                    (Ok(Command::Copied { id, partition, at }), Then::Done, false)
                }
                _ => return done(),
            },
            Ask::Quorum => unreachable!("it needs no plan"),
        };
        match command {
            Ok(_) if validate_only => done(),
            Ok(command) => Plan::Write(Planning { commands: vec![command], then }),
            // Lanes that are not made yet: the broker that asks tries again.
            Err(TopicError::Unavailable) => Plan::Answer(Err(AskError::NotLeader(Some(self.here())))),
            Err(error) => refused(error),
        }
    }

    fn plan_registration(&self, state: &ControllerState, asked: brokers::Registration) -> Plan {
        let level = state.level(features::CLUSTER);
        if level < features::LANE_TABLE {
            return Plan::Answer(Err(AskError::NotLeader(Some(self.here()))));
        }
        let mut alive = self.peers.as_ref().map(|peers| peers.connected()).unwrap_or_default();
        // One that is met at the new address already has moved, and is no second broker on a copy of the directory.
        let is_met = |node: &NodeId| {
            let address = asked.address.rpc.as_ref();
            address.zip(self.peers.as_ref()).is_some_and(|(at, peers)| peers.is_connected_at(*node, at))
        };
        alive.retain(|node| !is_met(node));
        let place = match brokers::place(&state.brokers, &alive, level, &asked) {
            Ok(place) => place,
            Err(error) => return refused(TopicError::InvalidRequest(error.to_string())),
        };
        let held = state.brokers.get(&place.node).filter(|held| held.birth == asked.birth);
        if let Some(held) = held.filter(|held| held.address == asked.address) {
            let (node, incarnation, revision) = (place.node, held.incarnation, state.revision);
            return Plan::Answer(Ok(Answered::Registered(Registered { node, incarnation, revision })));
        }
        let brokers::Registration { birth, address, .. } = asked;
        let command = Command::Register { node: place.node, birth, address, replaces: place.replaces };
        Plan::Write(Planning { commands: vec![command], then: Then::Registered })
    }

    /// The answer to a request whose commands are applied, once it is shown.
    async fn answer(
        self: Rc<Self>,
        planning: Planning,
        verdicts: Vec<Result<Verdict, AskError>>,
        revision: u64,
    ) -> Answer {
        let (mut ids, mut done) = (None, 0);
        for verdict in verdicts {
            match verdict? {
                Verdict::Done => done += 1,
                Verdict::ProducerIds(first) => ids = Some(first),
                // Something changed meanwhile: it is planned again.
                Verdict::Stale => return Err(AskError::NotLeader(Some(self.here()))),
            }
        }
        match planning.then {
            Then::ProducerIds => {
                let first = ids.expect("a command for producer ids is applied to producer ids");
                Ok(Answered::ProducerIds { first, count: limits::PRODUCER_ID_BLOCK })
            }
            Then::Registered => {
                self.duties.notify_one();
                let registered = planning.commands.iter().find_map(|command| match command {
                    Command::Register { node, .. } => Some(*node),
                    _ => None,
                });
                let node = registered.expect("a registration is written as one");
                let incarnation = self.lane.state().brokers.get(&node).map(|broker| broker.incarnation);
                let incarnation = incarnation.ok_or(AskError::Unknown)?;
                Ok(Answered::Registered(Registered { node, incarnation, revision }))
            }
            Then::Widening => Ok(Answered::Widening { lanes: done, revision }),
            Then::Done => {
                self.until_shown(revision).await;
                Ok(Answered::Done { revision })
            }
            Then::Topic(record) => {
                self.until_shown(revision).await;
                let lanes: BTreeSet<LaneId> = record.lanes.iter().copied().collect();
                self.until_followed(&lanes, revision).await;
                Ok(Answered::Topic { record, revision })
            }
        }
    }

    /// Where the log stands, by a leader that a quorum has confirmed since the question.
    async fn quorum(&self) -> Answer {
        let raft = self.lane.status.raft().ok_or(AskError::NotLeader(None))?;
        if let Err(ProposeError::NotLeader { hint }) = raft.confirm().await.map_err(|error| match error {
            ProposeError::Unconfirmed => ProposeError::NotLeader { hint: None },
            other => other,
        }) {
            return Err(AskError::NotLeader(hint));
        }
        let stands = self.lane.status.leading().zip(self.lane.status.applied());
        let (term, end) = stands.ok_or(AskError::NotLeader(None))?;
        Ok(Answered::Quorum(Quorum { term, end: end.index.next(), revision: self.lane.state().revision }))
    }

    /// Proposes a command and waits until it is applied.
    pub(super) async fn propose(&self, command: &Command) -> Result<Verdict, AskError> {
        self.lane.propose(command).await.map_err(|error| match error {
            ProposeError::TooLarge { .. } => AskError::Final(TopicError::InvalidRequest(error.to_string())),
            ProposeError::NotLeader { hint } => AskError::NotLeader(hint),
            ProposeError::Unconfirmed | ProposeError::Full { .. } => AskError::NotLeader(None),
            ProposeError::Unknown { .. } | ProposeError::Shutdown | ProposeError::Fatal => {
                tracing::warn!(%error, ?command, "it is not known whether the controller committed a change");
                AskError::Unknown
            }
        })
    }
}

fn plan_creation(state: &ControllerState, context: Context<'_>, spec: &TopicSpec, id: Option<TopicId>) -> Plan {
    let Some(id) = id else {
        return refused(TopicError::InvalidRequest("the topic's id is missing".to_owned()));
    };
    let made = state.topics.get(spec.name.as_str()).filter(|record| record.id == id && !spec.validate_only);
    if let Some(record) = made {
        return Plan::Answer(Ok(Answered::Topic { record: record.clone(), revision: state.revision }));
    }
    let command = match plan::create(state, context, spec, id) {
        Ok(command) => command,
        Err(error) => return refused(error),
    };
    let Command::CreateTopic { id, lanes, overrides, epoch_base, copy, .. } = &command else {
        unreachable!("a topic is made by {command:?}");
    };
    let record = TopicRecord {
        id: *id,
        lanes: lanes.clone(),
        overrides: overrides.clone(),
        changed: 0,
        epoch_base: *epoch_base,
        copy: copy.clone(),
    };
    if spec.validate_only {
        return Plan::Answer(Ok(Answered::Topic { record, revision: state.revision }));
    }
    Plan::Write(Planning { commands: vec![command], then: Then::Topic(record) })
}

fn refused(error: TopicError) -> Plan {
    Plan::Answer(Err(AskError::Final(error)))
}

/// The asker may have gone.
fn reply(to: oneshot::Sender<Answer>, answer: Answer) {
    let _ = to.send(answer);
}

/// What a request is about, as far as two of them may collide: a topic, or brokers, lanes and sources.
fn subject(ask: &Ask) -> Option<String> {
    let name = match ask {
        Ask::Create { spec, .. } => spec.name.as_str(),
        Ask::Delete { name, .. } => name.as_str(),
        Ask::Partitions { topic, .. } | Ask::Configs { topic, .. } => topic,
        // No topic has the empty name.
        Ask::Register(_) | Ask::Widen { .. } | Ask::Follow { .. } | Ask::Unfollow { .. } | Ask::EndHold => "",
        Ask::ProducerIds | Ask::Quorum | Ask::Copied { .. } => return None,
    };
    Some(name.replace('.', "_"))
}
