//! `tidewater verify`: is everything of a cluster there in its bucket, and whole? Needs no broker.
//!
//! For people and for cron: exit code 0 if all is whole, 3 if something is damaged or missing, 1 if the bucket could
//! not be looked at or not all of it, 2 for a wrong command line. Tables are checked by the Iceberg crate; a binary
//! without it says that they were not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tidewater_storage::model::{PartitionId, TopicId, TopicName};
use tidewater_tiering::keys::ClusterName;
use tidewater_tiering::store::{self, ObjectStore, StoreOptions};
use tidewater_tiering::verify::{
    Damage, DamagedCut, DamagedRange, VerifyProgress, VerifyReport, VerifyRequest, verify,
};

use crate::console::{CliError, output};

/// Damage that is printed for people; `--json` has all that is known.
const DAMAGE_PRINTED: usize = 100;
/// Ranges of one damage that are printed.
const RANGES_PRINTED: usize = 5;
/// Cuts of one damage that are printed.
const CUTS_PRINTED: usize = 3;

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

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Looked {
    #[serde(flatten)]
    archive: VerifyReport,
    tables: Tables,
}

#[derive(Debug, Serialize)]
struct Tables {
    checked: bool,
    /// Why they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    tables: Vec<TableLine>,
}

/// A table that was checked.
#[derive(Debug, Serialize)]
struct TableLine {
    table: String,
    snapshots: u64,
    /// Data and delete files that they name.
    files: u64,
    bytes: u64,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let name = ClusterName::new(&args.cluster_name).map_err(|error| CliError::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let request = VerifyRequest { name, quick: args.quick };
    let looked = runtime.block_on(look(&args.from, &request))?;
    if args.json {
        output::json(&looked)?;
    } else {
        print(&looked)?;
    }
    let (report, findings) = (&looked.archive, &looked.archive.findings);
    let (damaged, unread) = (findings.damage.len() as u64, findings.unread.len() as u64);
    let (damaged, unread) = (damaged + findings.damage_left_out, unread + findings.unread_left_out);
    match (damaged, unread) {
        (0, 0) => Ok(()),
        (0, unread) => Err(CliError::Refused(format!(
            "{} objects could not be read; run it again, or see the reasons above",
            output::count(unread)
        ))),
        (damaged, _) => Err(CliError::Damaged(format!(
            "{} parts of cluster {} in its bucket are damaged or missing; put the objects back from a copy of the bucket, or \
             see OPERATING.md, \"When something is wrong\"",
            output::count(damaged),
            report.name
        ))),
    }
}

async fn look(url: &str, request: &VerifyRequest) -> Result<Looked, CliError> {
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
    let report = verify(Arc::clone(&store), request, &tell).await;
    let mut archive = match report {
        Ok(archive) => archive,
        Err(error) => {
            bar.finish_and_clear();
            return Err(CliError::Refused(error.to_string()));
        }
    };
    bar.set_message("tables");
    let tables = look_at_tables(url, store, request, &mut archive).await;
    bar.finish_and_clear();
    Ok(Looked { archive, tables })
}

fn not_checked(reason: impl Into<String>) -> Tables {
    Tables { checked: false, reason: Some(reason.into()), tables: Vec::new() }
}

/// Adds what is wrong with tables to the archive's findings.
#[cfg(feature = "lakehouse")]
async fn look_at_tables(
    url: &str,
    store: Arc<dyn ObjectStore>,
    request: &VerifyRequest,
    archive: &mut VerifyReport,
) -> Tables {
    use tidewater_iceberg::files::TableFiles;
    use tidewater_iceberg::location::Warehouse;
    use tidewater_iceberg::verify::{TableReport, verify};

    let warehouse = match Warehouse::new(url, &request.name.warehouse_prefix()) {
        Ok(warehouse) => warehouse,
        Err(error) => return not_checked(error.to_string()),
    };
    let prefix = warehouse.key_prefix();
    let report = match verify(TableFiles::new(store, warehouse), request.quick, &mut archive.findings).await {
        Ok(report) => report,
        Err(error) => {
            archive.findings.unread(prefix, error.to_string());
            return not_checked(format!("they could not be listed: {error}"));
        }
    };
    archive.notes.extend(report.notes);
    let line =
        |TableReport { table, snapshots, files, bytes }: TableReport| TableLine { table, snapshots, files, bytes };
    Tables { checked: true, reason: None, tables: report.tables.into_iter().map(line).collect() }
}

#[cfg(not(feature = "lakehouse"))]
async fn look_at_tables(
    _url: &str,
    _store: Arc<dyn ObjectStore>,
    _request: &VerifyRequest,
    _archive: &mut VerifyReport,
) -> Tables {
    not_checked("this binary was built without tables (feature lakehouse)")
}

fn print(looked: &Looked) -> Result<(), CliError> {
    let report = &looked.archive;
    print_archive(report)?;
    print_tables(&looked.tables)?;
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
        output::line(&format!("and {} more; --json has {}", output::count(more), output::count(kept as u64)))?;
    }
    Ok(())
}

fn print_tables(tables: &Tables) -> Result<(), CliError> {
    if let Some(reason) = &tables.reason {
        return output::line(&format!("tables: not checked: {reason}"));
    }
    if tables.tables.is_empty() {
        return Ok(());
    }
    let mut table = output::table(&["TABLE", "SNAPSHOTS", "FILES", "SIZE"]);
    for line in &tables.tables {
        let (snapshots, files) = (output::count(line.snapshots), output::count(line.files));
        table.add_row([line.table.clone(), snapshots, files, output::bytes(line.bytes)]);
    }
    output::line("")?;
    output::print(&table)
}

fn print_archive(report: &VerifyReport) -> Result<(), CliError> {
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
    let cuts = &report.cuts;
    if cuts.kept > 0 {
        output::line(&format!(
            "{} cuts from {} to {}, {} objects listed",
            output::count(cuts.kept),
            output::when(cuts.oldest),
            output::when(cuts.newest),
            output::count(cuts.objects),
        ))?;
    }
    Ok(())
}

/// `DAMAGED (missing): KEY: table topics.orders: orders-3 offsets [5, 9), cut 7 of TIME: reason`.
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
    let cut = |cut: &DamagedCut| format!("cut {} of {}", cut.number, output::when(cut.at));
    ranges.extend(damage.cuts.iter().take(CUTS_PRINTED).map(cut));
    let more = damage.cuts.len().saturating_sub(CUTS_PRINTED) as u64;
    if more > 0 {
        ranges.push(format!("{} more cuts", output::count(more)));
    }
    let lost = if ranges.is_empty() { String::new() } else { format!("{}: ", ranges.join(", ")) };
    let table = damage.table.as_ref().map_or(String::new(), |table| format!("table {table}: "));
    format!("DAMAGED ({kind}): {}: {table}{lost}{}", damage.object, damage.reason)
}
