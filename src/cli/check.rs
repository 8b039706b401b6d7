//! `tidewater check`: the preflight alone.

use clap::Args;

use super::process::ServeArgs;
use crate::console::{CliError, output};
use crate::node::{bounds, preflight};

#[derive(Clone, Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckArgs, below: ServeArgs) -> Result<(), CliError> {
    let config = args.serve.over(below).resolve()?;
    let mut checks = preflight::machine(&config.data_dir);
    checks.extend(preflight::settings(&config));
    let cores = std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    let (shards, connections) = (config.shards.unwrap_or(cores), config.max_connections as u64);
    let worst = bounds::worst_case(shards, 0);
    let each = bounds::worst_case(shards, 1) - worst;
    if args.json {
        let memory = serde_json::json!({
            "bounds": bounds::memory(), "shards": shards, "worst_case_bytes": worst,
            "bytes_per_connection": each, "max_connections": connections,
        });
        let warnings = config.exposure_warnings();
        output::json(&serde_json::json!({ "checks": checks, "memory": memory, "warnings": warnings }))?;
    } else {
        let mut table = output::table(&["", "CHECK", "FOUND"]);
        for check in &checks {
            table.add_row([if check.ok { "ok" } else { "FAILED" }, check.what, &check.detail]);
        }
        output::print(&table)?;
        output::line(&format!(
            "worst case of memory: {} for {shards} shards, and {} for each of up to {connections} connections",
            output::bytes(worst),
            output::bytes(each)
        ))?;
        for warning in config.exposure_warnings() {
            output::line(&format!("warning: {warning}"))?;
        }
    }
    if checks.iter().all(|check| check.ok) { Ok(()) } else { Err(CliError::Unfit) }
}
