//! A client of a whole cluster: it asks the broker that leads a partition or coordinates a group, and asks again where
//! another one does by now.
//!
//! Connects where it was pointed at, learns the other brokers from Metadata and connects to them as calls need them.
//! What fails since a leader moved, a broker died or an election is under way is repeated for [`PATIENCE`], after new
//! metadata. A request that is not repeatable without harm is sent once: only a broker that cannot be reached at all is
//! passed over. In a cluster of one, every call goes to the given address, also where the advertised one cannot be
//! reached from here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kafka_protocol::ResponseError as E;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Request;
use tokio::time::{Instant, sleep};

use super::admin::{text, topic_name};
use super::connection::{Connection, Sent};
use super::error::{ClientError, check};

/// How long a call looks for the leader or the coordinator that can answer it: elections and the start of a broker.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// A client of a cluster. Owns its connections.
#[derive(Debug)]
pub struct Client {
    /// As given, split.
    bootstrap: Vec<String>,
    /// The broker for calls that any broker answers.
    first: String,
    /// Addresses by node id, once metadata was asked for.
    brokers: BTreeMap<i32, String>,
    connections: HashMap<String, Connection>,
    /// Node ids by topic and partition.
    leaders: HashMap<String, HashMap<i32, i32>>,
}

impl Client {
    /// Connects to the first of `bootstrap` (`HOST:PORT[,HOST:PORT…]`) that answers.
    ///
    /// # Errors
    /// None answers, or it is no Kafka broker.
    pub async fn connect(bootstrap: &str) -> Result<Self, ClientError> {
        let given = bootstrap.split(',').map(str::trim).filter(|addr| !addr.is_empty());
        let mut client = Self {
            bootstrap: given.map(ToOwned::to_owned).collect(),
            first: String::new(),
            brokers: BTreeMap::new(),
            connections: HashMap::new(),
            leaders: HashMap::new(),
        };
        if client.bootstrap.is_empty() {
            return Err(ClientError::Address { given: bootstrap.to_owned() });
        }
        client.any().await?;
        Ok(client)
    }

    /// `HOST:PORT` of the broker that answers calls that any broker can answer.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.first
    }

    /// Asks any broker, once.
    pub(super) async fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let addr = self.any().await?;
        self.call_at(&addr, request).await
    }

    /// Asks any broker; if the connection breaks, another one. For requests that only read.
    pub(super) async fn ask<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let mut left = self.bootstrap.len().max(self.brokers.len());
        loop {
            let addr = self.any().await?;
            match self.call_at(&addr, request).await {
                Err(error) if error.is_of_connection() && left > 0 => left -= 1,
                answer => return answer,
            }
        }
    }

    /// The address of a broker that can be reached, the one of the last call if possible.
    async fn any(&mut self) -> Result<String, ClientError> {
        let mut last = None;
        let given = std::iter::once(&self.first).filter(|addr| !addr.is_empty());
        let known = given.chain(&self.bootstrap).chain(self.brokers.values()).cloned().collect::<Vec<_>>();
        let mut tried = BTreeSet::new();
        for addr in known {
            if !tried.insert(addr.clone()) {
                continue;
            }
            match self.open(&addr).await {
                Ok(()) => {
                    self.first.clone_from(&addr);
                    return Ok(addr);
                }
                // The address in the message is the first that was given.
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Address { given: self.bootstrap.join(",") }))
    }

    /// Makes sure of a connection whose answers have all been received.
    async fn open(&mut self, addr: &str) -> Result<(), ClientError> {
        if self.connections.get(addr).is_some_and(Connection::is_settled) {
            return Ok(());
        }
        self.connections.remove(addr);
        let connection = Connection::open(addr).await?;
        self.connections.insert(addr.to_owned(), connection);
        Ok(())
    }

    /// Asks the broker at `addr`, once.
    pub(super) async fn call_at<R: Request>(&mut self, addr: &str, request: &R) -> Result<R::Response, ClientError> {
        self.open(addr).await?;
        let sent = self.send_at(addr, request).await?;
        self.receive_at::<R>(addr, sent).await
    }

    /// Sends to the broker at `addr` behind what was sent before.
    pub(super) async fn send_at<R: Request>(&mut self, addr: &str, request: &R) -> Result<Sent, ClientError> {
        if !self.connections.contains_key(addr) {
            self.open(addr).await?;
        }
        let Some(connection) = self.connections.get_mut(addr) else { return Err(ClientError::gone(addr)) };
        let sent = connection.send(request).await;
        self.kept(addr, sent)
    }

    /// Waits for an answer of the broker at `addr`, in the order of [`Self::send_at`].
    pub(super) async fn receive_at<R: Request>(&mut self, addr: &str, sent: Sent) -> Result<R::Response, ClientError> {
        let Some(connection) = self.connections.get_mut(addr) else { return Err(ClientError::gone(addr)) };
        let received = connection.receive::<R>(sent).await;
        self.kept(addr, received)
    }

    /// Drops a connection that has failed.
    fn kept<T>(&mut self, addr: &str, done: Result<T, ClientError>) -> Result<T, ClientError> {
        if done.as_ref().is_err_and(|error| error.is_of_connection() || matches!(error, ClientError::Malformed { .. }))
        {
            self.connections.remove(addr);
        }
        done
    }

    /// Drops all connections: what is in flight on them is not received any more.
    pub(super) fn disconnect(&mut self) {
        self.connections.clear();
    }

    /// Asks for metadata of one topic, of all (`None`), or only of the brokers (an empty list), and keeps brokers and
    /// leaders.
    pub(super) async fn metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse, ClientError> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let topics = topics.map(|topics| topics.iter().map(named).collect::<Vec<_>>());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let answer = self.ask(&request).await?;
        let brokers = answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host.as_str(), b.port)));
        self.brokers = brokers.collect();
        for topic in answer.topics.iter().filter(|topic| topic.error_code == 0) {
            let Some(name) = &topic.name else { continue };
            let leaders = topic.partitions.iter().map(|part| (part.partition_index, part.leader_id.0)).collect();
            self.leaders.insert(name.as_str().to_owned(), leaders);
        }
        Ok(answer)
    }

    /// The address of a broker; that of the first connection in a cluster of one.
    fn addr_of(&self, node: i32) -> Option<String> {
        if self.brokers.len() <= 1 { Some(self.first.clone()) } else { self.brokers.get(&node).cloned() }
    }

    /// The addresses of all brokers.
    pub(super) async fn all_brokers(&mut self) -> Result<Vec<String>, ClientError> {
        self.metadata(Some(&[])).await?;
        Ok(self.brokers.keys().filter_map(|node| self.addr_of(*node)).collect())
    }

    /// The address of each partition's leader; a partition without one is not in the list.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], or the topic does not have one of the partitions.
    pub(super) async fn leaders_of(
        &mut self,
        topic: &str,
        partitions: &[i32],
        again: bool,
    ) -> Result<Vec<(i32, String)>, ClientError> {
        if again || !self.leaders.contains_key(topic) {
            self.leaders.remove(topic);
            self.metadata(Some(&[topic])).await?;
        }
        let Some(leaders) = self.leaders.get(topic) else { return Err(ClientError::UnknownTopic(topic.to_owned())) };
        let mut found = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let Some(leader) = leaders.get(partition) else {
                let last = leaders.keys().copied().max().unwrap_or(0);
                let (topic, partition) = (topic.to_owned(), *partition);
                self.leaders.remove(&topic);
                return Err(ClientError::UnknownPartition { topic, partition, last });
            };
            found.extend(self.addr_of(*leader).filter(|_| *leader >= 0).map(|addr| (*partition, addr)));
        }
        Ok(found)
    }

    /// Asks the leaders of `partitions` side by side. `make` makes a leader's request for its partitions, `read` takes
    /// an answer and returns the partitions that are to be asked for again, with the error for the last attempt.
    pub(super) async fn at_leaders<R: Request>(
        &mut self,
        topic: &str,
        partitions: &[i32],
        make: impl Fn(&[i32], bool) -> R,
        mut read: impl FnMut(R::Response) -> Result<Vec<(i32, ClientError)>, ClientError>,
    ) -> Result<(), ClientError> {
        let until = Instant::now() + PATIENCE;
        let (mut left, mut again) = (partitions.to_vec(), false);
        loop {
            let found = self.leaders_of(topic, &left, again).await?;
            let mut failed: Vec<(i32, ClientError)> = Vec::new();
            let leaderless = left.iter().filter(|n| !found.iter().any(|(led, _)| led == *n));
            failed.extend(leaderless.map(|n| (*n, no_leader(topic, *n))));
            let mut by_broker: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for (partition, addr) in found {
                by_broker.entry(addr).or_default().push(partition);
            }
            let several = by_broker.len() > 1;
            let mut sent = Vec::with_capacity(by_broker.len());
            for (addr, of) in by_broker {
                let asked = match self.open(&addr).await {
                    Ok(()) => self.send_at(&addr, &make(&of, several)).await,
                    Err(error) => Err(error),
                };
                sent.push((addr, of, asked));
            }
            for (addr, of, asked) in sent {
                let answer = match asked {
                    Ok(sent) => self.receive_at::<R>(&addr, sent).await,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(answer) => failed.extend(read(answer)?),
                    Err(error) if error.is_of_connection() => {
                        let lost = |n: &i32| {
                            (*n, ClientError::Away { topic: topic.to_owned(), partition: *n, addr: addr.clone() })
                        };
                        failed.extend(of.iter().map(lost));
                    }
                    Err(error) => return Err(error),
                }
            }
            left = failed.iter().map(|(partition, _)| *partition).collect();
            let Some((_, error)) = failed.into_iter().next() else { return Ok(()) };
            if Instant::now() >= until {
                return Err(error);
            }
            again = true;
            sleep(PAUSE).await;
        }
    }

    /// Asks the group's coordinator. `code` reads the error that says whether another broker coordinates the group.
    pub(super) async fn at_coordinator<R: Request>(
        &mut self,
        group: &str,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClientError> {
        let until = Instant::now() + PATIENCE;
        if self.brokers.is_empty() {
            self.metadata(Some(&[])).await?;
        }
        loop {
            let answer = match self.coordinator(group).await {
                Ok(addr) => self.call_at(&addr, request).await,
                Err(error) => Err(error),
            };
            let over = Instant::now() >= until;
            match answer {
                Ok(answer) if over || !moves_coordinator(code(&answer)) => return Ok(answer),
                Err(error) if over || !(error.is_of_connection() || error.code().is_some_and(moves_coordinator)) => {
                    return Err(error);
                }
                _ => {}
            }
            sleep(PAUSE).await;
            // Of one broker the error of the connection is the answer to give.
            if let Err(error) = self.metadata(Some(&[])).await
                && self.bootstrap.len() == 1
                && self.brokers.len() <= 1
            {
                return Err(error);
            }
        }
    }

    async fn coordinator(&mut self, group: &str) -> Result<String, ClientError> {
        if self.brokers.len() <= 1 {
            return self.any().await;
        }
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        let answer = self.ask(&request).await?;
        let found = answer.coordinators.first().ok_or_else(|| ClientError::Missing(format!("group {group}")))?;
        check(|| format!("find group {group}"), found.error_code, found.error_message.as_deref())?;
        let addr = format!("{}:{}", found.host.as_str(), found.port);
        Ok(self.brokers.get(&found.node_id.0).cloned().unwrap_or(addr))
    }
}

fn no_leader(topic: &str, partition: i32) -> ClientError {
    let what = || format!("{topic}/{partition}");
    match check(what, E::LeaderNotAvailable.code(), None) {
        Err(error) => error,
        Ok(()) => ClientError::Missing(what()),
    }
}

/// May another broker, or the same a moment later, answer for the partition?
pub(super) fn moves_leader(code: i16) -> bool {
    [
        E::UnknownTopicOrPartition,
        E::LeaderNotAvailable,
        E::NotLeaderOrFollower,
        E::FencedLeaderEpoch,
        E::UnknownLeaderEpoch,
        E::OffsetNotAvailable,
    ]
    .iter()
    .any(|error| error.code() == code)
}

/// The same for a group.
fn moves_coordinator(code: i16) -> bool {
    [E::CoordinatorLoadInProgress, E::CoordinatorNotAvailable, E::NotCoordinator].iter().any(|e| e.code() == code)
}
