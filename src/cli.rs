//! The command line: arguments, and the commands that use them.
//!
//! `tidewater` without a command is `tidewater serve`. Commands that read print tables for people or, with `--json`,
//! one JSON document (one a line where records stream). Errors go to standard error with what to do; exit codes: 0
//! success, 1 failure, 2 wrong usage, 3 `verify` found damage. A reader that closes the pipe ends the command without
//! an error.
//!
//! No logic of the broker is here: client commands use [`crate::client`] and the admin port, as other programs can.

mod check;
mod cluster;
mod consume;
mod copy;
mod dashboard;
mod describe;
mod group;
mod iceberg;
mod lane;
mod partitioner;
mod process;
mod produce;
mod replica;
mod restore;
mod schema;
mod seek;
mod topic;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use process::ServeArgs;

use crate::console::CliError;

/// A Kafka-compatible broker whose topics live on object storage and are Apache Iceberg tables.
#[derive(Debug, Parser)]
#[command(name = "tidewater", version, about, subcommand_negates_reqs = true)]
#[command(after_help = "Without a command, tidewater serves: Kafka on 127.0.0.1:9092, data in ./tidewater-data.")]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker (the default)
    Serve(ServeArgs),
    /// The whole journey in one go: produce, archive, trim, read back, query
    Demo(process::DemoArgs),
    /// Check this machine and the settings without starting a broker
    Check(check::CheckArgs),
    /// Create, describe, change, fill and read topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Show consumer groups and move their offsets
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Show the cluster: health, brokers, partitions; change leaders
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show the archiving of lanes, and resume a stopped lane
    #[command(subcommand)]
    Lane(lane::LaneCommand),
    /// Show the tables of topics; compact them, expire their snapshots
    #[command(subcommand)]
    Iceberg(iceberg::IcebergCommand),
    /// Read other clusters' topics from their buckets
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// List, register, check and delete schemas
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Check that everything of a cluster is in its bucket, and whole
    Verify(verify::VerifyArgs),
    /// Restore a lost cluster from its bucket, then serve as its first broker
    Restore(restore::RestoreArgs),
    /// Print a Grafana dashboard for /metrics
    Dashboard,
    /// Print the content of a file or object
    #[command(subcommand)]
    Inspect(process::InspectCommand),
}

#[derive(Clone, Debug, Args)]
struct Remote {
    /// Kafka address of a broker, or of several, comma-separated: the first that answers is asked for the others
    #[arg(long, env = "TIDEWATER_BOOTSTRAP", default_value = "127.0.0.1:9092", value_name = "HOST:PORT,…")]
    bootstrap: String,
    /// Admin address of a broker
    #[arg(long, env = "TIDEWATER_ADMIN", default_value = "127.0.0.1:9644", value_name = "HOST:PORT")]
    admin: String,
}

#[derive(Clone, Debug, Args)]
struct Reading {
    #[command(flatten)]
    remote: Remote,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command of the command line.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidewater: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        None => process::serve(cli.serve),
        Some(Command::Serve(args)) => process::serve(args.over(cli.serve)),
        Some(Command::Demo(args)) => process::demo(args, cli.serve),
        Some(Command::Check(args)) => check::run(args, cli.serve),
        Some(Command::Verify(args)) => verify::run(&args),
        Some(Command::Restore(args)) => restore::run(args, cli.serve),
        Some(Command::Dashboard) => dashboard::run(),
        Some(Command::Inspect(command)) => process::inspect(command),
        Some(Command::Topic(command)) => block_on(topic::run(command)),
        Some(Command::Group(command)) => block_on(group::run(command)),
        Some(Command::Cluster(command)) => block_on(cluster::run(command)),
        Some(Command::Lane(command)) => block_on(lane::run(command)),
        Some(Command::Iceberg(command)) => block_on(iceberg::run(command)),
        Some(Command::Replica(command)) => block_on(replica::run(command)),
        Some(Command::Schema(command)) => block_on(schema::run(command)),
    }
}

/// Client commands need no more than one thread.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(command)
}

/// A path that may be `-` for standard input.
fn is_stdin(path: Option<&PathBuf>) -> bool {
    path.is_none_or(|path| path.as_os_str() == "-")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        let cli = Cli::try_parse_from(["tidewater", "--data-dir", "/d", "--shards", "2", "--disk-bytes", "10GiB"]);
        let cli = cli.expect("parses");
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.raw.shards, Some(2));
        let cli = Cli::try_parse_from(["tidewater", "--shards", "2", "serve", "--shards", "3"]).expect("parses");
        let Some(Command::Serve(args)) = cli.command else { unreachable!("the command is serve") };
        assert_eq!(args.over(cli.serve).raw.shards, Some(3));
    }

    #[test]
    fn client_commands_parse() {
        for line in [
            "topic create t --partitions 3 --set retention.ms=1000",
            "topic list --json",
            "topic describe t --bootstrap a:1 --admin b:2",
            "topic alter t --set iceberg.mode=key_value --unset retention.ms --partitions 6",
            "topic delete t",
            "topic produce t --key-separator : --compression zstd --partition 0 --rate 100",
            "topic consume t --from earliest --count 5 --format %k=%v",
            "topic trim t --to latest",
            "group list",
            "group describe g",
            "group seek g --topic t --to earliest",
            "group delete g",
            "cluster info --json",
            "cluster health --json",
            "cluster brokers --bootstrap a:1,b:2,c:3",
            "cluster partitions t --unhealthy --json",
            "cluster transfer-leadership 3 2",
            "cluster transfer-leadership t:0 2 --json",
            "cluster grow --replication-factor 3",
            "topic create t --replication-factor 3",
            "lane list --json",
            "lane resume 1",
            "iceberg status --json",
            "iceberg status orders --admin b:2",
            "iceberg compact orders --no-wait",
            "iceberg expire topics.orders --json",
            "replica create --from s3://bucket/lake --topics orders*,users --cluster-name prod --name east",
            "replica list --json",
            "replica describe east",
            "replica delete east --admin b:2",
            "schema list orders --deleted --json",
            "schema get orders-value --schema-version 3",
            "schema get --id 7 --registry a:1",
            "schema register orders-value order.avsc --reference com.a.Money=money:1 --normalize",
            "schema check orders-value order.proto --type protobuf",
            "schema delete orders-value --schema-version 2 --permanent",
            "schema mode READONLY --subject orders-value",
            "schema compatibility FULL_TRANSITIVE --json",
            "demo --brokers 3 --exit",
            "demo --disaster --brokers 3 --exit",
            "check --data-dir /d",
            "verify --from s3://bucket/lake --cluster-name east --quick --json",
            "restore --from s3://bucket/prefix --data-dir /d --plan --json",
            "restore --from s3://bucket/prefix --cluster-name n --data-dir /d --exit --take-over --accept-damage",
            "restore lift --admin b:2",
            "dashboard",
            "restore cuts --from file:///b --cluster-name n --json",
            "restore --from s3://b --data-dir /d --at 2026-11-29T10:00:00Z --plan",
            "restore --from s3://b --data-dir /d --at newest",
            "restore --from s3://b --topic orders --as orders_new --cluster-name n --at newest --json",
            "restore --from s3://b --topic orders --admin b:2 --no-wait",
            "topic fork orders --at 2026-11-29T10:00:00Z --as orders_test --json",
            "inspect journal /d/shard-0",
        ] {
            let words = std::iter::once("tidewater").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
