//! The socket of one connection on its shard, polled by the one task that owns the connection.
//!
//! One `sendmsg` writes a header and the stored batches behind it, where glommio's stream would need a `send` for each.
//! glommio only waits until the socket is ready.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

/// Pieces of one `sendmsg`, at most (Linux takes 1024).
const PIECES_MAX: usize = 64;

/// A connection. Shard-local; dropping it closes it.
pub struct Stream {
    socket: TcpStream,
    peer: SocketAddr,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.peer)
    }
}

impl Stream {
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        let peer = socket.peer_addr().map_err(io::Error::from)?;
        socket.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Self { socket, peer })
    }

    /// Connects, for tests and for the broker's own client.
    ///
    /// # Errors
    /// The address has no listener, or is not reachable.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(addr).await.map_err(io::Error::from)?)
    }

    /// As [`Stream::connect`], with a bound on the time.
    ///
    /// # Errors
    /// The address has no listener, is not reachable, or does not answer in time.
    pub async fn connect_within(addr: SocketAddr, time: Duration) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(addr, time).await.map_err(io::Error::from)?)
    }

    /// How soon the kernel gives up a connection whose other side is out of reach: sent bytes without acknowledgement
    /// (TCP_USER_TIMEOUT), and keepalive as in `limits`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn give_up_after(&self, unacknowledged: Duration, keepalive: (Duration, Duration, u32)) -> io::Result<()> {
        let (after, between, tries) = keepalive;
        let keepalive = TcpKeepalive::new().with_time(after).with_interval(between).with_retries(tries);
        self.with_raw(|raw| {
            raw.set_tcp_keepalive(&keepalive)?;
            raw.set_tcp_user_timeout(Some(unacknowledged))
        })
    }

    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn with_raw<T>(&self, act: impl FnOnce(&socket2::Socket) -> T) -> T {
        // SAFETY: the descriptor belongs to `self.socket`, which lives and stays open until this function returns.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        act(&SockRef::from(&fd))
    }

    /// Reads available bytes, or waits for some. 0 is the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }

    /// Appends available bytes, at most `max` and no more than the buffer has room for, or waits for some. 0 is the
    /// end.
    pub fn poll_append(&mut self, cx: &mut Context<'_>, into: &mut BytesMut, max: usize) -> Poll<io::Result<usize>> {
        let (len, spare) = (into.len(), into.spare_capacity_mut());
        let room = max.min(spare.len());
        let spare = spare.get_mut(..room).unwrap_or_default();
        match self.with_raw(|raw| raw.recv_with_flags(spare, libc::MSG_DONTWAIT)) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                let mut few = [0; 64];
                let few = few.get_mut(..room.min(64)).unwrap_or_default();
                let n = ready!(Pin::new(&mut self.socket).poll_read(cx, few))?;
                into.extend_from_slice(few.get(..n).unwrap_or_default());
                Poll::Ready(Ok(n))
            }
            Ok(n) => {
                // SAFETY: the kernel has just written the first `n` bytes of the spare room.
                #[allow(unsafe_code)]
                unsafe {
                    into.set_len(len + n);
                }
                Poll::Ready(Ok(n))
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Writes a prefix of `pieces`, or waits until the socket takes bytes; returns the bytes written.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let pieces = pieces.get(..PIECES_MAX).unwrap_or(pieces);
        if pieces.len() > 1 {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match self.with_raw(|raw| raw.send_vectored_with_flags(pieces, flags)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
        let Some(first) = pieces.iter().find(|p| !p.is_empty()) else { return Poll::Ready(Ok(0)) };
        let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, first));
        Poll::Ready(sent)
    }

    /// The connection, for another shard. What was received and not read stays in the socket.
    ///
    /// # Errors
    /// No file handle is free.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.with_raw(|raw| raw.as_fd().try_clone_to_owned())
    }

    /// Binds a connection of [`Stream::into_fd`] to the calling shard.
    ///
    /// # Errors
    /// The peer has already closed it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `fd` is given up by its only owner, and is a connected socket, as it came from a `Stream`.
        #[allow(unsafe_code)]
        let socket = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Self::new(socket)
    }

    /// Closes both directions; a task that waits for either is woken.
    pub fn close(&self) {
        let _ = self.with_raw(|raw| raw.shutdown(std::net::Shutdown::Both));
    }

    /// Closes the sending direction.
    pub fn shutdown(&self) {
        let _ = self.with_raw(|raw| raw.shutdown(std::net::Shutdown::Write));
    }
}
