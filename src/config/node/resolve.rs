//! Defaults of the settings, and what is checked before a start.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::{ConfigError, ExternalCatalog, HttpNames, NodeConfig, RPC_PORT, RawConfig, RpcTlsFiles};
use crate::limits::{
    CONNECTIONS_MAX, CONNECTIONS_MAX_IDLE_MS, CUT_INTERVAL_MS, GROUP_MEMBERS_MAX, PRODUCER_ID_EXPIRATION_MS,
};

const KAFKA_PORT: u16 = 9092;
/// Kafka's protocol has 31 bits for a session timeout. Milliseconds.
const SESSION_MAX: u64 = i32::MAX as u64;

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
        let data_dir = self.data_dir.clone().unwrap_or_else(|| "tidewater-data".into());
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        let (kafka_addr, advertised) = self.kafka_addresses()?;
        let (rpc_addr, advertised_rpc) = self.rpc_addresses()?;
        let (http_names, seeds) = (self.http_names()?, self.seeds()?);
        let external_catalog = ExternalCatalog::of(&self)?;
        let session_min = within(
            "--group-min-session-timeout-ms",
            self.group_min_session_timeout_ms.unwrap_or(6000),
            0..=SESSION_MAX,
        )?;
        let max_connections =
            within("--max-connections", self.max_connections.unwrap_or(CONNECTIONS_MAX), 1..=u64::MAX)?;
        let cut_interval_ms = self.cut_interval_ms.unwrap_or(CUT_INTERVAL_MS);
        if cut_interval_ms != 0 && !(1_000..=86_400_000).contains(&cut_interval_ms) {
            let expected = "0 (no cuts) or 1000 to 86400000".to_owned();
            return Err(ConfigError::Range { setting: "--cut-interval-ms", value: cut_interval_ms, expected });
        }
        if let Some(factor) = self.default_replication_factor {
            within("--default-replication-factor", factor, 1..=15)?;
        }
        if let Some(shards) = self.shards {
            within("--shards", shards, 1..=1024)?;
        }
        Ok(NodeConfig {
            bucket_is_embedded: self.bucket.is_none(),
            bucket: self.bucket.unwrap_or_else(|| format!("file://{}", data_dir.join("bucket").display())),
            data_dir,
            cluster_name: cluster_name(self.cluster_name)?,
            kafka_addr,
            advertised,
            admin_addr: bind_address("--admin-addr", self.admin_addr.as_deref(), 9644)?,
            catalog_addr: bind_address("--catalog-addr", self.catalog_addr.as_deref(), 8181)?,
            catalog_tokens_file: self.catalog_tokens_file,
            external_catalog,
            schema_addr: bind_address("--schema-addr", self.schema_addr.as_deref(), 8081)?,
            http_names,
            rpc_addr,
            rpc_addr_is_given: self.rpc_addr.is_some(),
            schema_addr_is_given: self.schema_addr.is_some(),
            advertised_rpc,
            cluster_secret_file: self.cluster_secret_file,
            rpc_tls: match (self.rpc_tls_cert, self.rpc_tls_key, self.rpc_tls_ca) {
                (None, None, None) => None,
                (Some(cert), Some(key), Some(ca)) => Some(RpcTlsFiles { cert, key, ca }),
                _ => return Err(ConfigError::HalfTls),
            },
            replace: replaced(self.replace, &seeds)?,
            seeds,
            rack: rack(self.rack)?,
            default_replication_factor: self.default_replication_factor,
            shards: self.shards,
            cache_bytes: self.cache_bytes.map(|b| b.0),
            disk_bytes: self.disk_bytes.map(|b| b.0),
            catch_up_bytes: within(
                "--catch-up-bytes",
                self.catch_up_bytes.map_or(CATCH_UP_BYTES, |bytes| bytes.0),
                CATCH_UP_BYTES_MIN..=u64::MAX,
            )?,
            num_partitions: within("--num-partitions", self.num_partitions.unwrap_or(1), 1..=100_000)?,
            auto_create_topics: self.auto_create_topics_enable.unwrap_or(true),
            group_initial_rebalance_delay_ms: self.group_initial_rebalance_delay_ms.unwrap_or(3000),
            group_min_session_timeout_ms: session_min,
            group_max_session_timeout_ms: within(
                "--group-max-session-timeout-ms",
                self.group_max_session_timeout_ms.unwrap_or(30 * 60 * 1000),
                session_min..=SESSION_MAX,
            )?,
            group_max_size: within(
                "--group-max-size",
                self.group_max_size.unwrap_or(GROUP_MEMBERS_MAX),
                1..=i32::MAX as u64,
            )?,
            offsets_retention_minutes: within(
                "--offsets-retention-minutes",
                self.offsets_retention_minutes.unwrap_or(7 * 24 * 60),
                1..=u64::from(u32::MAX),
            )?,
            producer_id_expiration_ms: within(
                "--producer-id-expiration-ms",
                self.producer_id_expiration_ms.unwrap_or(PRODUCER_ID_EXPIRATION_MS),
                1..=i64::MAX as u64,
            )?,
            cut_interval_ms,
            max_connections,
            max_connections_per_ip: within(
                "--max-connections-per-ip",
                self.max_connections_per_ip.unwrap_or(max_connections),
                1..=u64::MAX,
            )?,
            connections_max_idle_ms: within(
                "--connections-max-idle-ms",
                self.connections_max_idle_ms.unwrap_or(CONNECTIONS_MAX_IDLE_MS),
                1000..=u64::MAX,
            )?,
        })
    }

    /// Where the Kafka port is bound, and what clients are to use if that is another address.
    fn kafka_addresses(&self) -> Result<(SocketAddr, Option<(String, u16)>), ConfigError> {
        let addr = bind_address("--kafka-addr", self.kafka_addr.as_deref(), KAFKA_PORT)?;
        let advertised = advertised("--advertised-kafka-addr", self.advertised_kafka_addr.as_deref(), KAFKA_PORT)?;
        if advertised.is_none() && addr.ip().is_unspecified() {
            return Err(ConfigError::WildcardAdvertised(addr));
        }
        Ok((addr, advertised))
    }

    /// As [`Self::kafka_addresses`], for other brokers. A broker alone needs no address that others can use.
    fn rpc_addresses(&self) -> Result<(SocketAddr, Option<(String, u16)>), ConfigError> {
        let addr = bind_address("--rpc-addr", self.rpc_addr.as_deref(), RPC_PORT)?;
        let advertised = advertised("--advertised-rpc-addr", self.advertised_rpc_addr.as_deref(), RPC_PORT)?;
        if advertised.is_none() && addr.ip().is_unspecified() && self.seed.is_some() {
            return Err(ConfigError::WildcardRpc(addr));
        }
        Ok((addr, advertised))
    }

    fn http_names(&self) -> Result<HttpNames, ConfigError> {
        let allowed = self.http_allowed_hosts.iter().flatten().cloned().map(allowed_host);
        let given =
            [&self.kafka_addr, &self.advertised_kafka_addr, &self.admin_addr, &self.catalog_addr, &self.schema_addr];
        let own = given.into_iter().flatten().filter_map(|text| Some(host_port(text)?.0.to_ascii_lowercase()));
        Ok(HttpNames { own: own.collect(), allowed: allowed.collect::<Result<_, _>>()? })
    }

    fn seeds(&self) -> Result<Vec<String>, ConfigError> {
        let seeds: Vec<String> = self.seed.iter().flatten().cloned().map(seed).collect::<Result<_, _>>()?;
        match seeds.iter().enumerate().find(|(n, seed)| seeds.iter().take(*n).any(|s| s == *seed)) {
            Some((_, twice)) => Err(ConfigError::SeedTwice(twice.clone())),
            None => Ok(seeds),
        }
    }
}

/// The value, if it is one of `range`.
fn within<T>(setting: &'static str, value: T, range: RangeInclusive<u64>) -> Result<T, ConfigError>
where
    T: Copy + TryInto<u64>,
{
    let Ok(number) = value.try_into() else { unreachable!("a setting has at most 64 bits") };
    if range.contains(&number) {
        return Ok(value);
    }
    let expected = match (range.start(), range.end()) {
        (start, &u64::MAX) => format!("at least {start}"),
        (start, end) => format!("{start} to {end}"),
    };
    Err(ConfigError::Range { setting, value: number, expected })
}

/// The address of `setting`, if it is given.
fn advertised(setting: &'static str, given: Option<&str>, port: u16) -> Result<Option<(String, u16)>, ConfigError> {
    let address = |text| host_port(text).ok_or_else(|| ConfigError::Address { setting, value: text.to_owned(), port });
    given.map(address).transpose()
}

fn cluster_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = given.unwrap_or_else(|| "tidewater".into());
    if is_cluster_name(&name) { Ok(name) } else { Err(ConfigError::ClusterName(name)) }
}

fn rack(given: Option<String>) -> Result<Option<String>, ConfigError> {
    match given.filter(|rack| !rack.is_empty()) {
        Some(rack) if rack.len() > 255 || rack.chars().any(char::is_control) => Err(ConfigError::Rack(rack)),
        rack => Ok(rack),
    }
}

fn replaced(given: Option<i32>, seeds: &[String]) -> Result<Option<i32>, ConfigError> {
    match given {
        Some(node) if node < 1 => Err(ConfigError::Replace(node)),
        Some(_) if seeds.is_empty() => Err(ConfigError::ReplaceWithoutSeed),
        node => Ok(node),
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
