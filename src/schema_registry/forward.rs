//! What the registries of two brokers say to each other: a broker that does not lead `_schemas` asks the one that does
//! for the end of the log, and hands it commands as their clients sent them.

use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{NodeId, Offset, PartitionId};

use super::peers::PeerCall;
use super::{SchemaRegistry, Tried};
use crate::controller::client::CONTROLLER_SHARD;
use crate::limits::SCHEMA_BODY_BYTES_MAX;
use crate::partition::message::PartitionAddress;
use crate::rpc::RpcError;
use crate::schema::SchemaError;
use crate::schema::http::RequestParts;
use crate::schema::http::reply::Reply;
use crate::schema::http::route::{Routed, route};

const WHAT: &str = "request of a schema registry";

/// How long the leader may take for a command: it plans, writes, and waits for the bucket.
const COMMAND_WITHIN: Duration = Duration::from_secs(12);
/// How long it may take to say where the log ends.
const END_WITHIN: Duration = Duration::from_secs(2);

/// To the leader of `_schemas`, of the incarnation that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerAsk {
    of: PartitionId,
    ask: Ask,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    /// The end of what is committed.
    End,
    Command(RequestParts),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerAnswer {
    End(Offset),
    Reply(Reply),
    /// Nothing was done.
    NotLeader,
    /// It is not known whether it was done; why.
    Unknown(String),
}

impl PeerAsk {
    fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        match &self.ask {
            Ask::End => {
                out.u8(1);
                out.partition(self.of);
            }
            Ask::Command(RequestParts { method, path, query, content_type, body }) => {
                out.u8(2);
                out.partition(self.of);
                [method, path, query].into_iter().for_each(|text| out.text(text));
                out.option(content_type.as_deref(), Encoder::text);
                out.blob(body);
            }
        }
        out.finish()
    }

    /// # Errors
    /// The bytes are no request, or its body is longer than a client's may be.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(WHAT, bytes);
        let kind = from.u8()?;
        let of = from.partition()?;
        let ask = match kind {
            1 => Ask::End,
            2 => {
                let (method, path, query) = (from.text()?, from.text()?, from.text()?);
                let content_type = from.option(Decoder::text)?;
                let body = from.blob()?;
                if body.len() > SCHEMA_BODY_BYTES_MAX {
                    return Err(from.bad("length of the body"));
                }
                let body = Bytes::copy_from_slice(body);
                Ask::Command(RequestParts { method, path, query, content_type, body })
            }
            _ => return Err(from.bad("kind of request")),
        };
        from.end()?;
        Ok(Self { of, ask })
    }
}

impl PeerAnswer {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        match self {
            Self::End(end) => {
                out.u8(1);
                out.offset(*end);
            }
            Self::Reply(Reply { status, body }) => {
                out.u8(2);
                out.u16(*status);
                out.blob(body.as_bytes());
            }
            Self::NotLeader => out.u8(3),
            Self::Unknown(why) => {
                out.u8(4);
                out.text(why);
            }
        }
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(WHAT, bytes);
        let answer = match from.u8()? {
            1 => Self::End(from.offset()?),
            2 => {
                let status = from.u16()?;
                if !(200..600).contains(&status) {
                    return Err(from.bad("status"));
                }
                let body = String::from_utf8(from.blob()?.to_vec()).map_err(|_| from.bad("body"))?;
                Self::Reply(Reply { status, body })
            }
            3 => Self::NotLeader,
            4 => Self::Unknown(from.text()?),
            _ => return Err(from.bad("kind of answer")),
        };
        from.end()?;
        Ok(answer)
    }
}

impl SchemaRegistry {
    /// The end of what is committed, as the leader knows it.
    ///
    /// # Errors
    /// It answered something else.
    pub(super) async fn ask_end(
        &self,
        leader: NodeId,
        address: PartitionAddress,
        left: Duration,
    ) -> Result<Tried<Offset>, SchemaError> {
        let ask = PeerAsk { of: address.id, ask: Ask::End };
        Ok(match self.call(leader, &ask, END_WITHIN.min(left)).await {
            Tried::Done(PeerAnswer::End(end)) => Tried::Done(end),
            Tried::Done(PeerAnswer::Reply(_)) => return Err(defect(leader)),
            Tried::Done(PeerAnswer::NotLeader | PeerAnswer::Unknown(_)) | Tried::NotLeader | Tried::Unknown(_) => {
                Tried::NotLeader
            }
        })
    }

    /// Has a command carried out by the leader.
    ///
    /// # Errors
    /// It answered something else.
    pub(super) async fn forward(
        &self,
        leader: NodeId,
        address: PartitionAddress,
        request: &RequestParts,
    ) -> Result<Tried<Reply>, SchemaError> {
        let ask = PeerAsk { of: address.id, ask: Ask::Command(request.clone()) };
        Ok(match self.call(leader, &ask, COMMAND_WITHIN).await {
            Tried::Done(PeerAnswer::Reply(reply)) => Tried::Done(reply),
            Tried::Done(PeerAnswer::End(_)) => return Err(defect(leader)),
            Tried::Done(PeerAnswer::NotLeader) | Tried::NotLeader => Tried::NotLeader,
            Tried::Done(PeerAnswer::Unknown(why)) => Tried::Unknown(SchemaError::Store(why)),
            Tried::Unknown(error) => Tried::Unknown(error),
        })
    }

    async fn call(&self, leader: NodeId, ask: &PeerAsk, within: Duration) -> Tried<PeerAnswer> {
        let make = |reply| PeerCall { to: leader, body: ask.encode(), within, reply };
        let answered = match self.shared.meshes.peers.call(CONTROLLER_SHARD, make).await {
            Ok(answered) => answered,
            Err(stopped) => return Tried::Unknown(SchemaError::Store(stopped.to_string())),
        };
        match answered.map(|body| PeerAnswer::decode(&body)) {
            Ok(Ok(answer)) => Tried::Done(answer),
            Ok(Err(error)) => {
                tracing::warn!(%error, %leader, "a schema registry's answer cannot be read; is the broker of another version?");
                Tried::Unknown(SchemaError::Forward(error.to_string()))
            }
            Err(error @ (RpcError::Lost { .. } | RpcError::TimedOut { .. })) => {
                Tried::Unknown(SchemaError::Forward(error.to_string()))
            }
            Err(error) => {
                tracing::debug!(%error, %leader, "the leader of _schemas cannot be asked");
                Tried::NotLeader
            }
        }
    }

    /// Answers another broker's registry, if this broker leads.
    pub(super) async fn answer_peer(&self, asked: PeerAsk) -> PeerAnswer {
        let Some(address) = self.address().filter(|address| address.id == asked.of) else {
            return PeerAnswer::NotLeader;
        };
        if self.shared.leading(address).is_none() {
            return PeerAnswer::NotLeader;
        }
        let done = match asked.ask {
            Ask::End => self.read_leading(address).await.map(|tried| match tried {
                Tried::Done(end) => Tried::Done(PeerAnswer::End(end)),
                Tried::NotLeader => Tried::NotLeader,
                Tried::Unknown(error) => Tried::Unknown(error),
            }),
            Ask::Command(request) => match route(&request.request()) {
                Ok(Routed::Command(command)) => self.lead(address, command).await.map(|tried| match tried {
                    Tried::Done(reply) => Tried::Done(PeerAnswer::Reply(reply)),
                    Tried::NotLeader => Tried::NotLeader,
                    Tried::Unknown(error) => Tried::Unknown(error),
                }),
                Ok(Routed::Root | Routed::Query(_)) => Err(SchemaError::BadRequest("no command".to_owned())),
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(Tried::Done(answer)) => answer,
            Ok(Tried::NotLeader) => PeerAnswer::NotLeader,
            Ok(Tried::Unknown(error)) => PeerAnswer::Unknown(error.to_string()),
            Err(error) => PeerAnswer::Reply(error.into()),
        }
    }
}

fn defect(leader: NodeId) -> SchemaError {
    SchemaError::Forward(format!("broker {leader} gave an answer of another kind"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_answers_come_back() {
        let parts = RequestParts {
            method: "POST".to_owned(),
            path: "/subjects/a%2Fb/versions".to_owned(),
            query: "normalize=true".to_owned(),
            content_type: Some("application/json".to_owned()),
            body: Bytes::from_static(b"{}"),
        };
        let bare = RequestParts { content_type: None, body: Bytes::new(), ..parts.clone() };
        for ask in [Ask::End, Ask::Command(parts), Ask::Command(bare)] {
            let ask = PeerAsk { of: PartitionId::default(), ask };
            assert_eq!(PeerAsk::decode(&ask.encode()), Ok(ask));
        }
        for answer in [
            PeerAnswer::End(Offset::new(7)),
            PeerAnswer::Reply(Reply { status: 409, body: "{}".to_owned() }),
            PeerAnswer::NotLeader,
            PeerAnswer::Unknown("lost".to_owned()),
        ] {
            assert_eq!(PeerAnswer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn a_body_that_no_client_may_send_is_refused() {
        let body = Bytes::from(vec![b' '; SCHEMA_BODY_BYTES_MAX + 1]);
        let parts = RequestParts { body, ..RequestParts::default() };
        let ask = PeerAsk { of: PartitionId::default(), ask: Ask::Command(parts) };
        assert!(PeerAsk::decode(&ask.encode()).is_err());
    }

    proptest! {
        #[test]
        fn bytes_of_a_hostile_peer_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerAsk::decode(&bytes);
            let _ = PeerAnswer::decode(&bytes);
        }
    }
}
