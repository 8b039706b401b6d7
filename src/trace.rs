//! Logs of this process: to standard error, level by `TIDEWATER_LOG`, text or JSON by `TIDEWATER_LOG_FORMAT`.
//!
//! Owns: the default levels, the warning about a variable with a mistake, and the limit for repeated lines (`thinned`).

mod thinned;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// The variable for levels, and its values.
pub const LEVELS: (&str, &str) = (
    "TIDEWATER_LOG",
    "Levels: one word (`error`, `warn`, `info`, `debug`) or a list by module, the most exact wins: \
     `info,tidewater::kafka=debug,tidewater_tiering=debug` [default: info, libraries warn]",
);

/// The variable for the format, and its values.
pub const FORM: (&str, &str) = (
    "TIDEWATER_LOG_FORMAT",
    "`text` or `json`: one object a line with timestamp, level, target and fields [default: text]",
);

/// Libraries whose INFO lines do not help an operator. glommio's ring warns in seven lines about a limit of locked
/// memory that costs nothing here; `tidewater check` shows the limit in one. openraft warns of each request to a
/// replica that is away, and of each group that ends; the connection to the replica's broker says so once, and a lane
/// that died says why.
const QUIET: &str = "info,glommio=error,openraft=error,openraft::replication=off,openraft::core::heartbeat=off,\
                     openraft::raft=off,object_store=warn,iceberg=warn,hyper=warn,h2=warn";

/// Starts logging. Call once, before anything logs; a second call does nothing.
pub fn start() {
    start_with(QUIET);
}

/// Like [`start`] with warnings and errors only, for commands that print their own progress.
pub fn start_quietly() {
    start_with("warn,openraft=off");
}

fn start_with(default: &str) {
    let (filter, bad_filter) = filter(std::env::var(LEVELS.0).ok().as_deref(), default);
    let (json, bad_form) = is_json(std::env::var(FORM.0).ok().as_deref());
    let ansi = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter).with(thinned::Thinned::default());
    let started = if json {
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
        registry.with(lines.with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().with_target(false).with_ansi(ansi).with_writer(std::io::stderr))
            .try_init()
    };
    if started.is_ok() {
        let _ = tracing_log::LogTracer::init();
    }
    for (variable, why) in [(LEVELS.0, bad_filter), (FORM.0, bad_form)] {
        if let Some(why) = why {
            tracing::warn!(variable, why, "a variable of the log has a mistake and is ignored");
        }
    }
}

/// The filter to use, and the mistake in the given one, if any.
fn filter(given: Option<&str>, default: &str) -> (EnvFilter, Option<String>) {
    match given.filter(|text| !text.trim().is_empty()).map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => {
            (EnvFilter::new(default), Some(format!("{error}; write for example info,tidewater::kafka=debug")))
        }
        None => (EnvFilter::new(default), None),
    }
}

/// Whether the format is JSON, and the mistake in the given one, if any.
fn is_json(given: Option<&str>) -> (bool, Option<String>) {
    match given {
        Some("json") => (true, None),
        None | Some("" | "text") => (false, None),
        Some(other) => (false, Some(format!("{other:?} is neither text nor json"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_reported() {
        assert!(filter(Some("info,tidewater::kafka=debug"), QUIET).1.is_none());
        assert!(filter(None, QUIET).1.is_none() && filter(Some(QUIET), "warn").1.is_none());
        let (_, why) = filter(Some("tidewater=loud"), QUIET);
        assert!(why.is_some_and(|why| why.contains("write for example")));
        assert_eq!(is_json(Some("json")), (true, None));
        assert!(is_json(Some("xml")).1.is_some());
    }
}
