//! `tidewater restore`: a lost cluster from its bucket, on this machine; or one topic, into a cluster that runs.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::restore::{Progress, Report};

use super::copy::{self, CopyRequest};
use super::process::ServeArgs;
use crate::admin::CutRow;
use crate::config::node::NodeConfig;
use crate::console::{CliError, output};
use crate::node::restore::{self, CutChoice, RestoreOptions, Restored};

/// What `--plan` ends with if a restore would be refused.
const DAMAGED: &str = "the archive is damaged, see above; put the objects back from a copy of the bucket, or give \
                       --accept-damage to restore what lies before the damage";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct RestoreArgs {
    #[command(subcommand)]
    command: Option<RestoreCommand>,
    #[command(flatten)]
    serve: ServeArgs,
    /// The bucket of the lost cluster
    #[arg(long, value_name = "URL", required = true)]
    from: Option<String>,
    /// Print what would come back, or with --topic what would be copied, and change nothing
    #[arg(long, alias = "dry-run", conflicts_with = "exit")]
    plan: bool,
    /// End after the restore instead of serving; tidewater serve with the same --data-dir and --bucket starts the
    /// broker
    #[arg(long)]
    exit: bool,
    /// Go back to the newest cut at or before this time (2026-11-29T10:00:00Z), or to the newest of all (newest); what
    /// was archived later does not come back. Without it, all that was archived comes back
    #[arg(long, value_name = "TIME", value_parser = choice)]
    at: Option<CutChoice>,
    /// Take the cluster from a restore that is under way and will never end
    #[arg(long)]
    take_over: bool,
    /// Go on though the archive is damaged, with what lies before the damage
    #[arg(long)]
    accept_damage: bool,
    /// Restore only this topic, into the cluster that runs at --admin: its records with their offsets, timestamps and
    /// leader epochs, and its settings. The bucket may be of any cluster, and of this one
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["exit", "take_over", "accept_damage"])]
    topic: Option<String>,
    /// With --topic: its name here; without it, the same name
    #[arg(long = "as", value_name = "NAME", requires = "topic")]
    name: Option<String>,
    /// With --topic: admin address of a broker of the cluster that gets the topic
    #[arg(long, env = "TIDEWATER_ADMIN", default_value = "127.0.0.1:9644", value_name = "HOST:PORT")]
    admin: String,
    /// With --topic: return when the copy has begun; the brokers make it
    #[arg(long, requires = "topic")]
    no_wait: bool,
    /// Print JSON; with --plan, --exit or --topic
    #[arg(long)]
    json: bool,
}

pub(super) fn choice(text: &str) -> Result<CutChoice, String> {
    if text == "newest" {
        return Ok(CutChoice::Newest);
    }
    let time: jiff::Timestamp =
        text.parse().map_err(|_| format!("{text:?} is neither newest nor a time like 2026-11-29T10:00:00Z"))?;
    Ok(CutChoice::At(TimestampMs(time.as_millisecond())))
}

#[derive(Debug, Args)]
pub(super) struct CutsArgs {
    /// The bucket: file:///dir, s3://bucket/prefix, gs://…, az://…
    #[arg(long, env = "TIDEWATER_BUCKET", value_name = "URL")]
    from: String,
    /// The cluster's name in the bucket
    #[arg(long, env = "TIDEWATER_CLUSTER_NAME", default_value = "tidewater", value_name = "NAME")]
    cluster_name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum RestoreCommand {
    /// The cuts in a bucket: earlier states that restore --at can go back to; needs no broker
    Cuts(CutsArgs),
    /// End the hold of retention after a restore before its 24 hours have passed
    Lift(super::Reading),
}

pub(super) async fn lift(args: super::Reading) -> Result<(), CliError> {
    let answer = crate::console::admin::post(&args.remote.admin, "/v1/cluster/restore/lift").await?;
    if args.json {
        return output::json(&answer);
    }
    match answer.get("held").and_then(serde_json::Value::as_bool) {
        Some(true) => output::line("the hold has ended: retention deletes again what is older than each topic keeps"),
        _ => output::line("nothing is held: the cluster was not restored, or the hold had ended"),
    }
}

pub(super) fn run(args: RestoreArgs, below: ServeArgs) -> Result<(), CliError> {
    match args.command {
        Some(RestoreCommand::Lift(reading)) => return super::block_on(lift(reading)),
        Some(RestoreCommand::Cuts(args)) => return cuts(&args),
        None => {}
    }
    if let Some(topic) = args.topic {
        let serve = args.serve.over(below);
        let cluster_name = serve.raw.cluster_name.unwrap_or_else(|| "tidewater".to_owned());
        return super::block_on(copy::run(CopyRequest {
            from: args.from.map(|url| (url, cluster_name)),
            topic,
            name: args.name,
            at: args.at,
            plan: args.plan,
            wait: !args.no_wait,
            json: args.json,
            admin: args.admin,
        }));
    }
    if args.json && !args.plan && !args.exit {
        return Err(CliError::Usage("--json needs --plan or --exit: a broker that serves prints no result".to_owned()));
    }
    let mut serve = args.serve.over(below);
    let from = args.from.unwrap_or_default();
    if serve.raw.bucket.as_ref().is_some_and(|bucket| *bucket != from) {
        return Err(CliError::Usage(
            "--bucket and --from name different buckets: a restored cluster stays in its own".into(),
        ));
    }
    serve.raw.bucket = Some(from);
    let config = serve.resolve()?;
    crate::trace::start();
    let bars = Arc::new(Bars::default());
    let shown = Arc::clone(&bars);
    let options = RestoreOptions {
        take_over: args.take_over,
        at: args.at,
        accept_damage: args.accept_damage,
        progress: Arc::new(move |progress| shown.show(progress)),
    };
    let failed = |error: crate::node::StartError| CliError::Process(error.to_string());
    if args.plan {
        let surveyed = restore::survey(&config, &options).map_err(failed)?;
        bars.end();
        print(&config, &surveyed, args.json, true)?;
        let damaged = surveyed.report.as_ref().is_some_and(|report| report.damaged) && !args.accept_damage;
        return if damaged { Err(CliError::Refused(DAMAGED.to_owned())) } else { Ok(()) };
    }
    let restored = restore::restore(&config, &options).map_err(failed)?;
    bars.end();
    if args.exit {
        return print(&config, &restored, args.json, false);
    }
    print(&config, &restored, false, false)?;
    crate::node::serve(config).map_err(failed)
}

fn cuts(args: &CutsArgs) -> Result<(), CliError> {
    let cuts = restore::cuts(&args.from, &args.cluster_name).map_err(|error| CliError::Process(error.to_string()))?;
    let rows: Vec<CutRow> = cuts.iter().rev().map(CutRow::of).collect();
    if args.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        eprintln!("no cuts yet: a restore brings back all that was archived");
    }
    let mut table = output::table(&["CUT", "AT", "AGO", "LANES", "CUT SIZE"]);
    for row in &rows {
        let at = TimestampMs(row.at_ms);
        let ago = u64::try_from(wall().since_ms(at)).unwrap_or(0);
        let cells = [row.number.to_string(), output::when(at), output::millis(ago), row.lanes.to_string()];
        table.add_row(cells.into_iter().chain([output::bytes(row.bytes)]));
    }
    output::print(&table)
}

/// A bar on a terminal, nothing elsewhere.
#[derive(Default)]
struct Bars(Mutex<Option<(&'static str, ProgressBar)>>);

impl Bars {
    fn show(&self, progress: Progress) {
        let (title, done, total) = match progress {
            Progress::Read { done, total } => ("lanes read", done, total),
            Progress::Written { done, total } => ("lanes written", done, total),
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|(shown, _)| *shown != title) {
            let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
            let style = ProgressStyle::with_template("  {msg:16} {bar:40} {human_pos}/{human_len}");
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(title);
            if let Some((_, before)) = held.replace((title, bar)) {
                before.finish_and_clear();
            }
        }
        if let Some((_, bar)) = held.as_ref() {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    fn end(&self) {
        if let Some((_, bar)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

fn print(config: &NodeConfig, restored: &Restored, as_json: bool, planned: bool) -> Result<(), CliError> {
    let root = &restored.root;
    if as_json {
        return output::json(&json!({
            "cluster": root.cluster,
            "name": root.name,
            "epoch": root.epoch,
            "from": root.from,
            "restored": !planned,
            "report": restored.report,
        }));
    }
    let Some(report) = &restored.report else {
        let data = config.data_dir.display();
        return output::line(&format!(
            "cluster {} had been restored into epoch {}; {data} is ready",
            root.name, root.epoch
        ));
    };
    table(report)?;
    if let Some(cut) = report.cut {
        let at = output::when(cut.at);
        output::line(&format!("\ncut {} of {at}: what was archived later does not come back", cut.number))?;
    }
    if planned {
        output::line(&format!("\nthis is what a restore of {} would bring back; nothing was changed", root.name))
    } else {
        output::line(&format!("\ncluster {} is restored into epoch {}", root.name, root.epoch))
    }
}

pub(super) fn table(report: &Report) -> Result<(), CliError> {
    let mut table = output::table(&["TOPIC", "PARTITION", "LOG START", "END", "SIZE", "LAST RECORD", "ARCHIVED UNTIL"]);
    for topic in &report.topics {
        for partition in &topic.partitions {
            let lane = partition.lane.and_then(|lane| report.lanes.iter().find(|found| found.lane == lane));
            let cells = [
                topic.name.to_string(),
                partition.partition.to_string(),
                partition.log_start.to_string(),
                partition.end.to_string(),
                output::bytes(partition.bytes),
                output::when(partition.max_timestamp),
                lane.map_or("-".to_owned(), |lane| until(lane.written)),
            ];
            table.add_row(cells);
        }
    }
    output::print(&table)?;
    for name in &report.unarchived {
        output::line(&format!("topic {name} has nothing in the bucket: it comes back empty"))?;
    }
    for name in &report.deleted {
        output::line(&format!("topic {name} was deleted: it does not come back"))?;
    }
    for name in &report.copies {
        output::line(&format!(
            "topic {name} was being copied from another: the restored cluster goes on with that, and producers wait for it"
        ))?;
    }
    for damage in report.damage() {
        output::line(&format!("damaged: {damage}"))?;
    }
    Ok(())
}

/// Records that were acknowledged after this moment are lost, if there were any.
fn until(written: TimestampMs) -> String {
    if written.0 < 0 {
        return "-".to_owned();
    }
    let ago = u64::try_from(wall().since_ms(written)).unwrap_or(0);
    format!("{} ({} ago)", output::when(written), output::millis(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_newest() {
        let at = |ms| Ok(CutChoice::At(TimestampMs(ms)));
        assert_eq!(choice("newest"), Ok(CutChoice::Newest));
        assert_eq!(choice("1970-01-01T00:01:00Z"), at(60_000));
        assert_eq!(choice("1970-01-01T02:01:00.5+02:00"), at(60_500));
        for bad in ["", "yesterday", "2026-11-29", "1700000000"] {
            assert!(choice(bad).is_err(), "{bad}");
        }
    }
}
