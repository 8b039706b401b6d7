//! The bytes of one connection, plain or through TLS, for a task that reads and one that writes. Shard-local.
//!
//! rustls has no sockets: ciphertext is moved between it and the glommio stream here. Only the writing task sends once
//! the handshake is over, since a socket keeps the waker of one task for each direction; what the session itself has to
//! send is left to it ([`Wire::wants_flush`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::frame::{FrameBuffer, Wanted};
use super::handshake::{self, Binding, HEADER_LEN, HandshakeError};
use super::options::Tls;
use crate::net::stream::Stream;

/// Bytes read at once while no large frame is being received.
const GATHER_MAX: usize = 16 << 10;
/// Ciphertext read at once.
const CIPHERTEXT_MAX: usize = 32 << 10;

#[derive(Debug)]
pub(super) struct Wire {
    bytes: RefCell<WireBytes>,
}

#[derive(Debug)]
enum WireBytes {
    Plain(Stream),
    Tls(Box<TlsWire>),
}

#[derive(Debug)]
struct TlsWire {
    stream: Stream,
    state: TlsState,
}

#[derive(Debug)]
struct TlsState {
    session: Connection,
    /// Ciphertext that was read and is not taken by the session: `at..end` of it.
    ciphertext: Box<[u8]>,
    at: usize,
    end: usize,
    begun: bool,
}

/// A connection on its way to another shard. A message.
#[derive(Debug)]
pub(super) struct WireParts {
    socket: OwnedFd,
    tls: Option<Box<TlsState>>,
}

/// Why a connection is of no use before its handshake.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// The other side does not speak TLS. If it refuses, its words.
    #[error(
        "the other side does not speak TLS: give every broker --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca, or none{}", says(.0)
    )]
    Plain(Option<String>),
    #[error("TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

fn says(words: &Option<String>) -> String {
    words.as_ref().map_or_else(String::new, |words| format!(" (it says: {words})"))
}

/// Carries the words of [`WireError::Plain`] through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("the other side does not speak TLS")]
struct NotTls(Option<String>);

impl From<NotTls> for io::Error {
    fn from(error: NotTls) -> Self {
        Self::other(error)
    }
}

fn of_tls(error: io::Error) -> WireError {
    match error.downcast::<NotTls>() {
        Ok(NotTls(words)) => WireError::Plain(words),
        Err(error) => match error.downcast::<rustls::Error>() {
            Ok(error) => WireError::Tls(explained(&error)),
            Err(error) => WireError::Broken(error),
        },
    }
}

/// A TLS error with what to do about it.
fn explained(error: &rustls::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    let way_out = match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; make the certificate with the host of --advertised-rpc-addr as subject alternative name",
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; the certificates of all brokers must be signed by an authority in --rpc-tls-ca"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::CertificateRequired | AlertDescription::BadCertificate,
        ) => {
            "; the other broker does not accept this one's --rpc-tls-cert: sign it by an authority in its --rpc-tls-ca"
        }
        _ => "",
    };
    format!("{error}{way_out}")
}

impl Wire {
    /// The side that connected. With TLS, `host` is the name in the other side's certificate.
    pub(super) async fn client(stream: Stream, tls: Option<&Tls>, host: &str) -> Result<Self, WireError> {
        let Some(tls) = tls else { return Ok(Self::plain(stream)) };
        let bad = |error: &dyn std::fmt::Display| WireError::Tls(error.to_string());
        let name = ServerName::try_from(host.to_owned()).map_err(|error| bad(&error))?;
        let session = ClientConnection::new(std::sync::Arc::clone(&tls.client), name).map_err(|error| bad(&error))?;
        Self::tls(stream, session.into()).await
    }

    /// The side that accepted.
    pub(super) async fn server(stream: Stream, tls: Option<&Tls>) -> Result<Self, WireError> {
        let Some(tls) = tls else { return Ok(Self::plain(stream)) };
        let session = ServerConnection::new(std::sync::Arc::clone(&tls.server))
            .map_err(|error| WireError::Tls(error.to_string()))?;
        Self::tls(stream, session.into()).await
    }

    fn plain(stream: Stream) -> Self {
        Self { bytes: RefCell::new(WireBytes::Plain(stream)) }
    }

    async fn tls(stream: Stream, session: Connection) -> Result<Self, WireError> {
        let ciphertext = vec![0; CIPHERTEXT_MAX].into_boxed_slice();
        let mut tls = TlsWire { stream, state: TlsState { session, ciphertext, at: 0, end: 0, begun: false } };
        match poll_fn(|cx| tls.poll_handshake(cx)).await {
            Ok(()) => Ok(Self { bytes: RefCell::new(WireBytes::Tls(Box::new(tls))) }),
            Err(error) => {
                let error = of_tls(error);
                // The other side learns why: in TLS's own words, or in ours if it does not speak TLS.
                if matches!(error, WireError::Plain(None)) {
                    let words = handshake::refusal("this broker speaks TLS (--rpc-tls-cert), the other side does not");
                    let _ = poll_fn(|cx| tls.stream.poll_write(cx, &[IoSlice::new(&words)])).await;
                } else {
                    let _ = poll_fn(|cx| tls.poll_flush(cx)).await;
                }
                tls.stream.shutdown();
                Err(error)
            }
        }
    }

    /// Takes the connection off this shard. No task may wait on it.
    pub(super) fn into_parts(self) -> io::Result<WireParts> {
        match self.bytes.into_inner() {
            WireBytes::Plain(stream) => Ok(WireParts { socket: stream.into_fd()?, tls: None }),
            WireBytes::Tls(tls) => Ok(WireParts { socket: tls.stream.into_fd()?, tls: Some(Box::new(tls.state)) }),
        }
    }

    /// Continues on the calling shard.
    pub(super) fn from_parts(parts: WireParts) -> io::Result<Self> {
        let stream = Stream::from_fd(parts.socket)?;
        let bytes = match parts.tls {
            None => WireBytes::Plain(stream),
            Some(state) => WireBytes::Tls(Box::new(TlsWire { stream, state: *state })),
        };
        Ok(Self { bytes: RefCell::new(bytes) })
    }

    /// What only the two ends of the TLS session know; zeros without TLS.
    pub(super) fn binding(&self) -> Result<Binding, WireError> {
        match &*self.bytes.borrow() {
            WireBytes::Plain(_) => Ok(Binding::default()),
            WireBytes::Tls(tls) => {
                let binding = Binding::default();
                let exported = match &tls.state.session {
                    Connection::Client(session) => session.export_keying_material(binding, b"EXPORTER-tidewater", None),
                    Connection::Server(session) => session.export_keying_material(binding, b"EXPORTER-tidewater", None),
                };
                exported.map_err(|error| WireError::Tls(error.to_string()))
            }
        }
    }

    /// Ends both directions; tasks that wait for either are woken.
    pub(super) fn close(&self) {
        match &*self.bytes.borrow() {
            WireBytes::Plain(stream) => stream.close(),
            WireBytes::Tls(tls) => tls.stream.close(),
        }
    }

    /// Reads available bytes, or waits for some. 0 is the end.
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut *self.bytes.borrow_mut() {
            WireBytes::Plain(stream) => stream.poll_read(cx, into),
            WireBytes::Tls(tls) => tls.poll_read(cx, into),
        }
    }

    /// Appends available bytes, or waits for some. 0 is the end.
    fn poll_append(&self, cx: &mut Context<'_>, into: &mut BytesMut, max: usize) -> Poll<io::Result<usize>> {
        match &mut *self.bytes.borrow_mut() {
            WireBytes::Plain(stream) => stream.poll_append(cx, into, max),
            WireBytes::Tls(tls) => {
                let before = into.len();
                into.resize(before + max.min(CIPHERTEXT_MAX), 0);
                let came = tls.poll_read(cx, into.get_mut(before..).unwrap_or_default());
                into.truncate(before + if let Poll::Ready(Ok(n)) = &came { *n } else { 0 });
                came
            }
        }
    }

    /// Receives bytes for `frames`, which has no whole frame. 0 is the end.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, frames: &mut FrameBuffer) -> Poll<io::Result<usize>> {
        match frames.wanted() {
            Wanted::Large(max) => self.poll_append(cx, frames.large(), max),
            Wanted::Gather => {
                let mut scratch = [0; GATHER_MAX];
                let n = ready!(self.poll_read(cx, &mut scratch))?;
                frames.gather(scratch.get(..n).unwrap_or_default());
                Poll::Ready(Ok(n))
            }
        }
    }

    /// Writes a prefix of `pieces`; returns the bytes taken.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut *self.bytes.borrow_mut() {
            WireBytes::Plain(stream) => stream.poll_write(cx, pieces),
            WireBytes::Tls(tls) => {
                ready!(tls.poll_flush(cx))?;
                let n = tls.state.session.writer().write_vectored(pieces)?;
                // What the socket does not take now is sent before the next write, or by a flush.
                if let Poll::Ready(Err(error)) = tls.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(n))
            }
        }
    }

    /// Sends what the TLS session holds.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.bytes.borrow_mut() {
            WireBytes::Plain(_) => Poll::Ready(Ok(())),
            WireBytes::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Does the TLS session hold bytes to be sent?
    pub(super) fn wants_flush(&self) -> bool {
        match &*self.bytes.borrow() {
            WireBytes::Plain(_) => false,
            WireBytes::Tls(tls) => tls.state.session.wants_write(),
        }
    }

    /// Sends a message of the handshake.
    pub(super) async fn send(&self, message: &Bytes) -> io::Result<()> {
        let mut left = message.clone();
        while !left.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(&left)])).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes::Buf::advance(&mut left, n);
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    async fn read_exact(&self, into: &mut [u8]) -> Result<(), WireError> {
        let mut have = 0;
        while have < into.len() {
            match poll_fn(|cx| self.poll_read(cx, into.get_mut(have..).unwrap_or_default())).await.map_err(of_tls)? {
                0 => {
                    let why = "it closed the connection during the handshake; is its address an --rpc-addr?";
                    return Err(WireError::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
                }
                n => have += n,
            }
        }
        Ok(())
    }

    /// Receives a message of the handshake: kind and body.
    pub(super) async fn receive(&self) -> Result<(u8, Vec<u8>), WireError> {
        let mut head = [0; HEADER_LEN];
        self.read_exact(&mut head).await?;
        let (kind, len) = handshake::header(&head)?;
        let mut body = vec![0; len];
        self.read_exact(&mut body).await?;
        Ok((kind, body))
    }
}

/// The socket as rustls wants it: it never waits.
struct Socket<'a, 'b> {
    stream: &'a mut Stream,
    cx: &'a mut Context<'b>,
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.stream.poll_write(self.cx, pieces) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsWire {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.state.session.wants_write() {
            match self.state.session.write_tls(&mut Socket { stream: &mut self.stream, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the session more ciphertext. 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.state.at == self.state.end {
            self.state.end = ready!(self.stream.poll_read(cx, &mut self.state.ciphertext))?;
            self.state.at = 0;
            if self.state.end == 0 {
                return Poll::Ready(Ok(0));
            }
            if !std::mem::replace(&mut self.state.begun, true) {
                self.check_first()?;
            }
        }
        let mut left = self.state.ciphertext.get(self.state.at..self.state.end).unwrap_or_default();
        let n = self.state.session.read_tls(&mut left)?;
        self.state.at += n;
        if let Err(error) = self.state.session.process_new_packets() {
            return Poll::Ready(Err(io::Error::other(error)));
        }
        Poll::Ready(Ok(n))
    }

    /// The first bytes of the other side: TLS, or a message of ours in plain.
    fn check_first(&self) -> io::Result<()> {
        let came = self.state.ciphertext.get(..self.state.end).unwrap_or_default();
        // A server may also begin with an alert (0x15).
        if came.first().is_some_and(|first| handshake::begins_tls(*first) || *first == 0x15) {
            return Ok(());
        }
        let words = came.first_chunk().and_then(|head| handshake::header(head).ok()).and_then(|(kind, len)| {
            let body = came.get(HEADER_LEN..HEADER_LEN + len)?;
            handshake::words_of(kind, body)
        });
        Err(NotTls(words).into())
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.state.session.is_handshaking() {
            ready!(self.poll_flush(cx))?;
            if !self.state.session.is_handshaking() {
                break;
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.state.session.reader().read(into) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                Err(error) => return Poll::Ready(Err(error)),
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }
}
