//! Settings of this process: flag over `TIDEWATER_*` variable over TOML file over default. As given ([`RawConfig`]) and
//! as the node uses them ([`NodeConfig`]); defaults and checks are in `resolve`.

mod byte_size;
mod external_catalog;
mod resolve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

pub use byte_size::ByteSize;
pub use external_catalog::ExternalCatalog;
pub use resolve::CATCH_UP_BYTES;

use super::spelling;

/// The port of `--rpc-addr`, if it is not given.
pub const RPC_PORT: u16 = 33145;

/// Settings as given on the command line, in the environment or in the file; every field may be missing. Clap fills it
/// from flags and variables; the file is read into the same type, and fills the gaps.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    /// Directory of journal, segments, checkpoints and cache [default: ./tidewater-data]
    #[arg(long, env = "TIDEWATER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The cluster's name; several clusters may share a bucket [default: tidewater]
    #[arg(long, env = "TIDEWATER_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// The bucket: file:///dir, s3://bucket/prefix, gs://…, az://… [default: the directory bucket below --data-dir]
    #[arg(long, env = "TIDEWATER_BUCKET", value_name = "URL")]
    pub bucket: Option<String>,
    /// Address for Kafka clients [default: 127.0.0.1:9092]
    #[arg(long, env = "TIDEWATER_KAFKA_ADDR", value_name = "HOST:PORT")]
    pub kafka_addr: Option<String>,
    /// The address that Kafka clients get to connect to; required when --kafka-addr is a wildcard [default: the bound
    /// address]
    #[arg(long, env = "TIDEWATER_ADVERTISED_KAFKA_ADDR", value_name = "HOST:PORT")]
    pub advertised_kafka_addr: Option<String>,
    /// Address of admin API, health and metrics [default: 127.0.0.1:9644]
    #[arg(long, env = "TIDEWATER_ADMIN_ADDR", value_name = "HOST:PORT")]
    pub admin_addr: Option<String>,
    /// Address of the Iceberg REST catalog [default: 127.0.0.1:8181]
    #[arg(long, env = "TIDEWATER_CATALOG_ADDR", value_name = "HOST:PORT")]
    pub catalog_addr: Option<String>,
    /// File with the tokens and clients that may call the catalog, one a line: `token NAME TOKEN` or `client ID SECRET`
    /// [default: none, every caller may]
    #[arg(long, env = "TIDEWATER_CATALOG_TOKENS_FILE", value_name = "FILE")]
    pub catalog_tokens_file: Option<PathBuf>,
    /// URL of an external Iceberg REST catalog, which then holds the tables of topics instead of the built-in one
    /// [default: none]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_URI", value_name = "URL")]
    pub iceberg_catalog_uri: Option<String>,
    /// The warehouse's name in the external catalog [default: none is sent]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_WAREHOUSE", value_name = "NAME")]
    pub iceberg_catalog_warehouse: Option<String>,
    /// File with a bearer token for the external catalog; it is read again when it changes [default: none]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_TOKEN_FILE", value_name = "FILE")]
    pub iceberg_catalog_token_file: Option<PathBuf>,
    /// File with CLIENT_ID:SECRET, for which an OAuth2 server gives tokens for the external catalog [default: none]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_CREDENTIAL_FILE", value_name = "FILE")]
    pub iceberg_catalog_oauth2_credential_file: Option<PathBuf>,
    /// The OAuth2 server's token endpoint [default: /v1/oauth/tokens of the external catalog]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_SERVER_URI", value_name = "URL")]
    pub iceberg_catalog_oauth2_server_uri: Option<String>,
    /// The scope that the OAuth2 server is asked for [default: catalog]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_SCOPE", value_name = "SCOPE")]
    pub iceberg_catalog_oauth2_scope: Option<String>,
    /// Headers of each request to the external catalog, comma-separated; no secrets, which are seen in the list of
    /// processes [default: none]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_HEADERS", value_name = "NAME=VALUE,…", value_delimiter = ',')]
    pub iceberg_catalog_headers: Option<Vec<String>>,
    /// Address of the Schema Registry [default: 127.0.0.1:8081, or any free port if that one is in use]
    #[arg(long, env = "TIDEWATER_SCHEMA_ADDR", value_name = "HOST:PORT")]
    pub schema_addr: Option<String>,
    /// Address for the other brokers of the cluster [default: 127.0.0.1:33145; a broker without --seed takes any free
    /// port if that one is in use]
    #[arg(long, env = "TIDEWATER_RPC_ADDR", value_name = "HOST:PORT")]
    pub rpc_addr: Option<String>,
    /// The address under which other brokers reach this one; required when --rpc-addr is a wildcard and --seed is given
    /// [default: the bound address]
    #[arg(long, env = "TIDEWATER_ADVERTISED_RPC_ADDR", value_name = "HOST:PORT")]
    pub advertised_rpc_addr: Option<String>,
    /// File with the cluster's secret, at least 16 bytes: brokers without it are refused [default: none]
    #[arg(long, env = "TIDEWATER_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub cluster_secret_file: Option<PathBuf>,
    /// Certificate for connections between brokers, in PEM form; with --rpc-tls-key and --rpc-tls-ca [default: no TLS]
    #[arg(long, env = "TIDEWATER_RPC_TLS_CERT", value_name = "FILE")]
    pub rpc_tls_cert: Option<PathBuf>,
    /// Private key of --rpc-tls-cert, in PEM form
    #[arg(long, env = "TIDEWATER_RPC_TLS_KEY", value_name = "FILE")]
    pub rpc_tls_key: Option<PathBuf>,
    /// Authority that signs the certificates of all brokers, in PEM form
    #[arg(long, env = "TIDEWATER_RPC_TLS_CA", value_name = "FILE")]
    pub rpc_tls_ca: Option<PathBuf>,
    /// More host names under which clients call the admin, catalog and Schema Registry ports, comma-separated;
    /// .example.com is every name below it, * every name. Web pages of these hosts, except by *, may change things
    /// [default: none]
    #[arg(long, env = "TIDEWATER_HTTP_ALLOWED_HOSTS", value_name = "NAMES", value_delimiter = ',')]
    pub http_allowed_hosts: Option<Vec<String>>,
    /// The brokers that form the cluster, by their --rpc-addr, comma-separated: the same list in the same order for
    /// each; a broker that is not among them joins the cluster they have formed [default: none, a cluster of one]
    #[arg(long, env = "TIDEWATER_SEED", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub seed: Option<Vec<String>>,
    /// Take the place of this node, whose data directory is lost; only for a start with an empty data directory
    #[arg(long, env = "TIDEWATER_REPLACE", value_name = "NODE")]
    pub replace: Option<i32>,
    /// The rack or zone of this broker; replicas are spread over racks [default: none]
    #[arg(long, env = "TIDEWATER_RACK", value_name = "NAME")]
    pub rack: Option<String>,
    /// Replicas of a partition when its topic is created without a number of them, or with -1 [default: 3, or the
    /// number of brokers if there are fewer]
    #[arg(long, env = "TIDEWATER_DEFAULT_REPLICATION_FACTOR", value_name = "N")]
    pub default_replication_factor: Option<u16>,
    /// Shards, each pinned to a core; another number may be given at any start [default: the cores less one in eight,
    /// at least one; later the number the data directory has]
    #[arg(long, env = "TIDEWATER_SHARDS", value_name = "N")]
    pub shards: Option<u16>,
    /// Disk for the cache of chunks from the bucket, in bytes or with a unit (10GiB) [default: a tenth of --disk-bytes]
    #[arg(long, env = "TIDEWATER_CACHE_BYTES", value_name = "BYTES")]
    pub cache_bytes: Option<ByteSize>,
    /// Disk for data directory, cache, and a directory bucket on the same file system, together [default: nine tenths
    /// of the free space and of what the data directory holds]
    #[arg(long, env = "TIDEWATER_DISK_BYTES", value_name = "BYTES")]
    pub disk_bytes: Option<ByteSize>,
    /// Journal of a shard up to which entries are kept for replicas that were away; one that lacks older entries is
    /// rebuilt [default: 256MiB]
    #[arg(long, env = "TIDEWATER_CATCH_UP_BYTES", value_name = "BYTES")]
    pub catch_up_bytes: Option<ByteSize>,
    /// Partitions of a topic that is created without a number of them [default: 1]
    #[arg(long, env = "TIDEWATER_NUM_PARTITIONS", value_name = "N")]
    pub num_partitions: Option<u32>,
    /// Create a topic when a client first asks for it [default: true]
    #[arg(long, env = "TIDEWATER_AUTO_CREATE_TOPICS_ENABLE", value_name = "BOOL")]
    pub auto_create_topics_enable: Option<bool>,
    /// How long a new consumer group waits for more members, in milliseconds [default: 3000]
    #[arg(long, env = "TIDEWATER_GROUP_INITIAL_REBALANCE_DELAY_MS", value_name = "MS")]
    pub group_initial_rebalance_delay_ms: Option<u64>,
    /// Shortest session timeout that a group member may ask for, in milliseconds [default: 6000]
    #[arg(long, env = "TIDEWATER_GROUP_MIN_SESSION_TIMEOUT_MS", value_name = "MS")]
    pub group_min_session_timeout_ms: Option<u64>,
    /// Longest session timeout that a group member may ask for, in milliseconds [default: 1800000]
    #[arg(long, env = "TIDEWATER_GROUP_MAX_SESSION_TIMEOUT_MS", value_name = "MS")]
    pub group_max_session_timeout_ms: Option<u64>,
    /// Members of one consumer group; more are refused [default: 10000]
    #[arg(long, env = "TIDEWATER_GROUP_MAX_SIZE", value_name = "N")]
    pub group_max_size: Option<usize>,
    /// How long committed offsets outlive their group's last member, in minutes [default: 10080]
    #[arg(long, env = "TIDEWATER_OFFSETS_RETENTION_MINUTES", value_name = "MINUTES")]
    pub offsets_retention_minutes: Option<u64>,
    /// How long a partition remembers a silent idempotent producer, in milliseconds [default: 86400000]
    #[arg(long, env = "TIDEWATER_PRODUCER_ID_EXPIRATION_MS", value_name = "MS")]
    pub producer_id_expiration_ms: Option<u64>,
    /// Time between two cuts of the cluster, earlier states that tidewater restore --at can go back to, in
    /// milliseconds; 0 makes none on a schedule [default: 60000]
    #[arg(long, env = "TIDEWATER_CUT_INTERVAL_MS", value_name = "MS")]
    pub cut_interval_ms: Option<u64>,
    /// Kafka connections of the node; more are closed at once [default: 20000]
    #[arg(long, env = "TIDEWATER_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// Kafka connections from one address; more are closed at once [default: as many as --max-connections]
    #[arg(long, env = "TIDEWATER_MAX_CONNECTIONS_PER_IP", value_name = "N")]
    pub max_connections_per_ip: Option<usize>,
    /// How long a Kafka connection may be silent, with no request in work, before it is closed, in milliseconds
    /// [default: 600000]
    #[arg(long, env = "TIDEWATER_CONNECTIONS_MAX_IDLE_MS", value_name = "MS")]
    pub connections_max_idle_ms: Option<u64>,
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0:?} is not a number of bytes; write 1073741824 or 1GiB")]
    ByteSize(String),
    #[error("cannot read the config file {path}: {why}")]
    File {
        path: PathBuf,
        /// The text of the system or of the parser.
        why: String,
    },
    #[error("{setting}: {value:?} is not an address; write HOST:PORT, for example 127.0.0.1:{port}")]
    Address {
        setting: &'static str,
        value: String,
        /// For the example in the text.
        port: u16,
    },
    #[error(
        "--kafka-addr {0} is a wildcard: set --advertised-kafka-addr to what clients can reach, for example this machine's host name and port"
    )]
    WildcardAdvertised(SocketAddr),
    #[error(
        "--rpc-addr {0} is a wildcard: set --advertised-rpc-addr to what the other brokers can reach, for example this machine's host name and port"
    )]
    WildcardRpc(SocketAddr),
    #[error("TLS between brokers needs all of --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca")]
    HalfTls,
    /// Not a host name, `.suffix` or `*`.
    #[error(
        "--http-allowed-hosts {0:?}: write host names without scheme and port, for example broker.example.com, .example.com for all names below it, or * for every name"
    )]
    AllowedHost(String),
    /// What is wrong with the settings of the external catalog, and what to do.
    #[error("{0}")]
    ExternalCatalog(String),
    #[error("--seed names {0:?} twice")]
    SeedTwice(String),
    #[error("--rack {0:?}: use at most 255 characters, none of them a control character")]
    Rack(String),
    #[error("--replace {0}: node ids are 1 and greater; `tidewater cluster brokers` lists them")]
    Replace(i32),
    #[error("--replace needs --seed: the addresses of brokers of the cluster")]
    ReplaceWithoutSeed,
    #[error("{setting} is {value}, but {expected} is expected")]
    Range { setting: &'static str, value: u64, expected: String },
    /// Not legal in object keys.
    #[error("--cluster-name {0:?}: use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit")]
    ClusterName(String),
}

/// The names of a broker, in lower case. IP addresses and `localhost` are names of every broker. Node-wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpNames {
    /// The hosts of the listen and advertised addresses.
    pub own: Vec<String>,
    /// `--http-allowed-hosts`: a name, `.example.com` for all names below it, or `*` for every name.
    pub allowed: Vec<String>,
}

/// The files of TLS between brokers, in PEM form. Node-wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcTlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// Settings as the node uses them. Node-wide.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Absolute.
    pub data_dir: PathBuf,
    pub cluster_name: String,
    /// As in `--bucket`.
    pub bucket: String,
    /// The bucket is a directory below the data directory: the default.
    pub bucket_is_embedded: bool,
    /// Address to bind; port 0 takes a free one.
    pub kafka_addr: SocketAddr,
    /// Host and port.
    pub advertised: Option<(String, u16)>,
    pub admin_addr: SocketAddr,
    pub catalog_addr: SocketAddr,
    pub catalog_tokens_file: Option<PathBuf>,
    /// `None`: tables are in the built-in catalog.
    pub external_catalog: Option<ExternalCatalog>,
    pub schema_addr: SocketAddr,
    /// `--schema-addr` was given.
    pub schema_addr_is_given: bool,
    /// The names by which clients may call the admin, catalog and schema ports.
    pub http_names: HttpNames,
    /// Address to bind for other brokers; port 0 takes a free one.
    pub rpc_addr: SocketAddr,
    /// `--rpc-addr` was given.
    pub rpc_addr_is_given: bool,
    /// Host and port under which other brokers reach this one.
    pub advertised_rpc: Option<(String, u16)>,
    pub cluster_secret_file: Option<PathBuf>,
    pub rpc_tls: Option<RpcTlsFiles>,
    /// `--seed`: `host:port` of each, in the order given.
    pub seeds: Vec<String>,
    /// `--replace`.
    pub replace: Option<i32>,
    pub rack: Option<String>,
    /// `default.replication.factor`; `None` is 3, or the number of brokers if there are fewer.
    pub default_replication_factor: Option<u16>,
    /// Shards; `None` takes the number that the data directory has, or `node::cores` for a new one.
    pub shards: Option<u16>,
    /// `None` is a tenth of the disk budget.
    pub cache_bytes: Option<u64>,
    /// `None`: see `node::budgets`.
    pub disk_bytes: Option<u64>,
    /// Bytes of a shard's journal up to which entries are kept for replicas that lag.
    pub catch_up_bytes: u64,
    /// `num.partitions`.
    pub num_partitions: u32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout_ms: u64,
    /// `group.max.size`.
    pub group_max_size: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention_minutes: u64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: u64,
    /// `cut.interval.ms`; 0: no cuts on a schedule.
    pub cut_interval_ms: u64,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`.
    pub connections_max_idle_ms: u64,
}

impl RawConfig {
    /// Reads a TOML file of the same keys.
    ///
    /// # Errors
    /// The file is missing, malformed or has an unknown key.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::File { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
        Self::parse(&text).map_err(bad)
    }

    /// Reads TOML of the same keys.
    ///
    /// # Errors
    /// It is malformed or has an unknown key; the text is the parser's, or names the key that was probably meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        let settings = Self::augment_args(clap::Command::new("tidewater"));
        let names: Vec<&str> = settings.get_arguments().filter_map(clap::Arg::get_long).collect();
        if let Some(unknown) = table.keys().find(|key| !names.contains(&key.as_str())) {
            let hint = spelling::hint(unknown, names.iter().copied());
            let all = if hint.is_empty() { "; `tidewater serve --help` lists them" } else { "" };
            return Err(format!("there is no setting {unknown:?}{hint}{all}"));
        }
        toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())
    }

    /// Fills the gaps of `self` from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            cluster_name: self.cluster_name.or(below.cluster_name),
            bucket: self.bucket.or(below.bucket),
            kafka_addr: self.kafka_addr.or(below.kafka_addr),
            advertised_kafka_addr: self.advertised_kafka_addr.or(below.advertised_kafka_addr),
            admin_addr: self.admin_addr.or(below.admin_addr),
            catalog_addr: self.catalog_addr.or(below.catalog_addr),
            catalog_tokens_file: self.catalog_tokens_file.or(below.catalog_tokens_file),
            iceberg_catalog_uri: self.iceberg_catalog_uri.or(below.iceberg_catalog_uri),
            iceberg_catalog_warehouse: self.iceberg_catalog_warehouse.or(below.iceberg_catalog_warehouse),
            iceberg_catalog_token_file: self.iceberg_catalog_token_file.or(below.iceberg_catalog_token_file),
            iceberg_catalog_oauth2_credential_file: self
                .iceberg_catalog_oauth2_credential_file
                .or(below.iceberg_catalog_oauth2_credential_file),
            iceberg_catalog_oauth2_server_uri: self
                .iceberg_catalog_oauth2_server_uri
                .or(below.iceberg_catalog_oauth2_server_uri),
            iceberg_catalog_oauth2_scope: self.iceberg_catalog_oauth2_scope.or(below.iceberg_catalog_oauth2_scope),
            iceberg_catalog_headers: self.iceberg_catalog_headers.or(below.iceberg_catalog_headers),
            schema_addr: self.schema_addr.or(below.schema_addr),
            http_allowed_hosts: self.http_allowed_hosts.or(below.http_allowed_hosts),
            rpc_addr: self.rpc_addr.or(below.rpc_addr),
            advertised_rpc_addr: self.advertised_rpc_addr.or(below.advertised_rpc_addr),
            cluster_secret_file: self.cluster_secret_file.or(below.cluster_secret_file),
            rpc_tls_cert: self.rpc_tls_cert.or(below.rpc_tls_cert),
            rpc_tls_key: self.rpc_tls_key.or(below.rpc_tls_key),
            rpc_tls_ca: self.rpc_tls_ca.or(below.rpc_tls_ca),
            seed: self.seed.or(below.seed),
            replace: self.replace.or(below.replace),
            rack: self.rack.or(below.rack),
            default_replication_factor: self.default_replication_factor.or(below.default_replication_factor),
            shards: self.shards.or(below.shards),
            cache_bytes: self.cache_bytes.or(below.cache_bytes),
            disk_bytes: self.disk_bytes.or(below.disk_bytes),
            catch_up_bytes: self.catch_up_bytes.or(below.catch_up_bytes),
            num_partitions: self.num_partitions.or(below.num_partitions),
            auto_create_topics_enable: self.auto_create_topics_enable.or(below.auto_create_topics_enable),
            group_initial_rebalance_delay_ms: self
                .group_initial_rebalance_delay_ms
                .or(below.group_initial_rebalance_delay_ms),
            group_min_session_timeout_ms: self.group_min_session_timeout_ms.or(below.group_min_session_timeout_ms),
            group_max_session_timeout_ms: self.group_max_session_timeout_ms.or(below.group_max_session_timeout_ms),
            group_max_size: self.group_max_size.or(below.group_max_size),
            offsets_retention_minutes: self.offsets_retention_minutes.or(below.offsets_retention_minutes),
            producer_id_expiration_ms: self.producer_id_expiration_ms.or(below.producer_id_expiration_ms),
            cut_interval_ms: self.cut_interval_ms.or(below.cut_interval_ms),
            max_connections: self.max_connections.or(below.max_connections),
            max_connections_per_ip: self.max_connections_per_ip.or(below.max_connections_per_ip),
            connections_max_idle_ms: self.connections_max_idle_ms.or(below.connections_max_idle_ms),
        }
    }
}

impl NodeConfig {
    /// One line for each listener that other machines can reach, and for a setting that lets web pages read answers.
    #[must_use]
    pub fn exposure_warnings(&self) -> Vec<String> {
        let addrs = [
            ("--kafka-addr", self.kafka_addr),
            ("--admin-addr", self.admin_addr),
            ("--catalog-addr", self.catalog_addr),
            ("--schema-addr", self.schema_addr),
        ];
        let guarded = |flag: &str| flag == "--catalog-addr" && self.catalog_tokens_file.is_some();
        let open = addrs.into_iter().filter(|(flag, addr)| !addr.ip().is_loopback() && !guarded(flag));
        let exposed = open.map(|(flag, addr)| {
            format!("{flag} {addr} can be reached from other machines and has no authentication: anyone may read, write and delete")
        });
        let open = self.cluster_secret_file.is_none() && self.rpc_tls.is_none() && !self.rpc_addr.ip().is_loopback();
        let open = open.then(|| {
            format!(
                "--rpc-addr {} can be reached from other machines, and has neither --cluster-secret-file nor \
                 --rpc-tls-cert: anyone may act as a broker of this cluster",
                self.rpc_addr
            )
        });
        let any = self.http_names.allowed.iter().any(|name| name == "*");
        let any = any.then(|| {
            "--http-allowed-hosts * accepts every host name: a web page can read the admin, catalog and Schema Registry \
             ports by DNS rebinding"
                .to_owned()
        });
        exposed.chain(open).chain(any).collect()
    }
}
