//! `upload` and `fetch_cold` again with a real S3 server (SeaweedFS) on loopback, over http and over https.
//!
//! Each runs in a process of its own, because S3 clients take endpoint and keys from environment variables, and on a
//! server of its own, because a small server holds a few GB. `TIDEWATER_BENCH_TRANSPORT=https` takes that one alone.

use std::process::Command;

use crate::Run;
use crate::support::s3::S3;

pub fn run(run: &Run) {
    if run.small {
        println!("left out: tests/journey runs a broker on this server");
        return;
    }
    let wanted = std::env::var("TIDEWATER_BENCH_TRANSPORT").ok();
    for transport in ["http", "https"] {
        if wanted.as_ref().is_some_and(|wanted| wanted != transport) {
            continue;
        }
        let dir = run.dir("s3");
        let server = S3::start_with_tls(dir.path(), "figures");
        let envs = if transport == "https" { server.tls_envs() } else { server.envs() };
        println!("over {transport}:");
        let mut figures = Command::new(std::env::current_exe().expect("this program has a path"));
        figures.args(["--bench", "upload", "fetch_cold"]).envs(envs);
        figures.env("TIDEWATER_BENCH_BUCKET", format!("s3://{}/{transport}", server.bucket));
        let status = figures.status().expect("this program starts again");
        assert!(status.success(), "the figures over {transport} end well");
    }
}
