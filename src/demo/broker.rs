//! The demo's broker as its clients see it: addresses that work on this machine, bucket, data directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::node::Running;

#[derive(Clone, Debug)]
pub(super) struct DemoBroker {
    /// `HOST:PORT`, like the next three.
    pub(super) kafka: String,
    pub(super) admin: String,
    /// `None` in a build without tables.
    pub(super) catalog: Option<String>,
    /// Of the schema registry.
    #[cfg_attr(not(feature = "lakehouse"), allow(dead_code, reason = "only typed tables need schemas"))]
    pub(super) schemas: String,
    /// As in `--bucket`.
    pub(super) bucket: String,
    #[cfg_attr(not(feature = "lakehouse"), allow(dead_code, reason = "only tables are read by the cluster's name"))]
    pub(super) cluster_name: String,
    pub(super) data_dir: PathBuf,
}

impl DemoBroker {
    pub(super) fn new(running: &Running, bucket: String, cluster_name: String, data_dir: PathBuf) -> Self {
        Self {
            kafka: reachable(running.kafka),
            admin: reachable(running.admin),
            catalog: running.catalog.map(reachable),
            schemas: reachable(running.schemas),
            bucket,
            cluster_name,
            data_dir,
        }
    }
}

/// A wildcard address is reached over loopback.
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
    fn wildcards_are_reached_over_loopback() {
        let addr = |text: &str| reachable(text.parse().expect("an address"));
        assert_eq!(addr("0.0.0.0:9092"), "127.0.0.1:9092");
        assert_eq!(addr("10.0.0.1:9092"), "10.0.0.1:9092");
    }
}
