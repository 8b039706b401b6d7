//! Names to addresses. The system's resolver blocks, for seconds if a name server is away, and the executor's helper
//! thread has files to open: so a name takes a thread of its own, a few at most.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::channel::oneshot;

use super::limits::RESOLVERS_MAX;

static BUSY: AtomicUsize = AtomicUsize::new(0);

struct Seat;

impl Drop for Seat {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The addresses of a host, in the system's order. The caller bounds the time.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let seat = Seat;
    if BUSY.fetch_add(1, Ordering::Relaxed) >= RESOLVERS_MAX {
        return Err(io::Error::other("the name server does not answer"));
    }
    let (sender, receiver) = oneshot::channel();
    let host = host.to_owned();
    std::thread::Builder::new().name("resolve".into()).spawn(move || {
        let _seat = seat;
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let _ = sender.send(found);
    })?;
    match receiver.await {
        Ok(Ok(found)) if found.is_empty() => Err(io::Error::other("the name has no address")),
        Ok(found) => found,
        Err(oneshot::Canceled) => Err(io::Error::other("the resolver ended")),
    }
}
