//! Defaults of the settings, and what is checked before a start.

use std::net::{IpAddr, SocketAddr};

use super::{ConfigError, HttpNames, NodeConfig, RPC_PORT, RawConfig, RpcTlsFiles};
use crate::limits::{CONNECTIONS_MAX, GROUP_MEMBERS_MAX};

/// `--catch-up-bytes`, if it is not given.
pub const CATCH_UP_BYTES: u64 = 256 << 20;
/// The journal reaches a file's size in any case; with less, a replica that was just rebuilt might find its log purged.
const CATCH_UP_BYTES_MIN: u64 = 64 << 20;

impl RawConfig {
    /// Fills in defaults and checks everything. Resolves host names of addresses to bind.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn resolve(self) -> Result<NodeConfig, ConfigError> {
        let data_dir = self.data_dir.unwrap_or_else(|| "tidewater-data".into());
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        let kafka_addr = bind_address("--kafka-addr", self.kafka_addr.as_deref(), 9092)?;
        let advertised = match &self.advertised_kafka_addr {
            Some(text) => Some(host_port(text).ok_or_else(|| ConfigError::Address {
                setting: "--advertised-kafka-addr",
                value: text.clone(),
                port: 9092,
            })?),
            None if kafka_addr.ip().is_unspecified() => return Err(ConfigError::WildcardAdvertised(kafka_addr)),
            None => None,
        };
        let rpc_addr = bind_address("--rpc-addr", self.rpc_addr.as_deref(), RPC_PORT)?;
        let advertised_rpc = match &self.advertised_rpc_addr {
            Some(text) => Some(host_port(text).ok_or_else(|| ConfigError::Address {
                setting: "--advertised-rpc-addr",
                value: text.clone(),
                port: RPC_PORT,
            })?),
            None if rpc_addr.ip().is_unspecified() && self.seed.is_some() => {
                return Err(ConfigError::WildcardRpc(rpc_addr));
            }
            None => None,
        };
        let rpc_tls = match (self.rpc_tls_cert, self.rpc_tls_key, self.rpc_tls_ca) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => Some(RpcTlsFiles { cert, key, ca }),
            _ => return Err(ConfigError::HalfTls),
        };
        let cluster_name = self.cluster_name.unwrap_or_else(|| "tidewater".into());
        if !is_cluster_name(&cluster_name) {
            return Err(ConfigError::ClusterName(cluster_name));
        }
        let allowed = self.http_allowed_hosts.unwrap_or_default().into_iter().map(allowed_host);
        let given =
            [&self.kafka_addr, &self.advertised_kafka_addr, &self.admin_addr, &self.catalog_addr, &self.schema_addr];
        let own = given.into_iter().flatten().filter_map(|text| Some(host_port(text)?.0.to_ascii_lowercase()));
        let http_names = HttpNames { own: own.collect(), allowed: allowed.collect::<Result<_, _>>()? };
        let seeds: Vec<String> = self.seed.unwrap_or_default().into_iter().map(seed).collect::<Result<_, _>>()?;
        if let Some((_, twice)) = seeds.iter().enumerate().find(|(n, seed)| seeds.iter().take(*n).any(|s| s == *seed)) {
            return Err(ConfigError::SeedTwice(twice.clone()));
        }
        let rack = self.rack.filter(|rack| !rack.is_empty());
        if let Some(rack) = rack.as_ref().filter(|rack| rack.len() > 255 || rack.chars().any(char::is_control)) {
            return Err(ConfigError::Rack(rack.clone()));
        }
        match self.replace {
            Some(node) if node < 1 => return Err(ConfigError::Replace(node)),
            Some(_) if seeds.is_empty() => return Err(ConfigError::ReplaceWithoutSeed),
            _ => {}
        }
        let range = |setting, value: u64, ok: bool, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Range { setting, value, expected }) }
        };
        let num_partitions = self.num_partitions.unwrap_or(1);
        range("--num-partitions", num_partitions.into(), (1..=100_000).contains(&num_partitions), "1 to 100000")?;
        if let Some(factor) = self.default_replication_factor {
            let factors = 1..=15;
            range("--default-replication-factor", factor.into(), factors.contains(&factor), "1 to 15")?;
        }
        if let Some(shards) = self.shards {
            range("--shards", shards.into(), (1..=1024).contains(&shards), "1 to 1024")?;
        }
        let catch_up_bytes = self.catch_up_bytes.map_or(CATCH_UP_BYTES, |bytes| bytes.0);
        range("--catch-up-bytes", catch_up_bytes, catch_up_bytes >= CATCH_UP_BYTES_MIN, "at least 67108864 (64MiB)")?;
        let session_min = self.group_min_session_timeout_ms.unwrap_or(6000);
        let session_max = self.group_max_session_timeout_ms.unwrap_or(30 * 60 * 1000);
        let sessions = session_min <= session_max && session_max <= i32::MAX as u64;
        let expected = "at least --group-min-session-timeout-ms and at most 2147483647";
        range("--group-max-session-timeout-ms", session_max, sessions, expected)?;
        let group_max_size = self.group_max_size.unwrap_or(GROUP_MEMBERS_MAX);
        let sizes = 1..=i32::MAX as usize;
        range("--group-max-size", group_max_size as u64, sizes.contains(&group_max_size), "1 to 2147483647")?;
        let retention = self.offsets_retention_minutes.unwrap_or(7 * 24 * 60);
        let minutes = 1..=u64::from(u32::MAX);
        range("--offsets-retention-minutes", retention, minutes.contains(&retention), "1 to 4294967295")?;
        let expiration = self.producer_id_expiration_ms.unwrap_or(crate::limits::PRODUCER_ID_EXPIRATION_MS);
        let range_ms = 1..=i64::MAX as u64;
        range("--producer-id-expiration-ms", expiration, range_ms.contains(&expiration), "at least 1")?;
        let cut_interval = self.cut_interval_ms.unwrap_or(crate::limits::CUT_INTERVAL_MS);
        let cuts = cut_interval == 0 || (1_000..=86_400_000).contains(&cut_interval);
        range("--cut-interval-ms", cut_interval, cuts, "0, or 1000 to 86400000")?;
        let max_connections = self.max_connections.unwrap_or(CONNECTIONS_MAX);
        range("--max-connections", max_connections as u64, max_connections > 0, "1 or more")?;
        let per_ip = self.max_connections_per_ip.unwrap_or(max_connections);
        range("--max-connections-per-ip", per_ip as u64, per_ip > 0, "1 or more")?;
        let idle = self.connections_max_idle_ms.unwrap_or(crate::limits::CONNECTIONS_MAX_IDLE_MS);
        range("--connections-max-idle-ms", idle, idle >= 1000, "at least 1000")?;
        Ok(NodeConfig {
            bucket_is_embedded: self.bucket.is_none(),
            bucket: self.bucket.unwrap_or_else(|| format!("file://{}", data_dir.join("bucket").display())),
            data_dir,
            cluster_name,
            kafka_addr,
            advertised,
            admin_addr: bind_address("--admin-addr", self.admin_addr.as_deref(), 9644)?,
            catalog_addr: bind_address("--catalog-addr", self.catalog_addr.as_deref(), 8181)?,
            catalog_tokens_file: self.catalog_tokens_file,
            schema_addr: bind_address("--schema-addr", self.schema_addr.as_deref(), 8081)?,
            http_names,
            rpc_addr,
            rpc_addr_is_given: self.rpc_addr.is_some(),
            schema_addr_is_given: self.schema_addr.is_some(),
            advertised_rpc,
            cluster_secret_file: self.cluster_secret_file,
            rpc_tls,
            seeds,
            replace: self.replace,
            rack,
            default_replication_factor: self.default_replication_factor,
            shards: self.shards,
            cache_bytes: self.cache_bytes.map(|b| b.0),
            disk_bytes: self.disk_bytes.map(|b| b.0),
            catch_up_bytes,
            num_partitions,
            auto_create_topics: self.auto_create_topics_enable.unwrap_or(true),
            group_initial_rebalance_delay_ms: self.group_initial_rebalance_delay_ms.unwrap_or(3000),
            group_min_session_timeout_ms: session_min,
            group_max_session_timeout_ms: session_max,
            group_max_size,
            offsets_retention_minutes: retention,
            producer_id_expiration_ms: expiration,
            cut_interval_ms: cut_interval,
            max_connections,
            max_connections_per_ip: per_ip,
            connections_max_idle_ms: idle,
        })
    }
}

fn is_cluster_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len())
        && name.chars().all(legal)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

/// An entry of `--http-allowed-hosts`, in lower case.
fn allowed_host(text: String) -> Result<String, ConfigError> {
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = name.chars().all(legal) && !name.trim_start_matches('.').is_empty();
    if name == "*" || is_name || name.parse::<IpAddr>().is_ok() {
        Ok(name)
    } else {
        Err(ConfigError::AllowedHost(text))
    }
}

/// An entry of `--seed`, with the port that --rpc-addr has by default if it names none.
fn seed(text: String) -> Result<String, ConfigError> {
    let trimmed = text.trim();
    let has_port = trimmed.contains(':') && !trimmed.ends_with(']');
    let with_port = if has_port { trimmed.to_owned() } else { format!("{trimmed}:{RPC_PORT}") };
    match host_port(&with_port) {
        Some((_, port)) if port > 0 => Ok(with_port.to_ascii_lowercase()),
        _ => Err(ConfigError::Address { setting: "--seed", value: text, port: RPC_PORT }),
    }
}

fn bind_address(setting: &'static str, given: Option<&str>, port: u16) -> Result<SocketAddr, ConfigError> {
    use std::net::ToSocketAddrs;
    let Some(text) = given else { return Ok(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)) };
    let bad = || ConfigError::Address { setting, value: text.to_owned(), port };
    let (host, port) = host_port(text).ok_or_else(bad)?;
    (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)
}
