//! `tidewater check`: the preflight alone.

use clap::Args;

use super::error::CliError;
use super::output;
use super::process::ServeArgs;
use crate::node::preflight;

/// Settings to check.
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
    if args.json {
        output::json(&checks)?;
    } else {
        let mut table = output::table(&["", "CHECK", "FOUND"]);
        for check in &checks {
            table.add_row([if check.ok { "ok" } else { "FAILED" }, check.what, &check.detail]);
        }
        output::print(&table)?;
        for warning in config.exposure_warnings() {
            output::line(&format!("warning: {warning}"))?;
        }
    }
    if checks.iter().all(|check| check.ok) { Ok(()) } else { Err(CliError::Unfit) }
}
