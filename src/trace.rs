//! Logs of this process: to standard error, level by `TIDEWATER_LOG`, text or JSON by `TIDEWATER_LOG_FORMAT`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// Libraries whose INFO is noise to an operator.
const QUIET: &str = "info,glommio=warn,openraft=warn,object_store=warn,iceberg=warn,hyper=warn,h2=warn";

/// Starts logging. Call once, before anything logs; a second call does nothing.
pub fn start() {
    start_with(QUIET);
}

/// As [`start`], warnings and errors only: for commands that print their own progress.
pub fn start_quietly() {
    start_with("warn");
}

fn start_with(default: &str) {
    let filter = EnvFilter::try_from_env("TIDEWATER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::stderr().is_terminal();
    let json = std::env::var("TIDEWATER_LOG_FORMAT").is_ok_and(|f| f == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().with_target(false).with_ansi(ansi).with_writer(std::io::stderr))
            .try_init()
    };
    if started.is_ok() {
        let _ = tracing_log::LogTracer::init();
    }
}
