//! Binding and accepting.
//!
//! The socket has address reuse but no port reuse, so that a second broker on the same port is refused and does not
//! take half of the connections, and a backlog for a thousand clients that reconnect at once. Accepted sockets inherit
//! the settings that close a connection to a peer whose network has vanished.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};

use glommio::net::{AcceptedTcpStream, TcpListener};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::stream::Stream;
use crate::limits::{KEEPALIVE, UNACKNOWLEDGED_MAX};

/// Connections queued for accept; the kernel limits it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}; {}", way_out(source, flag))]
pub struct BindError {
    /// The setting that names it.
    pub flag: &'static str,
    pub addr: SocketAddr,
    pub source: io::Error,
}

fn way_out(source: &io::Error, flag: &str) -> String {
    let why = match source.kind() {
        io::ErrorKind::AddrInUse => "another program has the port (`ss -ltnp` names it): stop it",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: use one of its own",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: use a higher one",
        _ => "free it",
    };
    format!("{why}, or choose another address with {flag}")
}

/// A bound and listening socket, not yet on a shard.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    addr: SocketAddr,
}

impl Bound {
    /// Binds and listens on what `flag` names. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(flag: &'static str, addr: SocketAddr) -> Result<Self, BindError> {
        Self::try_bind(addr).map_err(|source| BindError { flag, addr, source })
    }

    fn try_bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The kernel finds peers whose network has vanished.
        let (after, between, tries) = KEEPALIVE;
        let keepalive = TcpKeepalive::new().with_time(after).with_interval(between).with_retries(tries);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok(Self { socket, addr })
    }

    /// The bound address, with the port that the system chose for port 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The socket for the side runtime.
    #[must_use]
    pub fn into_std(self) -> std::net::TcpListener {
        self.socket.into()
    }

    /// Gives the socket to the calling shard's executor.
    #[must_use]
    pub fn into_listener(self) -> Listener {
        let fd = self.socket.into_raw_fd();
        // SAFETY: `fd` was just released by the `Socket` that owned it, so the listener is its only owner; it is bound
        // and listening, as the constructor demands.
        #[allow(unsafe_code)]
        let listener = unsafe { TcpListener::from_raw_fd(fd) };
        Listener { listener }
    }
}

/// A listening socket of one shard. Shard-local.
pub struct Listener {
    listener: TcpListener,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// The next connection, to be served by any shard.
    ///
    /// # Errors
    /// The system's error: the connection was reset before it was accepted, or no file handle is free.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let stream = self.listener.shared_accept().await.map_err(io::Error::from)?;
        Ok(Accepted { stream })
    }
}

/// An accepted connection on its way to its shard. A message.
#[derive(Debug)]
pub struct Accepted {
    stream: AcceptedTcpStream,
}

impl Accepted {
    /// Binds it to the calling shard.
    ///
    /// # Errors
    /// The peer has already closed it.
    pub fn into_stream(self) -> io::Result<Stream> {
        Stream::new(self.stream.bind_to_executor())
    }
}
