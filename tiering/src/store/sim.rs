//! A bucket that lives in a simulated world: same contract, and faults by the seed.
//!
//! Fault model. Every request takes time, drawn between two bounds, before and after its effect. A request may be
//! refused without effect (throttled); it may have its effect and lose the answer; a write's answer may be lost
//! *before* its effect, which then comes later, even when the caller is long dead; a body may arrive torn (seen by
//! length, so an error) or with a flipped byte (not seen: checksums must). For a while nothing may be answered at
//! all. Objects are never lost once a write was answered, and conditional puts always hold.
//!
//! Several callers share a bucket: [`SimBucket::store_for`] names one, and [`SimBucket::set_faults_for`] has requests
//! of that caller fail in their own way, up to being answered by nothing while the others are served.
//!
//! The bucket's tasks run on the [`Env`] it was made with (a node of its own), so killing a caller's node neither
//! stops nor undoes what it asked for. [`SimStore`] is `Send` and talks to them by channel; all draws come from the
//! bucket's seed in the order of arrival, so a run repeats exactly.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::{Bound, Range};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::channel::oneshot;
use tidewater_storage::env::Env;
use tidewater_storage::model::TimestampMs;

use super::{ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, Sleeper, StoreError};

/// How badly the bucket behaves; all odds per 1,000 requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Least time before, and again after, the effect.
    pub latency_min: Duration,
    pub latency_max: Duration,
    pub throttled: u64,
    /// Effect, but the answer is lost.
    pub lost_answers: u64,
    /// For writes: the caller hears of a failure, the effect comes up to `late_max` later.
    pub late_writes: u64,
    pub late_max: Duration,
    /// Bodies cut short (answered as [`StoreError::Torn`]).
    pub torn: u64,
    /// Bodies with one flipped byte, answered as if they were good.
    pub corrupt: u64,
    /// Nothing is answered: every request fails without effect.
    pub down: bool,
}

impl Faults {
    /// Everything at once, as seeds of a crash suite want it; no corrupt bodies.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            latency_min: Duration::from_millis(1),
            latency_max: Duration::from_millis(80),
            throttled: 40,
            lost_answers: 40,
            late_writes: 20,
            late_max: Duration::from_secs(5),
            torn: 10,
            corrupt: 0,
            down: false,
        }
    }
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    version: u64,
    modified: TimestampMs,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    versions: u64,
    now: TimestampMs,
    clock_ahead_ms: i64,
    faults: Faults,
    /// By caller; a caller that is not here meets `faults`.
    faults_for: BTreeMap<u32, Faults>,
    arrived: VecDeque<String>,
}

/// Requests remembered for [`SimBucket::take_log`].
const LOG_MAX: usize = 100_000;

/// What becomes of a request.
enum Fate {
    Refused,
    Answered { spoil: Spoil },
    Lost,
    Late(Duration),
}

/// What becomes of a body on its way.
#[derive(Clone, Copy)]
enum Spoil {
    No,
    Torn,
    Corrupt(u64),
}

struct Job {
    caller: u32,
    write: bool,
    /// Has the effect; gives what then answers.
    perform: Box<dyn FnOnce(&mut State, Spoil) -> Box<dyn FnOnce() + Send> + Send>,
    /// Answers that it failed.
    fail: Box<dyn FnOnce() + Send>,
}

/// The simulated bucket. Cheap to clone; outlives every caller.
#[derive(Clone)]
pub struct SimBucket {
    state: Arc<Mutex<State>>,
    jobs: flume::Sender<Job>,
}

/// A caller's view of it.
#[derive(Clone)]
pub struct SimStore {
    bucket: SimBucket,
    caller: u32,
}

impl fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimBucket({} objects)", self.lock().objects.len())
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket.fmt(f)
    }
}

impl SimBucket {
    /// An empty bucket whose tasks run on `env`.
    #[must_use]
    pub fn new(env: &Env, faults: Faults) -> Self {
        let (jobs, arriving) = flume::unbounded::<Job>();
        let bucket = Self { state: Arc::default(), jobs };
        bucket.set_faults(faults);
        let (state, server) = (Arc::clone(&bucket.state), env.clone());
        let serve = async move {
            while let Ok(job) = arriving.recv_async().await {
                let (state, env) = (Arc::clone(&state), server.clone());
                drop(server.tasks.spawn("bucket request", async move { serve(&env, &state, job).await }));
            }
        };
        drop(env.tasks.spawn("bucket", serve));
        bucket
    }

    /// A store over it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.store_for(0)
    }

    /// A store over it, as one of several callers has it.
    #[must_use]
    pub fn store_for(&self, caller: u32) -> Arc<dyn ObjectStore> {
        Arc::new(SimStore { bucket: self.clone(), caller })
    }

    /// Faults of one caller's requests from now on, in place of everybody's; `None` ends that.
    pub fn set_faults_for(&self, caller: u32, faults: Option<Faults>) {
        let mut state = self.lock();
        match faults {
            Some(faults) => state.faults_for.insert(caller, faults),
            None => state.faults_for.remove(&caller),
        };
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// As they are.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    /// Forgets every object.
    pub fn wipe(&self) {
        self.lock().objects.clear();
    }

    /// From now on the store's clock goes `ms` before everybody else's.
    pub fn set_clock_ahead(&self, ms: i64) {
        self.lock().clock_ahead_ms = ms;
    }

    /// Every object, behind the store's back.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.lock().objects.iter().map(|(key, object)| (key.clone(), object.body.clone())).collect()
    }

    /// Damages, makes or (`None`) removes an object behind the store's back.
    pub fn tamper(&self, key: &str, body: Option<Bytes>) {
        let mut state = self.lock();
        match body {
            Some(body) => {
                state.write(key, body);
            }
            None => {
                state.objects.remove(key);
            }
        }
    }

    /// Requests that had an effect or were looked up since the last call, as `put KEY` and so on, in that order.
    #[must_use]
    pub fn take_log(&self) -> Vec<String> {
        self.lock().arrived.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(env: &Env, state: &Mutex<State>, job: Job) {
    let faults = state.lock().unwrap_or_else(PoisonError::into_inner).faults_of(job.caller);
    let latency = || {
        let span = faults.latency_max.saturating_sub(faults.latency_min).as_nanos();
        let drawn = u64::try_from(span).ok().filter(|span| *span > 0).map_or(0, |span| env.rng.below(span));
        faults.latency_min + Duration::from_nanos(drawn)
    };
    env.tasks.sleep(latency()).await;
    let fate = fate(env, &faults, job.write);
    let perform = |spoil| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = TimestampMs(env.clock.wall().0 + state.clock_ahead_ms);
        (job.perform)(&mut state, spoil)
    };
    match fate {
        Fate::Refused => (job.fail)(),
        Fate::Answered { spoil } => {
            let answer = perform(spoil);
            env.tasks.sleep(latency()).await;
            answer();
        }
        Fate::Lost => {
            drop(perform(Spoil::No));
            env.tasks.sleep(latency()).await;
            (job.fail)();
        }
        Fate::Late(delay) => {
            (job.fail)();
            env.tasks.sleep(delay).await;
            drop(perform(Spoil::No));
        }
    }
}

fn fate(env: &Env, faults: &Faults, write: bool) -> Fate {
    let hit = |odds: u64| odds > 0 && env.rng.below(1000) < odds;
    if faults.down || hit(faults.throttled) {
        return Fate::Refused;
    }
    if hit(faults.lost_answers) {
        return Fate::Lost;
    }
    if write {
        if hit(faults.late_writes) {
            let span = u64::try_from(faults.late_max.as_nanos()).unwrap_or(u64::MAX).max(1);
            return Fate::Late(Duration::from_nanos(env.rng.below(span)));
        }
        return Fate::Answered { spoil: Spoil::No };
    }
    let spoil = match () {
        () if hit(faults.torn) => Spoil::Torn,
        () if hit(faults.corrupt) => Spoil::Corrupt(env.rng.next_u64()),
        () => Spoil::No,
    };
    Fate::Answered { spoil }
}

impl State {
    fn faults_of(&self, caller: u32) -> Faults {
        self.faults_for.get(&caller).copied().unwrap_or(self.faults)
    }

    fn write(&mut self, key: &str, body: Bytes) -> ETag {
        self.versions += 1;
        let object = Object { body, version: self.versions, modified: self.now };
        let etag = object.etag();
        self.objects.insert(key.to_owned(), object);
        etag
    }

    fn log(&mut self, what: &str, key: &str) {
        if self.arrived.len() == LOG_MAX {
            self.arrived.pop_front();
        }
        self.arrived.push_back(format!("{what} {key}"));
    }

    fn put(&mut self, key: &str, body: Bytes, mode: &PutMode) -> Result<PutDone, StoreError> {
        self.log("put", key);
        let old = self.objects.get(key).map(Object::etag);
        let holds = match mode {
            PutMode::Overwrite => true,
            PutMode::IfAbsent => old.is_none(),
            PutMode::IfMatch(etag) => old.as_ref() == Some(etag),
        };
        if !holds {
            return Err(StoreError::Taken { key: key.to_owned() });
        }
        Ok(PutDone { etag: self.write(key, body) })
    }

    fn find(&self, key: &str) -> Result<&Object, StoreError> {
        self.objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }

    fn get(&mut self, key: &str, range: Option<Range<u64>>, spoil: Spoil) -> Result<Got, StoreError> {
        self.log("get", key);
        let object = self.find(key)?;
        let size = object.body.len() as u64;
        let (start, end) = range.clone().map_or((0, size), |range| (range.start, range.end));
        if range.is_some() && (start >= end || start >= size) {
            return Err(StoreError::Range { key: key.to_owned(), start, end });
        }
        let from = usize::try_from(start).unwrap_or(usize::MAX);
        let to = usize::try_from(end.min(size)).unwrap_or(usize::MAX);
        let body = object.body.slice(from..to);
        let expected = body.len() as u64;
        let body = match spoil {
            Spoil::Torn => return Err(StoreError::Torn { key: key.to_owned(), expected, found: expected / 2 }),
            Spoil::Corrupt(draw) if expected > 0 => flip(&body, draw),
            Spoil::No | Spoil::Corrupt(_) => body,
        };
        Ok(Got { body, etag: object.etag(), size })
    }

    fn list(&mut self, prefix: &str, after: Option<&str>, max: usize) -> Vec<Listed> {
        self.log("list", prefix);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let matching =
            self.objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let listed = matching.filter_map(|(key, object)| {
            let key = ObjectKey::new(key).ok()?;
            Some(Listed { key, size: object.body.len() as u64, modified: object.modified })
        });
        listed.take(max).collect()
    }
}

impl Object {
    fn etag(&self) -> ETag {
        ETag(format!("v{}", self.version).into())
    }
}

fn flip(body: &Bytes, draw: u64) -> Bytes {
    let mut bytes = BytesMut::from(body.as_ref());
    let at = usize::try_from(draw % (bytes.len() as u64).max(1)).unwrap_or_default();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << ((draw >> 32) % 8);
    }
    bytes.freeze()
}

impl SimStore {
    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        write: bool,
        work: impl FnOnce(&mut State, Spoil) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let answer = Arc::new(Mutex::new(Some(answer)));
        let send = move |result: Result<T, StoreError>| {
            if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // The caller may be dead.
                let _ = answer.send(result);
            }
        };
        let failed = StoreError::Unavailable { key: key.to_owned(), detail: "simulated".to_owned() };
        let job = Job {
            caller: self.caller,
            write,
            fail: Box::new({
                let send = send.clone();
                move || send(Err(failed))
            }),
            perform: Box::new(move |state, spoil| {
                let result = work(state, spoil);
                Box::new(move || send(result))
            }),
        };
        self.bucket.jobs.send(job).map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let at = key.clone();
        self.run(key.as_str(), true, move |state, _| state.put(at.as_str(), body, &mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        let at = key.clone();
        self.run(key.as_str(), false, move |state, spoil| state.get(at.as_str(), range, spoil)).await
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        let (at, etag) = (key.clone(), etag.clone());
        let work = move |state: &mut State, spoil| {
            if state.find(at.as_str())?.etag() == etag {
                state.log("get unchanged", at.as_str());
                return Ok(None);
            }
            state.get(at.as_str(), None, spoil).map(Some)
        };
        self.run(key.as_str(), false, work).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let at = key.clone();
        let work = move |state: &mut State, _| {
            state.log("head", at.as_str());
            let found = state.find(at.as_str())?;
            Ok(Head { size: found.body.len() as u64, etag: found.etag(), modified: found.modified })
        };
        self.run(key.as_str(), false, work).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        let (wanted, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(prefix, false, move |state, _| Ok(state.list(&wanted, after.as_deref(), max))).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        let first = keys.first().map(ToString::to_string).unwrap_or_default();
        let work = move |state: &mut State, _| {
            for key in keys {
                state.log("delete", key.as_str());
                state.objects.remove(key.as_str());
            }
            Ok(())
        };
        self.run(&first, true, work).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, mut source: ByteSource) -> Result<PutDone, StoreError> {
        let failed = |detail: String| StoreError::Source { key: key.to_string(), detail };
        let mut body = BytesMut::new();
        while let Some(piece) = source.next().await {
            body.extend_from_slice(&piece.map_err(|error| failed(error.to_string()))?);
        }
        if body.len() as u64 != size {
            return Err(failed(format!("it brought {} bytes, {size} were announced", body.len())));
        }
        self.put(key, body.freeze(), PutMode::Overwrite).await
    }
}

/// Waits in the simulated world from a `Send` future: the sleeping is done by a task of the world.
pub struct SimSleeper {
    sleeps: flume::Sender<(Duration, oneshot::Sender<()>)>,
}

impl fmt::Debug for SimSleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimSleeper")
    }
}

impl SimSleeper {
    /// On `env`'s clock.
    #[must_use]
    pub fn new(env: &Env) -> Self {
        let (sleeps, arriving) = flume::unbounded::<(Duration, oneshot::Sender<()>)>();
        let owner = env.clone();
        drop(env.tasks.spawn("sleeper", async move {
            while let Ok((time, done)) = arriving.recv_async().await {
                let sleep = owner.tasks.sleep(time);
                drop(owner.tasks.spawn("sleep", async move {
                    sleep.await;
                    let _ = done.send(());
                }));
            }
        }));
        Self { sleeps }
    }
}

impl Sleeper for SimSleeper {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (done, wait) = oneshot::channel();
        let asked = self.sleeps.send((time, done)).is_ok();
        Box::pin(async move {
            if asked {
                // An error means that the world's node was killed.
                let _ = wait.await;
            }
        })
    }
}
