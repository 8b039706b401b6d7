//! A network between brokers that the tests own: each broker advertises a proxy in front of its rpc port, and a proxy
//! knows which broker each of its connections comes from. So any direction between two brokers can be cut, as by a
//! network that delivers nothing and closes nothing: bytes wait, and arrive late when the cut is healed.
//!
//! A connection's origin is found by its port: `/proc/net/tcp` has the socket's inode, `/proc/<pid>/fd` the process.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a proxy waits for bytes until it looks at the rules again.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Rules {
    /// Directions that deliver nothing: from, to.
    cut: Mutex<HashSet<(usize, usize)>>,
    /// Added to each piece, both ways, for connections of or to this broker.
    slow: Mutex<HashSet<usize>>,
    /// Processes of the brokers.
    pids: Mutex<Vec<u32>>,
    seen: Mutex<Seen>,
    /// Counts up when all connections are to be closed.
    epoch: AtomicU64,
    over: AtomicBool,
}

/// The proxies of a cluster; they run until it is dropped.
#[derive(Debug)]
pub struct Network {
    /// Of the proxy in front of each broker.
    pub addrs: Vec<String>,
    rules: Arc<Rules>,
}

impl Network {
    /// A proxy on a free port in front of each address.
    pub fn start(to: &[String]) -> Self {
        let rules = Arc::new(Rules::default());
        *rules.pids.lock().expect("no thread panics with it") = vec![0; to.len()];
        let ports = super::broker::free_ports_of(to.len());
        for (n, (port, to)) in ports.iter().zip(to).enumerate() {
            let listener = TcpListener::bind(("127.0.0.1", *port)).expect("the proxy's port");
            let (to, rules) = (to.clone(), Arc::clone(&rules));
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if rules.over.load(Ordering::Relaxed) {
                        return;
                    }
                    let (to, rules) = (to.clone(), Arc::clone(&rules));
                    thread::spawn(move || connection(client, n, &to, &rules));
                }
            });
        }
        Self { addrs: ports.iter().map(|port| format!("127.0.0.1:{port}")).collect(), rules }
    }

    /// The process of a broker, after each start.
    pub fn is_process(&self, n: usize, pid: u32) {
        self.rules.pids.lock().expect("no thread panics with it")[n] = pid;
    }

    /// Delivers nothing from one broker to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.rules.cut.lock().expect("no thread panics with it").insert((from, to));
    }

    /// Cuts a broker off from all others: what it sends (`outward`), what it gets (`inward`).
    pub fn cut_off(&self, n: usize, inward: bool, outward: bool) {
        for other in (0..self.addrs.len()).filter(|other| *other != n) {
            if inward {
                self.cut(other, n);
            }
            if outward {
                self.cut(n, other);
            }
        }
    }

    /// Delays each piece from and to a broker.
    pub fn slow(&self, n: usize) {
        self.rules.slow.lock().expect("no thread panics with it").insert(n);
    }

    /// Delivers everything again; with `reset`, over new connections.
    pub fn heal(&self, reset: bool) {
        self.rules.cut.lock().expect("no thread panics with it").clear();
        self.rules.slow.lock().expect("no thread panics with it").clear();
        if reset {
            self.rules.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.rules.over.store(true, Ordering::Relaxed);
        self.rules.epoch.fetch_add(1, Ordering::SeqCst);
        // A listener's thread ends with its next connection.
        self.addrs.iter().for_each(|addr| drop(TcpStream::connect(addr)));
    }
}

impl Rules {
    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.lock().expect("no thread panics with it").contains(&(from, to))
    }

    fn delay(&self, one: usize, other: usize) -> Duration {
        let slow = self.slow.lock().expect("no thread panics with it");
        if slow.contains(&one) || slow.contains(&other) { Duration::from_millis(40) } else { Duration::ZERO }
    }

    /// The broker that has the socket of this local port; `None` for another process.
    fn origin(&self, port: u16) -> Option<usize> {
        let mut seen = self.seen.lock().expect("no thread panics with it");
        if seen.at.is_none_or(|at| at.elapsed() > LOOK) {
            let pids = self.pids.lock().expect("no thread panics with it").clone();
            *seen = Seen { ports: ports_of(&pids), at: Some(Instant::now()) };
        }
        seen.ports.get(&port).copied()
    }
}

/// The brokers of local ports. One look serves all connections that wait for theirs: it reads every socket of the
/// machine, and a look for each would leave a busy machine no time to answer them.
#[derive(Debug, Default)]
struct Seen {
    ports: HashMap<u16, usize>,
    at: Option<Instant>,
}

fn ports_of(pids: &[u32]) -> HashMap<u16, usize> {
    let mut brokers = HashMap::new();
    for (n, pid) in pids.iter().enumerate() {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let names = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()?.into_os_string().into_string().ok());
        let inode = |name: String| Some(name.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
        brokers.extend(names.filter_map(inode).map(|inode| (inode, n)));
    }
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(words.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        Some((port, *brokers.get(*words.get(9)?)?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Which broker a connection comes from. One that has just been started may not be in the list for a moment.
fn origin(client: &TcpStream, rules: &Rules) -> Option<usize> {
    let port = client.peer_addr().ok()?.port();
    let _ = client.set_read_timeout(Some(LOOK));
    for _ in 0..50 {
        if let Some(from) = rules.origin(port) {
            return Some(from);
        }
        // It has given up.
        if matches!(client.peek(&mut [0]), Ok(0)) {
            return None;
        }
        thread::sleep(LOOK);
    }
    None
}

fn connection(client: TcpStream, to: usize, addr: &str, rules: &Arc<Rules>) {
    let Some(from) = origin(&client, rules) else { return };
    let Ok(server) = TcpStream::connect(addr) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let epoch = rules.epoch.load(Ordering::SeqCst);
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    let backward = Arc::clone(rules);
    thread::spawn(move || pump(server_again, client_again, &backward, epoch, (to, from)));
    pump(client, server, rules, epoch, (from, to));
}

fn pump(mut source: TcpStream, mut sink: TcpStream, rules: &Rules, epoch: u64, (from, to): (usize, usize)) {
    let mut buffer = vec![0; 64 << 10];
    let _ = source.set_read_timeout(Some(LOOK));
    while rules.epoch.load(Ordering::SeqCst) == epoch {
        if rules.is_cut(from, to) {
            thread::sleep(LOOK);
            continue;
        }
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind()) => {
                continue;
            }
            Err(_) => break,
        };
        thread::sleep(rules.delay(from, to));
        while rules.is_cut(from, to) && rules.epoch.load(Ordering::SeqCst) == epoch {
            thread::sleep(LOOK);
        }
        if sink.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = (source.shutdown(Shutdown::Both), sink.shutdown(Shutdown::Both));
}
