//! Commands that do not ask a running broker: serve, demo, inspect. Each calls its own module.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::node::{NodeConfig, RawConfig};
use crate::console::CliError;

#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub raw: RawConfig,
    /// TOML file with the same settings (kafka-addr = "…"); flags and variables win over it
    #[arg(long, env = "TIDEWATER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ServeArgs {
    /// Fills the gaps of `self` from `below`, the settings in front of the command (`tidewater --shards 2 serve`).
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self { raw: self.raw.over(below.raw), config: self.config.or(below.config) }
    }

    /// Flag over variable over file over default.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is wrong.
    pub fn resolve(self) -> Result<NodeConfig, CliError> {
        let file = self.config.as_deref().map(RawConfig::from_file).transpose()?.unwrap_or_default();
        Ok(self.raw.over(file).resolve()?)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Records to write
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub records: u64,
    /// Brokers; with 3 or 5 they form a cluster on this machine, and one is killed under load (with --disaster all)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = brokers)]
    pub brokers: u16,
    /// Lose every broker and every disk under load, and restore from the bucket, while a replica cluster reads it
    #[arg(long, conflicts_with = "records")]
    pub disaster: bool,
    /// End after the demo instead of serving on
    #[arg(long)]
    pub exit: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// A shard's journal: entries by lane
    Journal(InspectArgs),
    /// A segment file: batches and records
    Segment(InspectArgs),
    /// A manifest of a partition or lane, the root or the catalogue
    Manifest(InspectArgs),
    /// An object of the bucket: bundle or segment, with its index
    Object(InspectArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// File or directory, or the key of an object with --bucket
    pub path: String,
    /// The bucket the object is in
    #[arg(long, env = "TIDEWATER_BUCKET", value_name = "URL")]
    pub bucket: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn serve(args: ServeArgs) -> Result<(), CliError> {
    crate::trace::start();
    crate::node::serve(args.resolve()?).map_err(|e| CliError::Process(e.to_string()))
}

pub(super) fn demo(args: DemoArgs, below: ServeArgs) -> Result<(), CliError> {
    crate::trace::start_quietly();
    let config = args.serve.over(below).resolve()?;
    if config.external_catalog.is_some() {
        let why = "the demo looks at its table in the built-in catalog; start it without --iceberg-catalog-uri";
        return Err(CliError::Usage(why.to_owned()));
    }
    let done = match args.brokers {
        brokers if args.disaster => crate::demo::run_disaster(&config, brokers, args.exit),
        1 => crate::demo::run(config, args.records, args.exit),
        brokers => crate::demo::run_cluster(&config, brokers, args.exit),
    };
    done.map_err(|e| CliError::Process(e.to_string()))
}

fn brokers(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ (1 | 3 | 5)) => Ok(n),
        _ => Err("1, 3 or 5 brokers can be started".to_owned()),
    }
}

pub(super) fn inspect(command: InspectCommand) -> Result<(), CliError> {
    use crate::inspect::{self, InspectError, Request};
    let request = |args: InspectArgs| Request { path: args.path, bucket: args.bucket, json: args.json };
    let done = match command {
        InspectCommand::Journal(args) => inspect::journal(&request(args)),
        InspectCommand::Segment(args) => inspect::segment(&request(args)),
        InspectCommand::Manifest(args) => inspect::manifest(&request(args)),
        InspectCommand::Object(args) => inspect::object(&request(args)),
    };
    done.map_err(|error| match error {
        InspectError::Output(error) => error,
        other => CliError::Process(other.to_string()),
    })
}
