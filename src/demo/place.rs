//! Where the demo's broker is: addresses a client on this machine can use, bucket, data directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::node::Running;

/// Addresses and places of the running broker.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Kafka, `HOST:PORT`.
    pub(super) kafka: String,
    /// Admin port.
    pub(super) admin: String,
    /// Iceberg catalog; `None` in a build without tables.
    pub(super) catalog: Option<String>,
    /// Bucket URL.
    pub(super) bucket: String,
    /// The cluster's name in it.
    pub(super) cluster_name: String,
    /// Data directory.
    pub(super) data_dir: PathBuf,
}

impl Place {
    pub(super) fn new(running: &Running, bucket: String, cluster_name: String, data_dir: PathBuf) -> Self {
        Self {
            kafka: reachable(running.kafka),
            admin: reachable(running.admin),
            catalog: running.catalog.map(reachable),
            bucket,
            cluster_name,
            data_dir,
        }
    }
}

/// A wildcard is reached by loopback from here.
fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), addr.port()).to_string();
    }
    addr.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_reached_by_loopback() {
        let addr = |text: &str| reachable(text.parse().expect("an address"));
        assert_eq!(addr("0.0.0.0:9092"), "127.0.0.1:9092");
        assert_eq!(addr("10.0.0.1:9092"), "10.0.0.1:9092");
    }
}
