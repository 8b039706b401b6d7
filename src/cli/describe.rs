//! `tidewater topic describe`: settings by kind; offsets of each partition in log, bucket and table.

use clap::Args;
use serde_json::Value;

use super::Reading;
use crate::client::{Client, ConfigEntry, OffsetQuery, TopicInfo};
use crate::config::topic::{self, Kind};
use crate::console::{CliError, admin, output};

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The topic
    topic: String,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(args: DescribeArgs) -> Result<(), CliError> {
    let remote = &args.reading.remote;
    let mut client = Client::connect(&remote.bootstrap).await?;
    let info = client.topic(&args.topic).await?;
    let configs = client.topic_configs(&args.topic).await?;
    let status = admin::get(&remote.admin, &format!("/v1/topics/{}", args.topic)).await;
    if args.reading.json {
        let (status, error) = admin::answer_or_error(status);
        let document = serde_json::json!({ "topic": info, "configs": configs, "status": status, "admin_error": error });
        return output::json(&document);
    }
    output::line(&format!("topic   {}", info.name))?;
    output::line(&format!("id      {}", info.id))?;
    settings(&configs)?;
    output::line("\nPartitions")?;
    match status {
        Ok(Some(status)) => {
            partitions(&status)?;
            elsewhere(&info, &status)
        }
        Ok(None) => offsets_only(&mut client, &info).await,
        Err(error) => {
            eprintln!("warning: {error}");
            offsets_only(&mut client, &info).await
        }
    }
}

/// The honoured settings, then the accepted ones that the topic sets, with the reason why they have no effect.
fn settings(configs: &[ConfigEntry]) -> Result<(), CliError> {
    let accepted = |config: &&ConfigEntry| {
        matches!(topic::setting(&config.name), Some(topic::Setting { kind: Kind::Accepted(_), .. }))
    };
    output::line("\nSettings (* set on the topic)")?;
    let mut table = output::table(&["", "NAME", "VALUE"]);
    for config in configs.iter().filter(|config| !accepted(config)) {
        table.add_row([mark(config), &config.name, &shown(config)]);
    }
    output::print(&table)?;
    let idle = configs.iter().filter(|config| accepted(config) && config.is_override).collect::<Vec<_>>();
    if !idle.is_empty() {
        output::line("\nAccepted without effect")?;
        let mut table = output::table(&["", "NAME", "VALUE", "BECAUSE"]);
        for config in idle {
            let why = match topic::setting(&config.name).map(|setting| &setting.kind) {
                Some(Kind::Accepted(why)) => *why,
                _ => "",
            };
            table.add_row([mark(config), &config.name, config.value.as_deref().unwrap_or_default(), why]);
        }
        output::print(&table)?;
    }
    Ok(())
}

fn mark(config: &ConfigEntry) -> &'static str {
    if config.is_override { "*" } else { "" }
}

/// The value, and times and sizes with units: `604800000 (168h)`.
fn shown(config: &ConfigEntry) -> String {
    let value = config.value.clone().unwrap_or_default();
    match value.parse::<u64>() {
        Ok(ms) if config.name.ends_with(".ms") && ms >= 1000 => format!("{value} ({})", output::millis(ms)),
        Ok(bytes) if config.name.ends_with(".bytes") && bytes >= 1024 => format!("{value} ({})", output::bytes(bytes)),
        _ => value,
    }
}

fn partitions(status: &Value) -> Result<(), CliError> {
    let rows = status.get("partitions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut table = output::table(&[
        "PARTITION",
        "START",
        "LOCAL START",
        "ARCHIVED TO",
        "END",
        "LOCAL",
        "BUCKET",
        "ARCHIVE LAG",
        "TABLE AT",
        "TABLE LAG",
    ]);
    let mut notes = Vec::new();
    for row in &rows {
        let number = |key: &str| row.get(key).and_then(Value::as_u64);
        let plain = |key: &str| number(key).map_or("-".to_owned(), |n| n.to_string());
        let size = |key: &str| number(key).map_or("-".to_owned(), output::bytes);
        let lag = match number("archive_lag_records") {
            None | Some(0) => "0".to_owned(),
            Some(n) => format!("{} ({})", output::count(n), output::millis(number("archive_lag_ms").unwrap_or(0))),
        };
        table.add_row([
            plain("partition"),
            plain("log_start_offset"),
            plain("local_start_offset"),
            plain("archived_end_offset"),
            plain("high_watermark"),
            size("local_bytes"),
            size("archived_bytes"),
            lag,
            plain("table_offset"),
            plain("table_lag_records"),
        ]);
        notes.extend(notes_of(row));
    }
    output::print(&table)?;
    if let Some(name) = status.get("table").and_then(Value::as_str) {
        output::line(&format!("\nTable   {name}"))?;
    }
    if let Some(why) = status.get("table_partition_spec").and_then(Value::as_str) {
        output::line(&format!("Partitions   less than iceberg.partition.spec asked for: {why}"))?;
    }
    if let Some(order) = status.get("table_sort_order").and_then(Value::as_str) {
        output::line(&format!("Sorted by   {order}"))?;
    }
    if let Some(why) = status.get("table_sort_order_lacking").and_then(Value::as_str) {
        output::line(&format!("Sort order   less than was asked for: {why}"))?;
    }
    if let Some(line) = status.get("dead_letters").and_then(dead_letters) {
        output::line(&line)?;
    }
    notes.iter().try_for_each(|note| output::line(note))
}

/// What the topic's table of dead letters has; `None` if there is no such table.
fn dead_letters(dead: &Value) -> Option<String> {
    let table = dead.get("table")?.as_str()?;
    let rows = dead.get("rows").and_then(Value::as_u64)?;
    let unit = if rows == 1 { "row" } else { "rows" };
    let mut line = format!("Dead letters   {} {unit} in {table}", output::count(rows));
    if let Some(last) = dead.get("last").filter(|last| last.is_object()) {
        let number = |key: &str| last.get(key).and_then(Value::as_u64).map_or("?".to_owned(), |n| n.to_string());
        let reason = last.get("reason").and_then(Value::as_str).unwrap_or("?");
        line.push_str(&format!("; the last: partition {} offset {}: {reason}", number("partition"), number("offset")));
    }
    Some(line)
}

/// Names the partitions that the asked broker does not carry.
fn elsewhere(info: &TopicInfo, status: &Value) -> Result<(), CliError> {
    let rows = status.get("partitions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_shown = |n: i32| rows.iter().any(|row| row.get("partition").and_then(Value::as_i64) == Some(n.into()));
    let missing = info.partitions.iter().filter(|partition| !is_shown(partition.partition));
    let missing: Vec<String> =
        missing.map(|partition| format!("{} (broker {})", partition.partition, partition.leader)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    output::line(&format!("\nOn other brokers, to be asked with --admin: partitions {}", missing.join(", ")))
}

/// Stopped work and ranges left out, with the broker's reasons.
fn notes_of(row: &Value) -> Vec<String> {
    let partition = row.get("partition").and_then(Value::as_i64).unwrap_or(-1);
    let mut notes = Vec::new();
    for (key, what) in [("archive_stopped", "archiving has stopped"), ("table_paused", "the table is paused")] {
        if let Some(why) = row.get(key).and_then(Value::as_str) {
            notes.push(format!("partition {partition}: {what}: {why}"));
        }
    }
    for (key, what) in [("quarantined", "set aside"), ("table_skipped", "left out of the table")] {
        for range in row.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            notes.push(format!("partition {partition}: {what}: {range}"));
        }
    }
    notes
}

/// Without the admin port: the offsets that the Kafka protocol has.
async fn offsets_only(client: &mut Client, info: &TopicInfo) -> Result<(), CliError> {
    let all = super::topic::chosen(info, None)?;
    let starts = client.list_offsets(&info.name, &all, OffsetQuery::Earliest).await?;
    let locals = client.list_offsets(&info.name, &all, OffsetQuery::EarliestLocal).await?;
    let ends = client.list_offsets(&info.name, &all, OffsetQuery::Latest).await?;
    let mut table = output::table(&["PARTITION", "START", "LOCAL START", "END"]);
    for (((partition, start), (_, local)), (_, end)) in starts.into_iter().zip(locals).zip(ends) {
        let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        table.add_row([partition.to_string(), number(start), number(local), number(end)]);
    }
    output::print(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dead_letters_are_shown_with_the_last_reason() {
        let mut dead = json!({"table": "topics.a~dlq", "rows": null, "committed": 0, "last": null});
        assert_eq!(dead_letters(&dead), None, "there is no such table");
        dead["rows"] = json!(1200);
        assert_eq!(dead_letters(&dead).as_deref(), Some("Dead letters   1,200 rows in topics.a~dlq"));
        dead["rows"] = json!(1);
        assert_eq!(dead_letters(&dead).as_deref(), Some("Dead letters   1 row in topics.a~dlq"));
        dead["last"] = json!({"partition": 3, "offset": 17, "reason": "schema 99 is not in the registry"});
        let line = dead_letters(&dead).expect("is shown");
        assert!(line.ends_with("; the last: partition 3 offset 17: schema 99 is not in the registry"), "{line}");
    }
}
