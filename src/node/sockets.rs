//! The sockets of a start, and the rules for callers of the HTTP ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::error::StartError;
use super::identity::Identity;
use crate::config::node::{HttpNames, NodeConfig};
use crate::net::http::{HttpGuard, HttpPort};
use crate::net::listen::{BindError, Bound, Listening};
use crate::net::tokens::Tokens;

/// How long a start waits for an address in use, and between tries.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// Binds the address for other brokers. A cluster of one that did not ask for an address takes any port when the
/// default one is in use: several of them run on one machine, and need no other broker.
pub(super) fn bind_rpc(config: &NodeConfig, identity: &Identity) -> Result<Bound, BindError> {
    let bound = bind("--rpc-addr", config.rpc_addr);
    match bound {
        Err(error) if !config.rpc_addr_is_given && identity.seeds.is_empty() => {
            let any = SocketAddr::new(config.rpc_addr.ip(), 0);
            tracing::info!(%error, "other brokers cannot join this one at the default port");
            bind("--rpc-addr", any)
        }
        bound => bound,
    }
}

/// Binds the address of the Schema Registry. A broker that did not ask for an address takes any port when the default
/// one is in use: several run on one machine, and few of them are asked for schemas.
pub(super) fn bind_schemas(config: &NodeConfig) -> Result<Bound, BindError> {
    let bound = bind("--schema-addr", config.schema_addr);
    match bound {
        Err(error) if !config.schema_addr_is_given => {
            let any = bind("--schema-addr", SocketAddr::new(config.schema_addr.ip(), 0))?;
            tracing::info!(%error, addr = %any.addr(), "the schema registry is served at another port than the default one");
            Ok(any)
        }
        bound => bound,
    }
}

/// Binds, and waits a short time for an address in use: the kernel frees the sockets of a killed broker only after it
/// has torn down its rings, a little after the process has ended.
pub(super) fn bind(flag: &'static str, addr: SocketAddr) -> Result<Bound, BindError> {
    let mut left = BIND_PATIENCE;
    loop {
        match Bound::bind(flag, addr) {
            Err(error) if error.source.kind() == std::io::ErrorKind::AddrInUse && !left.is_zero() => {
                std::thread::sleep(BIND_PAUSE);
                left = left.saturating_sub(BIND_PAUSE);
            }
            bound => {
                let waited = BIND_PATIENCE.saturating_sub(left);
                if !waited.is_zero() {
                    tracing::info!(%addr, ?waited, "waited for the address of a process that has just ended");
                }
                return bound;
            }
        }
    }
}

/// A listening socket, and who may call it.
pub(super) fn http(listening: Listening, config: &NodeConfig) -> HttpPort {
    let guard = HttpGuard::new(listening.addr(), names(config));
    HttpPort { guard, socket: listening.into_std(), tokens: None, signs: Arc::default() }
}

/// Who may call the catalog; `None`: every caller.
///
/// # Errors
/// The file of tokens is of no use.
pub(super) fn tokens(config: &NodeConfig) -> Result<Option<Arc<Tokens>>, StartError> {
    let loaded = config.catalog_tokens_file.as_deref().map(Tokens::load).transpose().map_err(StartError::Tokens)?;
    Ok(loaded.map(Arc::new))
}

/// The names of the settings, and the machine's.
fn names(config: &NodeConfig) -> HttpNames {
    let mut names = config.http_names.clone();
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names.own.extend(Some(machine.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()));
    names
}
