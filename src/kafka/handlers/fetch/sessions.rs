//! The fetch sessions of one shard: their ids and epochs, how many there may be, who makes room (KIP-227).
//!
//! Decides as Kafka's `FetchManager` does. A session lives on the shard of the connection that made it; elsewhere its
//! id is not known and the client begins a new one, as after a restart. While a request works on a session it is lent
//! out: a second request of the same session meanwhile is refused, and a connection that breaks takes its session
//! along. Shard-local.

use std::cell::RefCell;
use std::collections::HashMap;

use kafka_protocol::messages::FetchRequest;
use tidewater_storage::env::{Mono, Rng};

use super::session::Session;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{FETCH_SESSION_EVICTION, FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX};
use crate::partition::message::Isolation;
use crate::partition::read::watch::Alarms;

/// Of a request that wants everything and a session.
const FIRST_EPOCH: i32 = 0;
/// Of a request that wants everything and no session.
const NO_EPOCH: i32 = -1;

#[derive(Debug, Default)]
pub struct FetchSessions {
    cache: RefCell<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    entries: HashMap<i32, Entry>,
    partitions: usize,
}

#[derive(Debug)]
struct Entry {
    /// Of the next request.
    epoch: i32,
    made: Mono,
    used: Mono,
    size: usize,
    /// None while a request works on it.
    session: Option<Watching>,
}

/// A session with the alarms of its idle partitions.
#[derive(Debug)]
pub(super) struct Watching {
    pub session: Session,
    pub alarms: Option<(crate::partition::read::watch::Alarm, Alarms)>,
}

impl Watching {
    fn new(session: Session) -> Self {
        Self { session, alarms: None }
    }
}

/// What a request works on.
#[derive(Debug)]
pub(super) enum Opened {
    /// Everything is answered, nothing remembered.
    Once(Watching),
    /// Everything is answered, and a session begun if there is room.
    Full(Watching),
    /// What changed is answered.
    Incremental(i32, Watching),
}

/// Lent out: given back by [`FetchSessions::give_back`], else ended when dropped.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    sessions: &'a FetchSessions,
    id: Option<i32>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.sessions.cache.borrow_mut().remove(id);
        }
    }
}

impl Cache {
    fn remove(&mut self, id: i32) {
        if let Some(gone) = self.entries.remove(&id) {
            self.partitions -= gone.size;
        }
    }

    fn resize(&mut self, id: i32, size: usize) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.partitions = self.partitions - entry.size + size;
            entry.size = size;
        }
    }

    /// Makes room for one more session of `size`, as Kafka does: the one used longest ago if it is stale, else the
    /// smallest that has had its time if it is smaller than the new one.
    fn makes_room(&mut self, size: usize, now: Mono) -> bool {
        while self.entries.len() >= FETCH_SESSIONS_MAX || self.partitions + size > FETCH_SESSION_PARTITIONS_MAX {
            let idle = || self.entries.iter().filter(|(_, entry)| entry.session.is_some());
            let stale = idle().min_by_key(|(_, entry)| entry.used);
            let stale = stale.filter(|(_, entry)| now.since(entry.used) > FETCH_SESSION_EVICTION);
            let old = idle().filter(|(_, entry)| now.since(entry.made) > FETCH_SESSION_EVICTION);
            let small = old.min_by_key(|(id, entry)| (entry.size, **id)).filter(|(_, entry)| entry.size < size);
            let Some(id) = stale.or(small).map(|(id, _)| *id) else { return false };
            self.remove(id);
        }
        true
    }
}

impl FetchSessions {
    /// Sessions and the partitions and topics they keep.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let cache = self.cache.borrow();
        (cache.entries.len(), cache.partitions)
    }

    /// What a request works on.
    ///
    /// # Errors
    /// The error that the whole response carries.
    pub(super) fn open(
        &self,
        request: &FetchRequest,
        by_id: bool,
        isolation: Isolation,
        now: Mono,
    ) -> Result<(Opened, Loan<'_>), ErrorCode> {
        let mut cache = self.cache.borrow_mut();
        let (id, epoch) = (request.session_id, request.session_epoch);
        let none = Loan { sessions: self, id: None };
        let fresh = || Watching::new(Session::new(by_id, isolation, &request.topics));
        if epoch == FIRST_EPOCH || epoch == NO_EPOCH {
            // A full request ends the session it names.
            cache.remove(id);
            let opened = if epoch == NO_EPOCH { Opened::Once(fresh()) } else { Opened::Full(fresh()) };
            return Ok((opened, none));
        }
        let entry = cache.entries.get_mut(&id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if entry.epoch != epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        let mut lent = entry.session.take_if(|held| held.session.by_id() == by_id).ok_or(match &entry.session {
            Some(_) => ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
            None => ErrorCode::INVALID_FETCH_SESSION_EPOCH,
        })?;
        lent.session.update(isolation, &request.topics, &request.forgotten_topics_data);
        if lent.session.is_empty() {
            cache.remove(id);
            return Ok((Opened::Once(lent), none));
        }
        entry.epoch = epoch.checked_add(1).unwrap_or(1);
        entry.used = now;
        let size = lent.session.len();
        cache.resize(id, size);
        if cache.partitions > FETCH_SESSION_PARTITIONS_MAX && !cache.makes_room(0, now) {
            cache.remove(id);
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        Ok((Opened::Incremental(id, lent), Loan { sessions: self, id: Some(id) }))
    }

    /// Keeps the session of a full request; 0 when there is no room or nothing in it.
    pub(super) fn keep(&self, lent: Watching, rng: &Rng, now: Mono) -> i32 {
        let size = lent.session.len();
        let mut cache = self.cache.borrow_mut();
        if lent.session.is_empty() || !cache.makes_room(size, now) {
            return 0;
        }
        let id = loop {
            // 31 random bits, so that a client does not guess another client's session.
            let id = i32::try_from(rng.next_u64() >> 33).unwrap_or(0);
            if id != 0 && !cache.entries.contains_key(&id) {
                break id;
            }
        };
        cache.partitions += size;
        cache.entries.insert(id, Entry { epoch: 1, made: now, used: now, size, session: Some(lent) });
        id
    }

    /// Takes a session back after an incremental request; false when it was ended meanwhile.
    pub(super) fn give_back(&self, mut loan: Loan<'_>, lent: Watching) -> bool {
        let Some(id) = loan.id.take() else { return false };
        let size = lent.session.len();
        let mut cache = self.cache.borrow_mut();
        cache.resize(id, size);
        match cache.entries.get_mut(&id) {
            Some(entry) => {
                entry.session = Some(lent);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};

    use super::*;
    use crate::kafka::words::topic_name;

    fn request(id: i32, epoch: i32, partitions: &[i32]) -> FetchRequest {
        let asked = partitions.iter().map(|n| FetchPartition::default().with_partition(*n)).collect();
        let topics = match partitions {
            [] => Vec::new(),
            _ => vec![FetchTopic::default().with_topic(topic_name("orders")).with_partitions(asked)],
        };
        FetchRequest::default().with_session_id(id).with_session_epoch(epoch).with_topics(topics)
    }

    fn at(seconds: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(seconds)
    }

    fn begin(sessions: &FetchSessions, partitions: &[i32], now: Mono) -> i32 {
        let opened = sessions.open(&request(0, 0, partitions), false, Isolation::ReadUncommitted, now);
        let Ok((Opened::Full(session), _)) = opened else { unreachable!("a full request") };
        sessions.keep(session, &Rng::seeded(now.since(Mono::ZERO).as_secs()), now)
    }

    /// Sends a request and gives the session back; what it was answered.
    fn send(sessions: &FetchSessions, request: &FetchRequest, by_id: bool) -> Result<&'static str, i16> {
        let opened = sessions.open(request, by_id, Isolation::ReadUncommitted, at(1)).map_err(|e| e.number())?;
        Ok(match opened {
            (Opened::Once(_), _) => "once",
            (Opened::Full(_), _) => "full",
            (Opened::Incremental(_, lent), loan) => {
                assert!(sessions.give_back(loan, lent));
                "incremental"
            }
        })
    }

    #[test]
    fn epochs_must_follow_and_ids_be_known() {
        let sessions = FetchSessions::default();
        let id = begin(&sessions, &[0, 1], at(0));
        assert_ne!(id, 0);
        assert_eq!(send(&sessions, &request(id, 1, &[]), false), Ok("incremental"));
        assert_eq!(send(&sessions, &request(id, 1, &[]), false), Err(71), "an epoch twice");
        assert_eq!(send(&sessions, &request(id, 3, &[]), false), Err(71), "an epoch too far");
        assert_eq!(send(&sessions, &request(id, 2, &[]), true), Err(106), "names and ids mixed");
        assert_eq!(send(&sessions, &request(id, 2, &[]), false), Ok("incremental"));
        assert_eq!(send(&sessions, &request(id ^ 1, 1, &[]), false), Err(70));
        assert_eq!(send(&sessions, &request(0, 1, &[]), false), Err(70));
        assert_eq!(send(&sessions, &request(id, -1, &[]), false), Ok("once"), "closes");
        assert_eq!(send(&sessions, &request(id, 3, &[]), false), Err(70));
        assert_eq!(sessions.held(), (0, 0));
    }

    #[test]
    fn a_full_request_ends_the_session_it_names() {
        let sessions = FetchSessions::default();
        let id = begin(&sessions, &[0], at(0));
        assert_eq!(send(&sessions, &request(id, 0, &[0]), false), Ok("full"));
        assert_eq!(sessions.held(), (0, 0));
    }

    #[test]
    fn a_session_in_work_is_not_lent_twice_and_dies_with_its_request() {
        let sessions = FetchSessions::default();
        let id = begin(&sessions, &[0], at(0));
        let lent = sessions.open(&request(id, 1, &[]), false, Isolation::ReadUncommitted, at(0)).expect("there");
        assert_eq!(send(&sessions, &request(id, 2, &[]), false), Err(71));
        drop(lent);
        assert_eq!(send(&sessions, &request(id, 2, &[]), false), Err(70));
        assert_eq!(sessions.held(), (0, 0));
    }

    #[test]
    fn forgetting_everything_ends_the_session() {
        let sessions = FetchSessions::default();
        let id = begin(&sessions, &[0, 1], at(0));
        let gone = ForgottenTopic::default().with_topic(topic_name("orders")).with_partitions(vec![0, 1]);
        let request = request(id, 1, &[]).with_forgotten_topics_data(vec![gone]);
        assert_eq!(send(&sessions, &request, false), Ok("once"));
        assert_eq!(sessions.held(), (0, 0));
    }

    #[test]
    fn room_is_made_by_the_stale_and_the_small() {
        let sessions = FetchSessions::default();
        for n in 0..FETCH_SESSIONS_MAX {
            assert_ne!(begin(&sessions, &[0, 1], at(n as u64 / 100)), 0);
        }
        assert_eq!(begin(&sessions, &[0, 1, 2], at(20)), 0, "all are young");
        let old = FETCH_SESSION_EVICTION.as_secs() + 5;
        assert_ne!(begin(&sessions, &[0], at(old)), 0, "the first is stale");
        assert_eq!(sessions.held().0, FETCH_SESSIONS_MAX);
    }
}
