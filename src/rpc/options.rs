//! What the operator gives for connections between brokers: the cluster secret and the files of TLS, read at the start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use uuid::Uuid;

use crate::config::node::{NodeConfig, RpcTlsFiles};

/// The shortest secret: one that can be guessed protects nothing.
const SECRET_MIN: usize = 16;

/// The content of the cluster's secret file, without white space around it. Node-wide; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// `None` if it is shorter than [`SECRET_MIN`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.trim_ascii();
        (bytes.len() >= SECRET_MIN).then(|| Self(bytes.into()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Both ends of TLS; each side shows a certificate of the same authority. Node-wide.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

/// How this broker talks to others. Node-wide.
#[derive(Clone, Debug)]
pub struct RpcOptions {
    /// Of the data directory.
    pub birth: Uuid,
    pub(super) secret: Option<Secret>,
    pub(super) tls: Option<Tls>,
}

/// Why the files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcOptionsError {
    #[error("{setting}: cannot read {path}: {why}")]
    File { setting: &'static str, path: PathBuf, why: String },
    #[error(
        "--cluster-secret-file: {0} has fewer than {SECRET_MIN} bytes; make one with `openssl rand -hex 32` and give every broker a copy"
    )]
    ShortSecret(PathBuf),
    #[error("--rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca do not make up TLS: {0}")]
    Tls(String),
}

impl RpcOptions {
    /// Without TLS.
    #[must_use]
    pub const fn plain(birth: Uuid, secret: Option<Secret>) -> Self {
        Self { birth, secret, tls: None }
    }

    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// A file is missing or of no use.
    pub fn load(config: &NodeConfig, birth: Uuid) -> Result<Self, RpcOptionsError> {
        let secret = config.cluster_secret_file.as_deref().map(secret).transpose()?;
        Ok(Self { birth, secret, tls: config.rpc_tls.as_ref().map(tls).transpose()? })
    }
}

fn file(setting: &'static str, path: &Path) -> Result<Vec<u8>, RpcOptionsError> {
    std::fs::read(path).map_err(|error| RpcOptionsError::File {
        setting,
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn secret(path: &Path) -> Result<Secret, RpcOptionsError> {
    Secret::new(&file("--cluster-secret-file", path)?).ok_or_else(|| RpcOptionsError::ShortSecret(path.to_owned()))
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, RpcOptionsError> {
    let bad = |why: String| RpcOptionsError::File { setting, path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file(setting, path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad("it holds no certificate in PEM form".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn tls(files: &RpcTlsFiles) -> Result<Tls, RpcOptionsError> {
    let unfit = |error: &dyn fmt::Display| RpcOptionsError::Tls(error.to_string());
    let chain = certificates("--rpc-tls-cert", &files.cert)?;
    let key = file("--rpc-tls-key", &files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| RpcOptionsError::File {
        setting: "--rpc-tls-key",
        path: files.key.clone(),
        why: error.to_string(),
    })?;
    let mut roots = RootCertStore::empty();
    for root in certificates("--rpc-tls-ca", &files.ca)? {
        roots.add(root).map_err(|error| unfit(&error))?;
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(aws_lc_rs::default_provider()));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| unfit(&error))?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| unfit(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| unfit(&error))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| unfit(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unfit(&error))?;
    Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
}
