//! The handshake between brokers: who is there, whether the two fit together, and a proof of the cluster secret. Pure.
//!
//! ```text
//! message  "TWRP" · kind u8 · length u16 · body
//! client → hello     what it is, a nonce
//! server → welcome   what it is, a nonce
//! client → proof     HMAC-SHA256 with the cluster secret over "client", both messages and the TLS session
//! server → accept    the same with "server"
//! either → refusal   words for the operator; then the connection is closed
//! server → not yet   the same, and the client tries again soon
//! ```
//!
//! The client proves first, so that a stranger learns nothing to try secrets on. Without a secret the key is empty:
//! both sides then only know that they saw the same messages. With TLS the proof covers a secret of the session, so
//! that it is of no use on another connection. Without TLS the frames after the handshake can be read and changed on
//! the way.
//!
//! Hello and welcome: oldest and newest protocol `u16`, nonce 16 bytes, sections (`storage::codec`): 1 birth id and
//! process number; 2 cluster id, node id and incarnation (absent before membership); 3 version; 4 finalized feature
//! level and the highest that the binary knows; 5 the node id that the client expects; 6 flags (1: has a secret);
//! 7 the shard of the connection. Sections 1 and 2 must be known.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::{NodeId, ReplicaIncarnation};
use uuid::Uuid;

use super::options::Secret;

pub const MAGIC: [u8; 4] = *b"TWRP";
/// Magic, kind, length.
pub const HEADER_LEN: usize = 7;
/// Bytes of a message's body.
pub const BODY_MAX: usize = 4 << 10;
/// The oldest and the newest protocol that this version speaks.
pub const PROTOCOLS: (u16, u16) = (1, 1);
/// The first byte of a TLS connection.
const TLS_FIRST: u8 = 0x16;
/// Bytes of [`Binding`] and of a proof.
pub const PROOF_LEN: usize = 32;
/// Words of a refusal are cut here.
const WORDS_MAX: usize = 2 << 10;

/// A value that only the two ends of a TLS session know; zeros without TLS.
pub type Binding = [u8; PROOF_LEN];

const WHAT: &str = "handshake of a broker";

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Proof = 3,
    Accept = 4,
    Refusal = 5,
    /// A refusal that ends by itself: the client tries again soon.
    NotYet = 6,
}

/// What one side says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest.
    pub protocols: (u16, u16),
    pub nonce: [u8; 16],
    /// Of the data directory.
    pub birth: Uuid,
    /// Drawn at the start of the process.
    pub run: u64,
    /// `None` before membership.
    pub member: Option<MemberOf>,
    pub version: String,
    /// Finalized in its cluster.
    pub feature: u16,
    /// The highest that its binary knows.
    pub feature_max: u16,
    /// The node that a client wants to reach, if it knows.
    pub expects: Option<NodeId>,
    pub has_secret: bool,
    /// The client's shard: the server puts the connection on the shard of the same number, which has the same lanes if
    /// both have as many shards.
    pub shard: u16,
}

/// A broker's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberOf {
    pub cluster: Uuid,
    pub node: NodeId,
    pub incarnation: ReplicaIncarnation,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// This side refuses; the words go to the other side.
    #[error("{0}")]
    Unfit(String),
    /// The other side refuses.
    #[error("{0}")]
    Refused(String),
    /// The server is not ready, this one or the other side.
    #[error("{0}")]
    NotYet(String),
    #[error(
        "the other side speaks TLS, this broker does not: give every broker --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca, or none"
    )]
    Tls,
    #[error("the other side sent bytes that are no handshake of a broker; is its address an --rpc-addr?")]
    Foreign,
    #[error(transparent)]
    Fields(#[from] CodecError),
    #[error("a message of kind {found} came where kind {expected} was expected")]
    Order { expected: u8, found: u8 },
}

/// Two brokers that fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The newest protocol that both speak.
    pub protocol: u16,
    pub peer: Hello,
}

/// A message as it is sent.
#[must_use]
pub fn message(kind: Kind, body: &[u8]) -> Bytes {
    assert!(body.len() <= BODY_MAX, "a handshake message of {} bytes", body.len());
    let mut out = Encoder::with_capacity(HEADER_LEN + body.len());
    out.raw(&MAGIC);
    out.u8(kind as u8);
    out.u16(body.len() as u16);
    out.raw(body);
    out.finish()
}

/// A refusal as it is sent.
#[must_use]
pub fn refusal(words: &str) -> Bytes {
    refusal_of(Kind::Refusal, words)
}

/// The message to the other side for this side's error; none for the other side's own.
#[must_use]
pub fn answer_to(error: &HandshakeError) -> Option<Bytes> {
    match error {
        HandshakeError::Refused(_) => None,
        HandshakeError::NotYet(words) => Some(refusal_of(Kind::NotYet, words)),
        error => Some(refusal(&error.to_string())),
    }
}

fn refusal_of(kind: Kind, words: &str) -> Bytes {
    let mut end = words.len().min(WORDS_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    message(kind, words.get(..end).unwrap_or_default().as_bytes())
}

/// Kind and length of the body, from a message's header.
///
/// # Errors
/// [`HandshakeError::Tls`], [`HandshakeError::Foreign`].
pub fn header(bytes: &[u8; HEADER_LEN]) -> Result<(u8, usize), HandshakeError> {
    let [first, _, _, _, kind, high, low] = *bytes;
    if bytes.first_chunk() != Some(&MAGIC) {
        return Err(if first == TLS_FIRST { HandshakeError::Tls } else { HandshakeError::Foreign });
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        len if len <= BODY_MAX => Ok((kind, len)),
        _ => Err(HandshakeError::Foreign),
    }
}

/// Is it the first byte of a TLS connection?
#[must_use]
pub const fn begins_tls(first: u8) -> bool {
    first == TLS_FIRST
}

/// The words of a refusal; `None` for another message.
#[must_use]
pub fn words_of(kind: u8, body: &[u8]) -> Option<String> {
    let words = || String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).collect();
    (kind == Kind::Refusal as u8 || kind == Kind::NotYet as u8).then(words)
}

fn expect(kind: u8, body: &[u8], expected: Kind) -> Result<(), HandshakeError> {
    if let Some(words) = words_of(kind, body) {
        let not_yet = kind == Kind::NotYet as u8;
        return Err(if not_yet { HandshakeError::NotYet(words) } else { HandshakeError::Refused(words) });
    }
    if kind == expected as u8 { Ok(()) } else { Err(HandshakeError::Order { expected: expected as u8, found: kind }) }
}

impl Hello {
    fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(160);
        out.u16(self.protocols.0);
        out.u16(self.protocols.1);
        out.raw(&self.nonce);
        out.section(1, true, |out| {
            out.raw(self.birth.as_bytes());
            out.u64(self.run);
        });
        if let Some(member) = &self.member {
            out.section(2, true, |out| {
                out.raw(member.cluster.as_bytes());
                out.i32(member.node.0);
                out.u32(member.incarnation.0);
            });
        }
        out.section(3, false, |out| out.text(&self.version));
        out.section(4, false, |out| {
            out.u16(self.feature);
            out.u16(self.feature_max);
        });
        if let Some(node) = self.expects {
            out.section(5, false, |out| out.i32(node.0));
        }
        out.section(6, false, |out| out.u8(u8::from(self.has_secret)));
        out.section(7, false, |out| out.u16(self.shard));
        out.finish()
    }

    /// Reads a hello or welcome. Protocols that do not overlap are [`HandshakeError::Unfit`] before the rest is read,
    /// which may mean something else then.
    fn decode(body: &[u8], mine: &Self) -> Result<(Self, u16), HandshakeError> {
        let mut from = Decoder::new(WHAT, body);
        let protocols = (from.u16()?, from.u16()?);
        if protocols.0 > protocols.1 {
            return Err(from.bad("protocol").into());
        }
        let protocol = protocols.1.min(mine.protocols.1);
        if protocol < protocols.0.max(mine.protocols.0) {
            let (age, way_out) = if protocols.1 < mine.protocols.0 {
                ("an older", "upgrade the other broker's binary first")
            } else {
                ("a newer", "upgrade this broker's binary first")
            };
            return Err(HandshakeError::Unfit(format!(
                "a broker of {age} version speaks protocols {} to {}, {} (version {}) speaks {} to {}: {way_out}",
                protocols.0,
                protocols.1,
                mine.name(),
                mine.version,
                mine.protocols.0,
                mine.protocols.1,
            )));
        }
        let nonce = from.array()?;
        let (mut birth, mut member, mut version) = (None, None, String::new());
        let (mut feature, mut feature_max, mut expects, mut flags, mut shard) = (0, 0, None, 0, 0);
        let mut sections = Sections::new(WHAT, from.rest());
        while let Some((tag, mut body)) = sections.next(&[1, 2, 3, 4, 5, 6, 7])? {
            match tag {
                1 => birth = Some((Uuid::from_bytes(body.array()?), body.u64()?)),
                2 => {
                    let cluster = Uuid::from_bytes(body.array()?);
                    let node = body.i32()?;
                    if node < 0 {
                        return Err(body.bad("node id").into());
                    }
                    let incarnation = ReplicaIncarnation(body.u32()?);
                    member = Some(MemberOf { cluster, node: NodeId(node), incarnation });
                }
                3 => version = body.text()?.chars().filter(|c| !c.is_control()).take(64).collect(),
                4 => (feature, feature_max) = (body.u16()?, body.u16()?),
                5 => expects = Some(NodeId(body.i32()?)),
                6 => flags = body.u8()?,
                _ => shard = body.u16()?,
            }
        }
        let (birth, run) = sections.required(1, birth)?;
        let has_secret = flags & 1 == 1;
        let hello =
            Self { protocols, nonce, birth, run, member, version, feature, feature_max, expects, has_secret, shard };
        Ok((hello, protocol))
    }

    /// How messages for operators name the broker.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.member {
            Some(member) => format!("broker {}", member.node),
            None => "a broker without a cluster".to_owned(),
        }
    }

    /// Whether the two may talk, apart from the secret's proof. Both sides ask; `theirs` is the client's or the
    /// server's.
    fn fits(&self, theirs: &Self) -> Result<(), String> {
        let (me, other) = (self.name(), theirs.name());
        if let (Some(mine), Some(of_them)) = (&self.member, &theirs.member) {
            if mine.cluster != of_them.cluster {
                return Err(format!(
                    "{other} belongs to cluster {}, {me} to cluster {}: check the --seed lists; a broker that is to \
                     change its cluster starts with an empty data directory",
                    of_them.cluster, mine.cluster
                ));
            }
            if mine.node == of_them.node && self.birth != theirs.birth {
                return Err(format!(
                    "two data directories claim to be {me} (birth ids {} and {}): stop the one that does not belong \
                     there; an empty one takes its place with --replace {}",
                    self.birth, theirs.birth, mine.node
                ));
            }
        }
        if theirs.feature > self.feature_max {
            return Err(format!(
                "the cluster of {other} has feature level {}, the binary of {me} (version {}) knows up to {}: start a \
                 newer binary",
                theirs.feature, self.version, self.feature_max
            ));
        }
        if self.feature > theirs.feature_max {
            return Err(format!(
                "the cluster of {me} has feature level {}, the binary of {other} (version {}) knows up to {}: start a \
                 newer binary",
                self.feature, theirs.version, theirs.feature_max
            ));
        }
        match (self.has_secret, theirs.has_secret) {
            (true, false) => Err(format!("{me} has a cluster secret, {other} has none: {SAME_SECRET}")),
            (false, true) => Err(format!("{other} has a cluster secret, {me} has none: {SAME_SECRET}")),
            _ => Ok(()),
        }
    }
}

const SAME_SECRET: &str = "give every broker the same file as --cluster-secret-file";

/// The proof of one side.
fn proof(secret: Option<&Secret>, side: &str, hello: &[u8], welcome: &[u8], binding: &Binding) -> [u8; PROOF_LEN] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.map_or(&[], Secret::bytes));
    let mut context = hmac::Context::with_key(&key);
    context.update(side.as_bytes());
    for part in [hello, welcome] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.update(binding);
    let tag = context.sign();
    let mut out = [0; PROOF_LEN];
    out.copy_from_slice(tag.as_ref());
    out
}

fn verify(expected: &[u8; PROOF_LEN], body: &[u8]) -> Result<(), HandshakeError> {
    verify_slices_are_equal(expected, body)
        .map_err(|_| HandshakeError::Unfit(format!("the cluster secrets of the two brokers differ: {SAME_SECRET}")))
}

/// The side that connects.
#[derive(Debug)]
pub struct Client {
    mine: Hello,
    hello: Bytes,
    secret: Option<Secret>,
    binding: Binding,
}

/// The client's side after its proof.
#[derive(Debug)]
pub struct ClientProved {
    expected: [u8; PROOF_LEN],
    established: Established,
}

impl Client {
    /// With the message to be sent first.
    #[must_use]
    pub fn start(mine: Hello, secret: Option<Secret>, binding: Binding) -> (Self, Bytes) {
        let hello = mine.encode();
        let first = message(Kind::Hello, &hello);
        (Self { mine, hello, secret, binding }, first)
    }

    /// Takes the welcome; returns the message to be sent next.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn welcome(self, kind: u8, body: &[u8]) -> Result<(ClientProved, Bytes), HandshakeError> {
        expect(kind, body, Kind::Welcome)?;
        let (peer, protocol) = Hello::decode(body, &self.mine)?;
        self.mine.fits(&peer).map_err(HandshakeError::Unfit)?;
        let found = peer.member.map(|member| member.node);
        if let Some(expected) = self.mine.expects
            && found != Some(expected)
        {
            return Err(HandshakeError::Unfit(wrong_node(expected, &peer)));
        }
        let side = |side| proof(self.secret.as_ref(), side, &self.hello, body, &self.binding);
        let next = message(Kind::Proof, &side("client"));
        Ok((ClientProved { expected: side("server"), established: Established { protocol, peer } }, next))
    }
}

fn wrong_node(expected: NodeId, found: &Hello) -> String {
    format!(
        "broker {expected} was expected there, but {} answers: its address has changed, or two brokers advertise the \
         same one (--advertised-rpc-addr)",
        found.name()
    )
}

impl ClientProved {
    /// Takes the server's proof.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn accepted(self, kind: u8, body: &[u8]) -> Result<Established, HandshakeError> {
        expect(kind, body, Kind::Accept)?;
        verify(&self.expected, body)?;
        Ok(self.established)
    }
}

/// The side that accepts, after its welcome.
#[derive(Debug)]
pub struct Server {
    expected: [u8; PROOF_LEN],
    accept: Bytes,
    established: Established,
}

impl Server {
    /// Takes the hello; returns the welcome to be sent. `also` are checks of the caller on a hello that fits; its words
    /// refuse.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn hello(
        mine: &Hello,
        secret: Option<&Secret>,
        binding: &Binding,
        kind: u8,
        body: &[u8],
        also: impl FnOnce(&Hello) -> Result<(), String>,
    ) -> Result<(Self, Bytes), HandshakeError> {
        expect(kind, body, Kind::Hello)?;
        let (peer, protocol) = Hello::decode(body, mine)?;
        if let (None, Some(theirs)) = (&mine.member, &peer.member) {
            return Err(HandshakeError::NotYet(format!(
                "this broker is not a member of a cluster yet, and broker {} of cluster {} is; it is asked again",
                theirs.node, theirs.cluster
            )));
        }
        mine.fits(&peer).map_err(HandshakeError::Unfit)?;
        if let Some(expected) = peer.expects
            && mine.member.map(|member| member.node) != Some(expected)
        {
            return Err(HandshakeError::Unfit(wrong_node(expected, mine)));
        }
        also(&peer).map_err(HandshakeError::Unfit)?;
        let welcome = mine.encode();
        let side = |side| proof(secret, side, body, &welcome, binding);
        let accept = message(Kind::Accept, &side("server"));
        let next = message(Kind::Welcome, &welcome);
        Ok((Self { expected: side("client"), accept, established: Established { protocol, peer } }, next))
    }

    /// Takes the client's proof; returns the message that ends the handshake.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn proved(self, kind: u8, body: &[u8]) -> Result<(Established, Bytes), HandshakeError> {
        expect(kind, body, Kind::Proof)?;
        verify(&self.expected, body)?;
        Ok((self.established, self.accept))
    }
}

#[cfg(test)]
mod tests;
