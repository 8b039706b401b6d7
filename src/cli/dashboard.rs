//! `tidewater dashboard`: the Grafana dashboard of this version's metrics, to be imported.

use super::error::CliError;
use super::output;

/// The dashboard. Every metric in it is in a scrape (`tests/hostile/scrape.rs`).
const DASHBOARD: &str = include_str!("../admin/dashboard.json");

pub(super) fn run() -> Result<(), CliError> {
    output::line(DASHBOARD.trim_end())
}
