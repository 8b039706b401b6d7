//! `tidewater dashboard`: a Grafana dashboard of this version's metrics.

use crate::console::{CliError, output};

/// `tests/hostile/scrape.rs` checks that a scrape has every metric in it.
const DASHBOARD: &str = include_str!("../admin/dashboard.json");

pub(super) fn run() -> Result<(), CliError> {
    output::line(DASHBOARD.trim_end())
}
