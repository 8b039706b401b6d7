//! The connections of a shard: takes them in, watches over silent ones, lets them finish at stop. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::Env;
use tracing::{debug, info, warn};

use super::budget::Budget;
use super::connection::{CloseReason, Connection, Handle, Kill};
use super::dispatch::Dispatch;
use super::limits::{REAP_INTERVAL, REQUEST_BYTES_SHARD_MAX, STALL_MAX, STOP_GRACE};
use super::metrics::add;
use super::{Arrival, Broker};
use crate::net::listen::Listener;
use crate::net::placement::Placement;
use crate::shard::mesh::{Inbox, Mesh};

/// How long accepting pauses when the system refuses (no file handles left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a stop looks whether connections have finished.
const STOP_POLL: Duration = Duration::from_millis(5);

/// The Kafka server of one shard. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Rc<ServerState>,
}

struct ServerState {
    broker: Rc<Broker>,
    service: Rc<Dispatch>,
    budget: Budget,
    open: RefCell<BTreeMap<u64, Rc<Handle>>>,
    next_id: Cell<u64>,
    reaping: Cell<bool>,
    stopping: Cell<bool>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({} connections)", self.inner.open.borrow().len())
    }
}

/// Serves, on this shard, the connections that arrive in `inbox`.
pub fn serve(broker: Rc<Broker>, inbox: Inbox<Arrival>) -> Server {
    let budget = Budget::new(REQUEST_BYTES_SHARD_MAX);
    let server = Server {
        inner: Rc::new(ServerState {
            service: Rc::new(Dispatch::new(Rc::clone(&broker), budget.clone())),
            broker: Rc::clone(&broker),
            budget,
            open: RefCell::default(),
            next_id: Cell::new(0),
            reaping: Cell::new(false),
            stopping: Cell::new(false),
        }),
    };
    let here = server.clone();
    drop(broker.env.tasks.spawn("kafka connections", async move {
        while let Some(arrival) = inbox.recv().await {
            here.take_in(arrival);
        }
    }));
    server
}

/// Accepts on the calling shard and hands each connection to the shard with the fewest. Runs until the task is
/// cancelled or every shard has stopped.
pub async fn accept(env: Env, listener: Listener, mesh: Mesh<Arrival>, placement: Placement, max: usize) {
    let mut told_full = false;
    loop {
        let accepted = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept connections; raise the limit of open files (ulimit -n) if it says so");
                env.tasks.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((shard, seat)) = placement.seat(max) else {
            if !std::mem::replace(&mut told_full, true) {
                warn!(max, "too many connections; new ones are closed until others go (--max-connections)");
            }
            drop(accepted.into_stream());
            continue;
        };
        told_full = false;
        if mesh.send(shard, Arrival { accepted, seat }).await.is_err() {
            info!("shards have stopped; no longer accepting");
            return;
        }
    }
}

impl Server {
    /// Connections open on this shard.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.open.borrow().len()
    }

    /// Memory taken for requests and responses on this shard, and the most it may be, in bytes.
    #[must_use]
    pub fn request_memory(&self) -> (usize, usize) {
        (self.inner.budget.used(), REQUEST_BYTES_SHARD_MAX)
    }

    /// Takes no more connections, lets the open ones answer what they have begun, and closes them; after
    /// [`STOP_GRACE`] it closes them as they are.
    pub async fn stop(&self) {
        self.inner.stopping.set(true);
        for handle in self.handles() {
            handle.stop();
        }
        let env = &self.inner.broker.env;
        let start = env.clock.now();
        while self.connections() > 0 && env.clock.now().since(start) < STOP_GRACE {
            env.tasks.sleep(STOP_POLL).await;
        }
        for handle in self.handles() {
            handle.kill(Kill::Stopping);
        }
        env.tasks.yield_now().await;
    }

    fn handles(&self) -> Vec<Rc<Handle>> {
        self.inner.open.borrow().values().cloned().collect()
    }

    fn take_in(&self, arrival: Arrival) {
        let Arrival { accepted, mut seat } = arrival;
        let stream = match accepted.into_stream() {
            Ok(stream) if !self.inner.stopping.get() => stream,
            Ok(_) => return,
            Err(error) => {
                debug!(%error, "connection was gone before it was served");
                return;
            }
        };
        if !seat.claim(stream.peer().ip(), self.inner.broker.config.max_connections_per_ip) {
            self.count(|m| m.closed(&CloseReason::TooMany));
            let (peer, max) = (stream.peer(), self.inner.broker.config.max_connections_per_ip);
            debug!(%peer, max, "connection closed: its address has too many (--max-connections-per-ip)");
            return;
        }
        let (id, peer) = (self.inner.next_id.replace(self.inner.next_id.get() + 1), stream.peer());
        let handle = Handle::new(self.inner.broker.env.clock.now());
        self.inner.open.borrow_mut().insert(id, Rc::clone(&handle));
        self.count(|m| add(&m.connections_opened, 1));
        let connection = Connection::new(stream, Rc::clone(&self.inner.service), &self.inner.budget, handle);
        let server = self.clone();
        drop(self.inner.broker.env.tasks.spawn("kafka connection", async move {
            let reason = connection.run().await;
            drop(seat);
            server.inner.open.borrow_mut().remove(&id);
            server.report(peer, &reason);
        }));
        self.reap();
    }

    fn count(&self, act: impl FnOnce(&super::metrics::KafkaMetrics)) {
        let metrics = &self.inner.broker.metrics;
        act(metrics);
        metrics.connections_open.set(self.connections() as u64);
    }

    fn report(&self, peer: std::net::SocketAddr, reason: &CloseReason) {
        self.count(|m| m.closed(reason));
        match reason {
            CloseReason::Internal(_) => warn!(%peer, %reason, "connection closed"),
            CloseReason::Frame(_) | CloseReason::Malformed { .. } | CloseReason::Unsupported { .. } => {
                info!(%peer, %reason, "connection closed");
            }
            _ => debug!(%peer, %reason, "connection closed"),
        }
    }

    /// Looks for silent connections from time to time, while there are any: an idle shard has no timer here.
    fn reap(&self) {
        if self.inner.reaping.replace(true) {
            return;
        }
        let server = self.clone();
        let tasks = self.inner.broker.env.tasks.clone();
        let idle_max = Duration::from_millis(self.inner.broker.config.connections_max_idle_ms);
        drop(self.inner.broker.env.tasks.spawn("kafka idle connections", async move {
            while server.connections() > 0 {
                tasks.sleep(REAP_INTERVAL.min(idle_max / 4)).await;
                let now = server.inner.broker.env.clock.now();
                for handle in server.handles() {
                    let let_past = handle.let_past.get().map(|since| now.since(since));
                    let silent = now.since(handle.active.get()).max(let_past.unwrap_or_default());
                    if let Some(why) = verdict(silent, idle_max, handle.working.get(), handle.half_way.get()) {
                        handle.kill(why);
                    }
                }
            }
            server.inner.reaping.set(false);
        }));
    }
}

/// Shall a connection be closed that has been silent for so long?
fn verdict(silent: Duration, idle_max: Duration, working: bool, half_way: bool) -> Option<Kill> {
    match (working, half_way) {
        // A group join or a long poll is silent by nature and has its own end.
        (true, false) => None,
        (_, true) if silent > STALL_MAX => Some(Kill::Stalled),
        (false, false) if silent > idle_max => Some(Kill::Idle),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_silent_are_closed() {
        let (minute, hour) = (Duration::from_secs(59), Duration::from_secs(3600));
        let verdict = |silent, working, half_way| verdict(silent, minute * 10, working, half_way);
        assert!(verdict(minute, false, true).is_none());
        assert!(matches!(verdict(hour, false, true), Some(Kill::Stalled)));
        assert!(matches!(verdict(hour, true, true), Some(Kill::Stalled)));
        assert!(verdict(minute * 9, false, false).is_none());
        assert!(matches!(verdict(hour, false, false), Some(Kill::Idle)));
        assert!(verdict(hour, true, false).is_none());
    }
}
