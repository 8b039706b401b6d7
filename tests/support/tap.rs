//! A wiretap: clients connect to it; it forwards all bytes to a broker and notes the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// API key → versions in which it was asked.
pub type Seen = BTreeMap<i16, BTreeSet<i16>>;

/// A running tap.
pub struct Tap {
    seen: Arc<Mutex<Seen>>,
}

impl Tap {
    /// Listens on `port` of loopback for the broker at `target`.
    pub fn start(port: u16, target: String) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the tap's port");
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(&target) else { continue };
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || pass(client, broker, &noted));
            }
        });
        Self { seen }
    }

    /// The requests since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().expect("lock"))
    }
}

/// Both directions, until one of them ends.
fn pass(client: TcpStream, broker: TcpStream, seen: &Mutex<Seen>) {
    for stream in [&client, &broker] {
        stream.set_nodelay(true).expect("nodelay");
    }
    let (from, mut to) = (broker.try_clone().expect("clone"), client.try_clone().expect("clone"));
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut (&from), &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
    let _ = requests(&client, &broker, seen);
    let _ = broker.shutdown(Shutdown::Both);
    let _ = back.join();
}

/// Frame by frame: length, key and version are read, all is passed on.
fn requests(mut client: &TcpStream, mut broker: &TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head)?;
        let [a, b, c, d, key_high, key_low, version_high, version_low] = head;
        let (key, version) = (i16::from_be_bytes([key_high, key_low]), i16::from_be_bytes([version_high, version_low]));
        seen.lock().expect("lock").entry(key).or_default().insert(version);
        broker.write_all(&head)?;
        let rest = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_sub(4);
        if std::io::copy(&mut client.take(rest), &mut broker)? != rest {
            return Ok(());
        }
    }
}
