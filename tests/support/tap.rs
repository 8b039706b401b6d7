//! A wiretap: clients connect to it; it forwards all bytes to a broker and notes the requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// API key → versions in which it was asked.
pub type Seen = BTreeMap<i16, BTreeSet<i16>>;

/// Requests kept for the report of a failure.
const LAST_MAX: usize = 200;

/// A request that was forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Time since the tap started.
    pub at: Duration,
    /// Port of the client's end of the connection.
    pub client: u16,
    pub key: i16,
    pub version: i16,
}

struct Notes {
    start: Instant,
    seen: Seen,
    last: VecDeque<Request>,
}

impl Notes {
    fn note(&mut self, client: u16, key: i16, version: i16) {
        self.seen.entry(key).or_default().insert(version);
        if self.last.len() == LAST_MAX {
            self.last.pop_front();
        }
        self.last.push_back(Request { at: self.start.elapsed(), client, key, version });
    }
}

/// A running tap.
pub struct Tap {
    notes: Arc<Mutex<Notes>>,
}

impl Tap {
    /// Listens on `port` of loopback for the broker at `target`.
    pub fn start(port: u16, target: String) -> Self {
        let notes = Notes { start: Instant::now(), seen: Seen::new(), last: VecDeque::new() };
        let notes = Arc::new(Mutex::new(notes));
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the tap's port");
        let noted = Arc::clone(&notes);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(&target) else { continue };
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || pass(client, broker, &noted));
            }
        });
        Self { notes }
    }

    /// The APIs asked since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.notes.lock().expect("lock").seen)
    }

    /// The last requests of all clients, oldest first.
    pub fn last(&self) -> Vec<Request> {
        self.notes.lock().expect("lock").last.iter().copied().collect()
    }
}

/// Both directions, until one of them ends.
fn pass(client: TcpStream, broker: TcpStream, notes: &Mutex<Notes>) {
    for stream in [&client, &broker] {
        stream.set_nodelay(true).expect("nodelay");
    }
    let (from, mut to) = (broker.try_clone().expect("clone"), client.try_clone().expect("clone"));
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut (&from), &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
    let _ = requests(&client, &broker, notes);
    let _ = broker.shutdown(Shutdown::Both);
    let _ = back.join();
}

/// Frame by frame: length, key and version are read, all is passed on.
fn requests(mut client: &TcpStream, mut broker: &TcpStream, notes: &Mutex<Notes>) -> std::io::Result<()> {
    let port = client.peer_addr()?.port();
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head)?;
        let [a, b, c, d, key_high, key_low, version_high, version_low] = head;
        let (key, version) = (i16::from_be_bytes([key_high, key_low]), i16::from_be_bytes([version_high, version_low]));
        notes.lock().expect("lock").note(port, key, version);
        broker.write_all(&head)?;
        let rest = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_sub(4);
        if std::io::copy(&mut client.take(rest), &mut broker)? != rest {
            return Ok(());
        }
    }
}
