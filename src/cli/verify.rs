//! `tidewater verify`: is everything of a cluster there in its bucket, and whole? Needs no broker.
//!
//! For people and for cron: exit code 0 if all is whole, 3 if something is damaged or missing, 1 if the bucket could
//! not be looked at or not all of it, 2 for a wrong command line.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tidewater_storage::model::{PartitionId, TopicId, TopicName};
use tidewater_tiering::keys::ClusterName;
use tidewater_tiering::store::{self, StoreOptions};
use tidewater_tiering::verify::{Damage, DamagedRange, VerifyProgress, VerifyReport, VerifyRequest, verify};

use crate::console::{CliError, output};

/// Damage that is printed for people; `--json` has all that is known.
const DAMAGE_PRINTED: usize = 100;
/// Ranges of one damage that are printed.
const RANGES_PRINTED: usize = 5;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The bucket: file:///dir, s3://bucket/prefix, gs://…, az://…
    #[arg(long, env = "TIDEWATER_BUCKET", value_name = "URL")]
    from: String,
    /// The cluster's name in the bucket
    #[arg(long, env = "TIDEWATER_CLUSTER_NAME", default_value = "tidewater", value_name = "NAME")]
    cluster_name: String,
    /// Read manifests and indexes only; of data objects look whether they exist and how long they are
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let name = ClusterName::new(&args.cluster_name).map_err(|error| CliError::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let request = VerifyRequest { name, quick: args.quick };
    let report = runtime.block_on(look(&args.from, &request))?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    let findings = &report.findings;
    let (damaged, unread) = (findings.damage.len() as u64, findings.unread.len() as u64);
    let (damaged, unread) = (damaged + findings.damage_left_out, unread + findings.unread_left_out);
    match (damaged, unread) {
        (0, 0) => Ok(()),
        (0, unread) => Err(CliError::Refused(format!(
            "{} objects could not be read; run it again, or see the reasons above",
            output::count(unread)
        ))),
        (damaged, _) => Err(CliError::Damaged(format!(
            "cluster {} has {} damages in its bucket; restore the objects from a copy of the bucket, or see OPERATING.md, \
             \"When something is wrong\"",
            report.name,
            output::count(damaged)
        ))),
    }
}

async fn look(url: &str, request: &VerifyRequest) -> Result<VerifyReport, CliError> {
    // Opening the store would create a missing directory.
    if let Some(directory) = url.strip_prefix("file://") {
        let path = Path::new(directory);
        std::fs::metadata(path).map_err(|source| CliError::Input { path: path.to_owned(), source })?;
    }
    let store = store::open(url, tokio::runtime::Handle::current(), &StoreOptions::default())
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let bar = ProgressBar::new(0);
    let template = match request.quick {
        true => "{spinner} {human_pos} objects looked at, {elapsed}",
        false => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {msg}, {elapsed}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is right"));
    let quick = request.quick;
    let tell = |progress: VerifyProgress| {
        if quick {
            bar.set_position(progress.objects);
        } else {
            bar.set_length(progress.bytes_total.max(progress.bytes));
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} objects", output::count(progress.objects)));
        }
    };
    let report = verify(store, request, &tell).await;
    bar.finish_and_clear();
    report.map_err(|error| CliError::Refused(error.to_string()))
}

fn print(report: &VerifyReport) -> Result<(), CliError> {
    let VerifyReport { name, cluster, epoch, objects, bytes, rows, .. } = report;
    let read = match report.quick {
        true => "listed".to_owned(),
        false => format!("read, {}", output::bytes(*bytes)),
    };
    output::line(&format!(
        "cluster {name} ({cluster}), epoch {epoch}: {} lanes, {} rows, {} objects {read}",
        report.lanes.len(),
        output::count(*rows),
        output::count(*objects),
    ))?;
    if !report.lanes.is_empty() {
        let mut table = output::table(&["LANE", "PARTITIONS", "LAST BUNDLE", "WRITTEN", "STATE"]);
        for lane in &report.lanes {
            let state = lane.ended_for.map_or("open".to_owned(), |next| format!("goes on in epoch {next}"));
            let (written, last) = (output::when(lane.written), lane.last.to_string());
            table.add_row([lane.lane.to_string(), output::count(lane.partitions), last, written, state]);
        }
        output::line("")?;
        output::print(&table)?;
    }
    if report.replaced > 0 {
        let replaced = output::count(report.replaced);
        output::line(&format!("{replaced} objects were replaced and deleted while this ran, as clusters do"))?;
    }
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    for damage in report.findings.damage.iter().take(DAMAGE_PRINTED) {
        output::line(&text_of(damage, &report.topics))?;
    }
    for unread in report.findings.unread.iter().take(DAMAGE_PRINTED) {
        output::line(&format!("NOT READ: {}: {}", unread.object, unread.reason))?;
    }
    let kept = report.findings.damage.len();
    let more = kept.saturating_sub(DAMAGE_PRINTED) as u64 + report.findings.damage_left_out;
    if more > 0 {
        output::line(&format!("and {} more damages; --json has {}", output::count(more), output::count(kept as u64)))?;
    }
    Ok(())
}

/// `DAMAGED (missing): KEY: orders-3 offsets [5, 9): reason`.
fn text_of(damage: &Damage, topics: &BTreeMap<TopicId, TopicName>) -> String {
    let kind = serde_json::to_value(damage.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or_default().to_owned();
    let partition = |id: PartitionId| match topics.get(&id.topic) {
        Some(topic) => format!("{topic}-{}", id.index),
        None => id.to_string(),
    };
    let range = |range: &DamagedRange| format!("{} offsets {}", partition(range.partition), range.offsets);
    let mut ranges: Vec<String> = damage.ranges.iter().take(RANGES_PRINTED).map(range).collect();
    let more = damage.ranges.len().saturating_sub(RANGES_PRINTED) as u64 + damage.ranges_left_out;
    if more > 0 {
        ranges.push(format!("{} more ranges", output::count(more)));
    }
    let lost = if ranges.is_empty() { String::new() } else { format!("{}: ", ranges.join(", ")) };
    format!("DAMAGED ({kind}): {}: {lost}{}", damage.object, damage.reason)
}
