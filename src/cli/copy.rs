//! What `tidewater restore --topic` and `tidewater topic fork` have in common: a copy is begun over the admin port, and
//! waited for.
//!
//! The brokers make the copy: it goes on when this command ends.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tidewater_tiering::restore::Report;
use tokio::time::Instant;

use crate::console::{CliError, admin, output};
use crate::node::restore::CutChoice;

/// Between looks at a copy.
const LOOK: Duration = Duration::from_millis(300);
/// A copy that makes no progress for so long ends the command.
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks that may fail in a row: a broker is started again.
const FAILED_LOOKS_MAX: u32 = 60;

/// A copy that is asked for.
#[derive(Debug)]
pub(super) struct CopyRequest {
    /// The bucket and the cluster's name in it; `None`: the cluster's own bucket.
    pub(super) from: Option<(String, String)>,
    pub(super) topic: String,
    pub(super) name: Option<String>,
    pub(super) at: Option<CutChoice>,
    /// Only print what would be copied.
    pub(super) plan: bool,
    pub(super) wait: bool,
    pub(super) json: bool,
    /// Admin address of a broker.
    pub(super) admin: String,
}

impl CopyRequest {
    fn body(&self) -> Value {
        let mut body = json!({ "topic": self.topic });
        if let Some((url, cluster_name)) = &self.from {
            body["from"] = json!(url);
            body["cluster_name"] = json!(cluster_name);
        }
        if let Some(name) = &self.name {
            body["name"] = json!(name);
        }
        if self.plan {
            body["plan"] = json!(true);
        }
        match self.at {
            None => {}
            Some(CutChoice::Newest) => body["newest_cut"] = json!(true),
            Some(CutChoice::At(at)) => body["at_ms"] = json!(at.0),
        }
        body
    }
}

pub(super) async fn run(request: CopyRequest) -> Result<(), CliError> {
    let begun = admin::post_json_within(&request.admin, "/v1/copies", &request.body(), admin::LONG).await;
    let begun = begun.map_err(|error| match error {
        // The port does not know the path.
        CliError::Refused(why) if why.is_empty() => CliError::Refused(format!(
            "the broker at {} makes no copies of topics; it may be of an older version",
            request.admin
        )),
        error => error,
    })?;
    if request.plan {
        return if request.json { output::json(&begun) } else { print_plan(&begun) };
    }
    let topic = text(&begun, "topic");
    if !request.json && begun.get("resumed").and_then(Value::as_bool) == Some(true) {
        output::line(&format!("the copy {topic} had begun before, and goes on"))?;
    }
    let last = if request.wait { wait(&request.admin, &topic).await? } else { begun.clone() };
    if request.json {
        let left_out = begun.get("left_out").cloned().unwrap_or_default();
        let mut last = last;
        last["left_out"] = left_out;
        return output::json(&last);
    }
    print(&begun, &last)
}

/// Waits until the copy is complete.
async fn wait(addr: &str, topic: &str) -> Result<Value, CliError> {
    let style = ProgressStyle::with_template("  {msg:32} {bar:40} {human_pos}/{human_len}");
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("records of {topic}"));
    let (mut moved, mut copied, mut failed) = (Instant::now(), None, 0);
    loop {
        match admin::get(addr, &format!("/v1/copies/{topic}")).await {
            Ok(Some(now)) => {
                failed = 0;
                let done = number(&now, "copied");
                bar.set_length(number(&now, "records"));
                bar.set_position(done);
                if text(&now, "state") == "archiving" {
                    bar.set_message(format!("{topic} is being archived"));
                }
                if text(&now, "state") == "complete" {
                    bar.finish_and_clear();
                    return Ok(now);
                }
                if copied.replace(done) != Some(done) || text(&now, "state") != "failing" {
                    moved = Instant::now();
                }
                if moved.elapsed() > PATIENCE {
                    bar.finish_and_clear();
                    return Err(CliError::Refused(format!(
                        "the copy {topic} makes no progress: {}; it goes on by itself when that is mended, tidewater topic \
                         delete {topic} undoes it",
                        text(&now, "reason")
                    )));
                }
            }
            Ok(None) => {
                bar.finish_and_clear();
                return Err(CliError::Refused(format!("the topic {topic} was deleted before its copy was complete")));
            }
            Err(error) if failed >= FAILED_LOOKS_MAX => return Err(error),
            Err(_) => failed += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print_plan(planned: &Value) -> Result<(), CliError> {
    let report = planned.get("report").cloned().unwrap_or_default();
    let report: Report = serde_json::from_value(report)
        .map_err(|error| CliError::Refused(format!("the broker's answer cannot be read: {error}")))?;
    super::restore::table(&report)?;
    let topic = text(planned, "topic");
    if let Some(cut) = report.cut {
        output::line(&format!(
            "\ncut {} of {}: what was archived later is not copied",
            cut.number,
            output::when(cut.at)
        ))?;
    }
    print_left_out(planned, &topic, "would not have")?;
    let records = report.topics.iter().flat_map(|topic| &topic.partitions);
    let records: u64 = records.map(|found| found.end.get().saturating_sub(found.log_start.get())).sum();
    output::line(&format!(
        "\nthis is what topic {topic} would get, {} records; nothing was changed",
        output::count(records)
    ))
}

fn print_left_out(document: &Value, topic: &str, verb: &str) -> Result<(), CliError> {
    let left_out = document.get("left_out").and_then(Value::as_array);
    let left_out: Vec<&str> = left_out.into_iter().flatten().filter_map(Value::as_str).collect();
    if left_out.is_empty() {
        return Ok(());
    }
    output::line(&format!("settings that {topic} {verb}: {}", left_out.join(", ")))
}

fn print(begun: &Value, last: &Value) -> Result<(), CliError> {
    let (topic, origin) = (text(last, "topic"), text(last, "origin_topic"));
    let from = last.get("from").and_then(Value::as_str).map_or(String::new(), |url| format!(" of {url}"));
    let at = last.get("at_ms").and_then(Value::as_i64).unwrap_or(-1);
    let at = output::when(tidewater_storage::model::TimestampMs(at));
    let as_of = match last.get("cut").and_then(Value::as_u64) {
        Some(cut) => format!("cut {cut} of {at}"),
        None => format!("all that was archived at {at}"),
    };
    let mut table = output::table(&["PARTITION", "LOG START", "END", "COPIED UNTIL"]);
    for row in last.get("partitions").and_then(Value::as_array).into_iter().flatten() {
        let cells = ["partition", "log_start", "end", "reached"].map(|key| number(row, key).to_string());
        table.add_row(cells);
    }
    output::print(&table)?;
    print_left_out(begun, &topic, "does not have")?;
    match text(last, "state").as_str() {
        "complete" => output::line(&format!(
            "topic {topic} has the {} records of {origin}{from}: {as_of}; retention deletes nothing of it for 24 hours",
            output::count(number(last, "records"))
        )),
        _ => output::line(&format!(
            "topic {topic} is made as a copy of {origin}{from}: {as_of}; GET /v1/copies/{topic} shows how far it is"
        )),
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::TimestampMs;

    use super::*;

    #[test]
    fn a_request_says_only_what_was_given() {
        let mut request = CopyRequest {
            from: None,
            topic: "orders".to_owned(),
            name: Some("test".to_owned()),
            at: None,
            plan: false,
            wait: true,
            json: false,
            admin: String::new(),
        };
        assert_eq!(request.body(), json!({ "topic": "orders", "name": "test" }));
        request.at = Some(CutChoice::At(TimestampMs(7)));
        request.from = Some(("s3://b".to_owned(), "east".to_owned()));
        let body = json!({ "topic": "orders", "name": "test", "at_ms": 7, "from": "s3://b", "cluster_name": "east" });
        assert_eq!(request.body(), body);
        request.plan = true;
        assert_eq!(request.body()["plan"], true);
    }
}
