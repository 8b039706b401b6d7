//! A real S3 server: SeaweedFS.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::broker::{free_ports_of, http_get};
use super::cache::run;
use super::python;

const KEY: &str = "testkey";
const SECRET: &str = "testsecret";
/// Of one who may list and read alone.
const READER: (&str, &str) = ("readerkey", "readersecret");

/// A running server with one bucket.
pub struct S3 {
    child: Child,
    dir: PathBuf,
    ports: Vec<u16>,
    pub endpoint: String,
    pub bucket: String,
    /// The endpoint and its certificate if the server also answers over TLS.
    tls: Option<(String, PathBuf)>,
}

/// A certificate for 127.0.0.1 and its key, signed by itself.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate), "apt-get install openssl");
    (certificate, key)
}

/// Starts the server's process on its ports and waits until it answers.
fn spawn(dir: &Path, ports: &[u16], tls: &[String]) -> Child {
    let flag = |name: &str, n: usize| format!("-{name}={}", ports[n]);
    let log = File::options().create(true).append(true).open(dir.join("weed.log")).expect("log");
    let child = Command::new(python::weed())
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .args(["-master.volumeSizeLimitMB=64", "-volume.max=50", "-master.telemetry=false"])
        .arg(format!("-dir={}", dir.join("weed").display()))
        .arg(format!("-s3.config={}", dir.join("s3.json").display()))
        .args([flag("master.port", 0), flag("master.port.grpc", 1), flag("volume.port", 2)])
        .args([flag("volume.port.grpc", 3), flag("filer.port", 4), flag("filer.port.grpc", 5)])
        .args([flag("s3.port", 6), flag("s3.port.grpc", 7)])
        .args(tls)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("clone"))
        .stderr(log)
        .spawn()
        .expect("weed starts");
    let start = Instant::now();
    while http_get(&format!("127.0.0.1:{}", ports[6]), "/").is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "SeaweedFS does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
    child
}

impl S3 {
    /// Starts a server in `dir` and makes a bucket.
    pub fn start(dir: &Path, bucket: &str) -> Self {
        Self::start_on(dir, bucket, false)
    }

    /// As [`S3::start`]; answers over TLS too ([`S3::tls_envs`]).
    pub fn start_with_tls(dir: &Path, bucket: &str) -> Self {
        Self::start_on(dir, bucket, true)
    }

    fn start_on(dir: &Path, bucket: &str, with_tls: bool) -> Self {
        std::fs::create_dir_all(dir.join("weed")).expect("directory");
        let identity = serde_json::json!({"identities": [{"name": "admin",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "reader", "credentials": [{"accessKey": READER.0, "secretKey": READER.1}],
            "actions": ["Read", "List"]}]});
        std::fs::write(dir.join("s3.json"), identity.to_string()).expect("config");
        let ports = free_ports_of(9);
        let tls = with_tls.then(|| certificate(dir));
        let flags = tls.as_ref().map_or_else(Vec::new, |(certificate, key)| {
            let path = |name: &str, path: &Path| format!("-{name}={}", path.display());
            let (certificate, key) = (path("s3.cert.file", certificate), path("s3.key.file", key));
            vec![format!("-s3.port.https={}", ports[8]), certificate, key]
        });
        let child = spawn(dir, &ports, &flags);
        let endpoint = format!("http://127.0.0.1:{}", ports[6]);
        python::script("support/python/make_bucket.py", &[&endpoint, bucket, KEY, SECRET], &[]);
        let tls = tls.map(|(certificate, _)| (format!("https://127.0.0.1:{}", ports[8]), certificate));
        Self { child, dir: dir.to_owned(), ports, endpoint, bucket: bucket.to_owned(), tls }
    }

    /// kill -9; what was written stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Starts it again, where it was, without TLS.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.dir, &self.ports, &[]);
    }

    /// What the broker needs to reach it.
    pub fn envs(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec()
    }

    /// The same, to list and to read alone.
    pub fn reading_envs(&self) -> Vec<(String, String)> {
        let reading = |(name, value): (String, String)| match name.as_str() {
            "AWS_ACCESS_KEY_ID" => (name, READER.0.to_owned()),
            "AWS_SECRET_ACCESS_KEY" => (name, READER.1.to_owned()),
            _ => (name, value),
        };
        self.envs().into_iter().map(reading).collect()
    }

    /// What the broker needs to reach it over TLS.
    pub fn tls_envs(&self) -> Vec<(String, String)> {
        let (endpoint, certificate) = self.tls.as_ref().expect("started with TLS");
        let mut envs = self.envs();
        envs.retain(|(name, _)| name != "AWS_ENDPOINT_URL" && name != "AWS_ALLOW_HTTP");
        envs.push(("AWS_ENDPOINT_URL".to_owned(), endpoint.clone()));
        envs.push(("SSL_CERT_FILE".to_owned(), certificate.display().to_string()));
        envs
    }

    /// URL for `--bucket`.
    pub fn url(&self) -> String {
        format!("s3://{}/lake", self.bucket)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
