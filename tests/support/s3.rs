//! A real S3 server: SeaweedFS.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::broker::{free_ports_of, http_get};
use super::python;

const KEY: &str = "testkey";
const SECRET: &str = "testsecret";

/// A running server with one bucket.
pub struct S3 {
    child: Child,
    dir: PathBuf,
    ports: Vec<u16>,
    pub endpoint: String,
    pub bucket: String,
}

/// Starts the server's process on its ports and waits until it answers.
fn spawn(dir: &Path, ports: &[u16]) -> Child {
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
        std::fs::create_dir_all(dir.join("weed")).expect("directory");
        let identity = serde_json::json!({"identities": [{"name": "admin",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]});
        std::fs::write(dir.join("s3.json"), identity.to_string()).expect("config");
        let ports = free_ports_of(8);
        let child = spawn(dir, &ports);
        let endpoint = format!("http://127.0.0.1:{}", ports[6]);
        python::script("support/python/make_bucket.py", &[&endpoint, bucket, KEY, SECRET], &[]);
        Self { child, dir: dir.to_owned(), ports, endpoint, bucket: bucket.to_owned() }
    }

    /// kill -9; what was written stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Starts it again, where it was.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.dir, &self.ports);
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
