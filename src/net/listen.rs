//! Binding, listening and accepting.
//!
//! A port is claimed early ([`Bound`]) and listens late ([`Listening`]), once its connections are served. Between the
//! two the kernel refuses clients, and they try another broker or this one again; a socket that listens would take
//! their connections into its backlog, where they wait for an answer until their own request timeout.
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

/// A claimed address: other programs cannot bind it, and connections to it are refused.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    addr: SocketAddr,
    flag: &'static str,
}

impl Bound {
    /// Claims what `flag` names. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(flag: &'static str, addr: SocketAddr) -> Result<Self, BindError> {
        let bound = Self::try_bind(addr).map_err(|source| BindError { flag, addr, source })?;
        let (socket, addr) = bound;
        Ok(Self { socket, addr, flag })
    }

    fn try_bind(addr: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
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
        // Two sockets that both reuse the address may be bound to it while neither listens.
        socket.set_reuse_address(false)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok((socket, addr))
    }

    /// The bound address, with the port that the system chose for port 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes connections from now on. What accepts them must be ready.
    ///
    /// # Errors
    /// [`BindError`]: another program listens there, on a kernel that let it bind the claimed address.
    pub fn listen(self) -> Result<Listening, BindError> {
        let Self { socket, addr, flag } = self;
        // The kernel looks for conflicts again, and old connections on the port are none.
        let listening = socket.set_reuse_address(true).and_then(|()| socket.listen(BACKLOG));
        match listening {
            Ok(()) => Ok(Listening { socket, addr }),
            Err(source) => Err(BindError { flag, addr, source }),
        }
    }
}

/// A bound and listening socket, not yet on a shard.
#[derive(Debug)]
pub struct Listening {
    socket: Socket,
    addr: SocketAddr,
}

impl Listening {
    /// The bound address.
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

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any() -> Bound {
        Bound::bind("--kafka-addr", "127.0.0.1:0".parse().expect("an address")).expect("binds")
    }

    #[test]
    fn a_claimed_port_refuses_clients_until_it_listens() {
        let bound = any();
        let addr = bound.addr();
        let refused = TcpStream::connect(addr).expect_err("nothing listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{refused}");
        let listening = bound.listen().expect("the port is claimed");
        assert_eq!(listening.addr(), addr);
        TcpStream::connect(addr).expect("the backlog takes it");
    }

    #[test]
    fn of_two_that_want_a_port_one_is_refused_in_words() {
        let first = any();
        let addr = first.addr();
        let second = Bound::bind("--rpc-addr", addr).and_then(|second| {
            let listening = first.listen().expect("the first has it");
            let refused = second.listen();
            drop(listening);
            refused
        });
        let words = second.expect_err("the port is claimed").to_string();
        assert!(words.contains(&addr.to_string()) && words.contains("--rpc-addr"), "{words}");
    }

    #[test]
    fn a_port_with_old_connections_is_claimed_again() {
        let listening = any().listen().expect("listens");
        let addr = listening.addr();
        let mut client = TcpStream::connect(addr).expect("connects");
        let (accepted, _) = listening.into_std().accept().expect("accepts");
        // The side that closes first keeps the address for a minute.
        drop(accepted);
        assert_eq!(io::Read::read(&mut client, &mut [0]).expect("closed"), 0);
        drop(client);
        Bound::bind("--kafka-addr", addr).and_then(Bound::listen).expect("old connections do not count");
    }
}
