//! `tidewater cluster health`: once, or until a person has seen enough: changes as lines, rebuilds as progress bars.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;

use super::{get, number, rows, shown, text};
use crate::cli::Reading;
use crate::console::{CliError, output};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(in crate::cli) struct HealthArgs {
    /// Go on and print every change, with a progress bar for each broker that is being rebuilt
    #[arg(long, short)]
    watch: bool,
    /// With --watch: end once the cluster is healthy
    #[arg(long, short, requires = "watch")]
    exit_when_healthy: bool,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(args: HealthArgs) -> Result<(), CliError> {
    if args.watch {
        return watch(&args).await;
    }
    let health = look(&args).await?;
    if args.reading.json {
        output::json(&health)?;
    } else {
        print(&health)?;
    }
    match status(&health) {
        "healthy" => Ok(()),
        status => Err(CliError::Refused(format!("the cluster is {status}"))),
    }
}

async fn look(args: &HealthArgs) -> Result<Value, CliError> {
    get(&args.reading.remote.admin, "/v1/cluster/health").await
}

fn status(health: &Value) -> &str {
    text(health, "status").unwrap_or("unknown")
}

fn problems(health: &Value) -> Vec<Value> {
    rows(health.get("problems").cloned().unwrap_or_default())
}

fn print(health: &Value) -> Result<(), CliError> {
    let count = |of: &str, key: &str| health.get(of).and_then(|of| number(of, key)).unwrap_or_default();
    let all = |of: &str| {
        format!(
            "{}, {} without a leader, {} under-replicated",
            output::count(count(of, "all")),
            output::count(count(of, "leaderless")),
            output::count(count(of, "under_replicated"))
        )
    };
    let reachable = number(health, "reachable").unwrap_or_default();
    output::line(&format!("cluster     {}", status(health)))?;
    output::line(&format!("brokers     {}, {reachable} reachable", shown(health, "brokers")))?;
    output::line(&format!("lanes       {}", all("lanes")))?;
    output::line(&format!("partitions  {}", all("partitions")))?;
    for problem in problems(health) {
        output::line(&format!("\n{}", text(&problem, "what").unwrap_or_default()))?;
        output::line(&format!("  {}", text(&problem, "advice").unwrap_or_default()))?;
    }
    Ok(())
}

/// Until the cluster is healthy, if that is asked for; else until the process is interrupted. A broker that does not
/// answer is a change like others: it may be the one that is being restarted.
async fn watch(args: &HealthArgs) -> Result<(), CliError> {
    let (mut seen, mut last) = (Seen::default(), Value::Null);
    let (screen, mut bars) = (MultiProgress::new(), BTreeMap::new());
    loop {
        let health = match look(args).await {
            Ok(health) => health,
            Err(error) => serde_json::json!({ "status": "unknown", "error": error.to_string() }),
        };
        if args.reading.json {
            if health != last {
                output::line(&health.to_string())?;
            }
        } else {
            let now = Timestamp::now().strftime("%H:%M:%SZ").to_string();
            let changes = seen.changes(&health);
            screen.suspend(|| changes.iter().try_for_each(|line| output::line(&format!("{now}  {line}"))))?;
            show_rebuilds(&screen, &mut bars, &rebuilds(&health));
        }
        if args.exit_when_healthy && status(&health) == "healthy" {
            return Ok(());
        }
        last = health;
        tokio::time::sleep(LOOK).await;
    }
}

/// What was printed last of a watched cluster.
#[derive(Debug, Default)]
struct Seen {
    status: String,
    /// By what they are about.
    problems: BTreeMap<String, String>,
}

impl Seen {
    /// Lines about what is different now. The figures in a problem's text are no difference.
    fn changes(&mut self, health: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        let status = status(health);
        if self.status != status {
            lines.push(format!("the cluster is {status}"));
            status.clone_into(&mut self.status);
        }
        let mut now = BTreeMap::new();
        if let Some(error) = text(health, "error") {
            now.insert("error".to_owned(), (error.to_owned(), None));
        }
        for problem in problems(health) {
            let about = format!("{} {}", shown(&problem, "kind"), shown(&problem, "brokers"));
            let advice = text(&problem, "advice").map(ToOwned::to_owned);
            now.insert(about, (text(&problem, "what").unwrap_or_default().to_owned(), advice));
        }
        for (about, (what, advice)) in &now {
            if !self.problems.contains_key(about) {
                lines.push(what.clone());
                lines.extend(advice.as_ref().map(|advice| format!("  {advice}")));
            }
        }
        let gone = self.problems.iter().filter(|(about, _)| !now.contains_key(*about));
        lines.extend(gone.map(|(_, what)| format!("no longer: {what}")));
        self.problems = now.into_iter().map(|(about, (what, _))| (about, what)).collect();
        lines
    }
}

/// The rebuild of one broker, for a bar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rebuild {
    broker: u64,
    done: u64,
    all: u64,
    words: String,
}

fn rebuilds(health: &Value) -> Vec<Rebuild> {
    let of = |row: &Value| {
        let figure = |key: &str| number(row, key).unwrap_or_default();
        let (copied, bytes, bucket) = (figure("copied_bytes"), figure("bytes"), figure("bucket_bytes"));
        let mut words = format!("{} of {} replicas", figure("replicas_done"), figure("replicas"));
        // Without bytes to copy, replicas are what moves.
        let (done, all) = match bytes {
            0 => (figure("replicas_done"), figure("replicas")),
            bytes => {
                words += &format!(", {} of {}", output::bytes(copied), output::bytes(bytes));
                (copied, bytes)
            }
        };
        if bucket > 0 {
            words += &format!(", {} stay in the bucket", output::bytes(bucket));
        }
        if let Some(left) = number(row, "left_ms").filter(|_| bytes > 0) {
            words += &format!(", about {} left", output::millis(left.max(1000)));
        }
        Rebuild { broker: figure("broker"), done, all, words }
    };
    rows(health.get("rebuilds").cloned().unwrap_or_default()).iter().map(of).collect()
}

fn show_rebuilds(screen: &MultiProgress, bars: &mut BTreeMap<u64, ProgressBar>, rebuilds: &[Rebuild]) {
    bars.retain(|broker, bar| {
        let goes_on = rebuilds.iter().any(|rebuild| rebuild.broker == *broker);
        if !goes_on {
            bar.finish_and_clear();
        }
        goes_on
    });
    for rebuild in rebuilds {
        let bar = bars.entry(rebuild.broker).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {msg}").expect("the template is right");
            screen.add(ProgressBar::new(0).with_style(style).with_prefix(format!("broker {}", rebuild.broker)))
        });
        bar.set_length(rebuild.all);
        bar.set_position(rebuild.done);
        bar.set_message(rebuild.words.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_changes_are_printed() {
        let problem = |what: &str| json!({ "kind": "rebuilding", "brokers": [3], "what": what, "advice": "wait" });
        let mut seen = Seen::default();
        let first = json!({ "status": "degraded", "problems": [problem("1 of 4 replicas")] });
        assert_eq!(seen.changes(&first), ["the cluster is degraded", "1 of 4 replicas", "  wait"]);
        let further = json!({ "status": "degraded", "problems": [problem("3 of 4 replicas")] });
        assert!(seen.changes(&further).is_empty(), "the bar shows it");
        let away = json!({ "status": "unknown", "error": "connection refused" });
        assert_eq!(seen.changes(&away), ["the cluster is unknown", "connection refused", "no longer: 3 of 4 replicas"]);
        let healthy = json!({ "status": "healthy", "problems": [] });
        assert_eq!(seen.changes(&healthy), ["the cluster is healthy", "no longer: connection refused"]);
    }

    #[test]
    fn a_rebuild_shows_what_is_copied_and_what_stays_in_the_bucket() {
        let row = |bytes: u64| {
            json!({ "broker": 3, "replicas_done": 12, "replicas": 40, "copied_bytes": bytes / 2, "bytes": bytes,
                    "bucket_bytes": 1_u64 << 40, "left_ms": 20_000 })
        };
        let found = rebuilds(&json!({ "rebuilds": [row(2 << 30), row(0)] }));
        assert_eq!((found[0].broker, found[0].done, found[0].all), (3, 1 << 30, 2 << 30));
        let words = "12 of 40 replicas, 1.00 GiB of 2.00 GiB, 1.00 TiB stay in the bucket, about 20s left";
        assert_eq!(found[0].words, words);
        assert_eq!((found[1].done, found[1].all), (12, 40), "nothing of it has to be copied");
    }
}
