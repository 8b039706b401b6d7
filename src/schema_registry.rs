//! The Schema Registry of this broker: it answers every request, whichever broker leads `_schemas`.
//!
//! Every broker keeps a [`copy`] of the state: what the committed records of `_schemas` say up to an offset. A copy is
//! never wrong, it can only lack the newest changes.
//!
//! - **A query** is answered from the copy, once that has reached the end which the leader of `_schemas` had when the
//!   query came. A schema is asked of no leader when its id or GUID is known here, since neither ever stands for
//!   another one. While the leader cannot be asked, what is known here is answered, and what is not is an error and no
//!   "not found".
//! - **A command** goes to the leader as it came ([`forward`]). The leader plans one at a time on a copy that holds
//!   everything committed, and writes in the term in which it read, so that no two brokers give one id ([`lead`]).
//! - **An id is archived before it is given out** ([`archived`]): after a restore from the bucket no data carries an id
//!   that the registry has forgotten. What was written after the last archived record may still be lost, so a restored
//!   cluster leaves out [`IDS_LEFT_OUT`] ids.
//!
//! Owns: where a request is answered, when the copy is read and written. Does not own: what requests mean
//! ([`crate::schema`]), HTTP ([`crate::schema_http`]). *Node-wide*; runs on the side runtime.

mod archived;
mod copy;
mod counts;
mod forward;
mod lead;
mod log;
pub mod peers;
mod topic;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::model::{NodeId, Offset, Term};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::controller::ask::ControllerRequest;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::partition::message::{PartitionAddress, PartitionRequest};
use crate::schema::SchemaError;
use crate::schema::http::reply::Reply;
use crate::schema::http::{Request, RequestParts};
use crate::schema::request::{Answer, Command, Query};
use crate::schema::whole::{Wanted, WholeSchema};
use crate::shard::mesh::Mesh;
pub use archived::IDS_LEFT_OUT;
use copy::Copy;
pub use counts::{ArchiveWaits, RegistryCounts, Requests};
use lead::Writer;
use peers::PeerCall;

/// How long a query waits for the leader of `_schemas` before it is answered from what is known here.
const QUERY_PATIENCE: Duration = Duration::from_secs(3);
/// How long a command is tried.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to reach the leader; a change of leaders ends it.
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// What a registry asks other parts of the broker.
#[derive(Clone, Debug)]
pub struct RegistryMeshes {
    pub partitions: Mesh<PartitionRequest>,
    pub controller: Mesh<ControllerRequest>,
    /// Calls to other brokers; shard 0 carries them ([`peers::carry`]).
    pub peers: Mesh<PeerCall>,
}

/// The handle of the registry. Cheap to clone.
#[derive(Clone)]
pub struct SchemaRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    meshes: RegistryMeshes,
    images: watch::Receiver<Arc<ClusterImage>>,
    leaders: watch::Receiver<Arc<Leaders>>,
    handle: Handle,
    copy: RwLock<Copy>,
    /// Held while the copy is brought up to date.
    reading: Mutex<()>,
    /// Held while this broker, as leader, plans and writes a command.
    writer: Mutex<Writer>,
    counts: RegistryCounts,
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaRegistry(to offset {})", self.shared.copy().end)
    }
}

/// The leader of `_schemas` as this broker knows it.
#[derive(Clone, Copy, Debug)]
struct Leader {
    node: NodeId,
    term: Term,
}

/// One try to have something done by the leader.
enum Tried<T> {
    Done(T),
    /// Nothing was done.
    NotLeader,
    /// It is not known whether it was done.
    Unknown(SchemaError),
}

impl Shared {
    fn copy(&self) -> RwLockReadGuard<'_, Copy> {
        // A panic while it was held changed nothing: changes are applied by a function that does not fail.
        self.copy.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy_mut(&self) -> std::sync::RwLockWriteGuard<'_, Copy> {
        self.copy.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> NodeId {
        self.images.borrow().here
    }

    fn leader(&self, address: PartitionAddress) -> Option<Leader> {
        let leaders = Arc::clone(&self.leaders.borrow());
        let leader = leaders.of(address.lane)?;
        (leader.term > Term(0)).then_some(Leader { node: leader.node, term: leader.term })
    }

    /// The term in which this broker leads the partition.
    fn leading(&self, address: PartitionAddress) -> Option<Term> {
        self.leader(address).filter(|leader| leader.node == self.here()).map(|leader| leader.term)
    }

    /// Waits for another leader, or a moment.
    async fn pause(&self, left: Duration) {
        let mut leaders = self.leaders.clone();
        leaders.mark_unchanged();
        tokio::select! { _ = leaders.changed() => {}, () = sleep(TRY_PAUSE.min(left)) => {} }
    }
}

impl SchemaRegistry {
    /// The registry of this broker; nothing is read or written before the first request. `handle` is the side
    /// runtime's.
    #[must_use]
    pub fn new(
        meshes: RegistryMeshes,
        images: watch::Receiver<Arc<ClusterImage>>,
        leaders: watch::Receiver<Arc<Leaders>>,
        handle: Handle,
    ) -> Self {
        let shared = Shared {
            meshes,
            images,
            leaders,
            handle,
            copy: RwLock::default(),
            reading: Mutex::default(),
            writer: Mutex::default(),
            counts: RegistryCounts::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What was asked so far, for metrics.
    #[must_use]
    pub fn counts(&self) -> &RegistryCounts {
        &self.shared.counts
    }

    /// Subjects, and schema versions in them, as this broker's copy has them.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        self.shared.copy().state.sizes()
    }

    /// Answers from the state, which holds every change that was answered before the query came.
    ///
    /// # Errors
    /// The state's refusal. [`SchemaError::NoLeader`] if the leader of `_schemas` cannot be asked and the answer is not
    /// known here.
    pub async fn query(&self, query: Query) -> Result<Answer, SchemaError> {
        if query.is_of_what_never_changes() && self.is_of_topic() {
            // An unknown id is asked of the leader before it is denied.
            if let Ok(answer) = self.answer(query.clone()).await {
                return Ok(answer);
            }
        }
        let Err(error) = self.current().await else { return self.answer(query).await };
        if !(self.is_of_topic() && self.shared.copy().was_whole) {
            return Err(error);
        }
        self.answer(query).await.map_err(|_| error)
    }

    /// A schema with all that it refers to; `None`: it is not registered, as the leader of `_schemas` knows.
    ///
    /// # Errors
    /// It is not known here and the leader cannot be asked, or the newest of a subject is asked for.
    pub async fn whole(&self, wanted: Wanted) -> Result<Option<WholeSchema>, SchemaError> {
        let whole = |wanted: &Wanted| self.shared.copy().state.whole(wanted);
        if !matches!(wanted, Wanted::Latest(_))
            && self.is_of_topic()
            && let Some(found) = whole(&wanted)
        {
            return Ok(Some(found));
        }
        self.current().await?;
        Ok(whole(&wanted))
    }

    /// Carries out a change, on the broker that leads `_schemas`; answers when it is durable and applied, and a
    /// registration when it is archived. `request` is where the command came from.
    ///
    /// # Errors
    /// It is refused, or it is not known whether it was written.
    pub async fn command(&self, command: Command, request: &Request<'_>) -> Result<Reply, SchemaError> {
        let this = self.clone();
        let request = RequestParts::of(request);
        // A client that goes away must not leave a command half-way.
        let done = self.shared.handle.spawn(async move { this.carry_out(command, request).await });
        done.await.map_err(|error| SchemaError::Store(format!("the command has ended without an answer: {error}")))?
    }

    async fn carry_out(&self, command: Command, request: RequestParts) -> Result<Reply, SchemaError> {
        let deadline = Instant::now() + COMMAND_PATIENCE;
        let repeatable = command.is_repeatable();
        loop {
            let address = match self.address() {
                Some(address) => address,
                None => self.make_topic().await?,
            };
            let tried = match self.shared.leader(address) {
                None => Tried::NotLeader,
                Some(leader) if leader.node == self.shared.here() => self.lead(address, command.clone()).await?,
                Some(leader) => self.forward(leader.node, address, &request).await?,
            };
            let error = match tried {
                Tried::Done(reply) => return Ok(reply),
                Tried::NotLeader => SchemaError::NoLeader,
                Tried::Unknown(error) if repeatable => error,
                Tried::Unknown(error) => return Err(error),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            self.shared.pause(left).await;
        }
    }

    /// Brings the copy to where the leader is now.
    ///
    /// # Errors
    /// There is no leader, or it does not answer in time.
    async fn current(&self) -> Result<(), SchemaError> {
        let deadline = Instant::now() + QUERY_PATIENCE;
        let Some(address) = self.address_for_certain().await? else {
            self.shared.copy_mut().be_of(None);
            return Ok(());
        };
        loop {
            let left = || deadline.saturating_duration_since(Instant::now());
            let tried = match self.shared.leader(address) {
                None => Tried::NotLeader,
                Some(leader) if leader.node == self.shared.here() => self.read_leading(address).await?,
                Some(leader) => match self.ask_end(leader.node, address, left()).await? {
                    Tried::Done(end) => {
                        self.read_to(address, end, deadline).await?;
                        Tried::Done(end)
                    }
                    other => other,
                },
            };
            match tried {
                Tried::Done(_) => {
                    self.shared.copy_mut().was_whole = true;
                    return Ok(());
                }
                Tried::NotLeader | Tried::Unknown(_) if left().is_zero() => return Err(SchemaError::NoLeader),
                Tried::NotLeader | Tried::Unknown(_) => self.shared.pause(left()).await,
            }
        }
    }

    async fn answer(&self, query: Query) -> Result<Answer, SchemaError> {
        let shared = Arc::clone(&self.shared);
        // Reading and comparing schemas takes a processor for as long as they are large.
        let answered = self.shared.handle.spawn_blocking(move || shared.copy().state.answer(&query)).await;
        answered.map_err(|error| SchemaError::Store(error.to_string()))?
    }

    /// Is the copy of the topic that there is now?
    fn is_of_topic(&self) -> bool {
        self.shared.copy().of.is_some() && self.shared.copy().of == self.address().map(|address| address.id)
    }

    /// Answers a request of another broker's registry.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn serve_peer(&self, body: Bytes) -> Result<Bytes, String> {
        let ask = forward::PeerAsk::decode(&body).map_err(|error| error.to_string())?;
        let this = self.clone();
        let answered = self.shared.handle.spawn(async move { this.answer_peer(ask).await });
        answered.await.map(|answer| answer.encode()).map_err(|error| error.to_string())
    }

    /// The end of the copy.
    fn end(&self) -> Offset {
        self.shared.copy().end
    }
}
