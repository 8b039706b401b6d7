//! `tidewater cluster health`: once, or until a person has seen enough: changes as lines, rebuilds as progress bars.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;

use super::get;
use crate::admin::cluster::Rebuilding;
use crate::admin::cluster::health::{Counts, Health, Standing};
use crate::cli::Reading;
use crate::console::{CliError, admin, output};

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

/// The cluster's health: as the admin port gives it, and as this version reads it.
struct Looked {
    document: Value,
    health: Health,
}

pub(super) async fn run(args: HealthArgs) -> Result<(), CliError> {
    if args.watch {
        return watch(&args).await;
    }
    let Looked { document, health } = look(&args).await?;
    if args.reading.json {
        output::json(&document)?;
    } else {
        print(&health)?;
    }
    match health.status {
        Standing::Healthy => Ok(()),
        status => Err(CliError::Refused(format!("the cluster is {status}"))),
    }
}

async fn look(args: &HealthArgs) -> Result<Looked, CliError> {
    const PATH: &str = "/v1/cluster/health";
    let addr = &args.reading.remote.admin;
    let document = get(addr, PATH).await?;
    let health = admin::read(addr, PATH, document.clone())?;
    Ok(Looked { document, health })
}

fn print(health: &Health) -> Result<(), CliError> {
    let all = |of: Counts| {
        format!(
            "{}, {} without a leader, {} under-replicated",
            output::count(of.all as u64),
            output::count(of.leaderless as u64),
            output::count(of.under_replicated as u64)
        )
    };
    output::line(&format!("cluster     {}", health.status))?;
    output::line(&format!("brokers     {}, {} reachable", health.brokers, health.reachable))?;
    output::line(&format!("lanes       {}", all(health.lanes)))?;
    output::line(&format!("partitions  {}", all(health.partitions)))?;
    for problem in &health.problems {
        output::line(&format!("\n{}", problem.what))?;
        output::line(&format!("  {}", problem.advice))?;
    }
    Ok(())
}

/// Until the cluster is healthy, if that is asked for; else until the process is interrupted. A broker that does not
/// answer is a change like others: it may be the one that is being restarted.
async fn watch(args: &HealthArgs) -> Result<(), CliError> {
    let (mut seen, mut last) = (Seen::default(), Value::Null);
    let (screen, mut bars) = (MultiProgress::new(), BTreeMap::new());
    loop {
        let (document, health) = match look(args).await {
            Ok(Looked { document, health }) => (document, Ok(health)),
            Err(error) => {
                let error = error.to_string();
                (serde_json::json!({ "status": "unknown", "error": &error }), Err(error))
            }
        };
        if args.reading.json {
            if document != last {
                output::line(&document.to_string())?;
            }
        } else {
            let now = Timestamp::now().strftime("%H:%M:%SZ").to_string();
            let changes = seen.changes(health.as_ref());
            screen.suspend(|| changes.iter().try_for_each(|line| output::line(&format!("{now}  {line}"))))?;
            let rebuilds = health.iter().flat_map(|health| &health.rebuilds).map(Bar::of).collect::<Vec<_>>();
            show_rebuilds(&screen, &mut bars, &rebuilds);
        }
        if args.exit_when_healthy && health.is_ok_and(|health| health.status == Standing::Healthy) {
            return Ok(());
        }
        last = document;
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
    fn changes(&mut self, health: Result<&Health, &String>) -> Vec<String> {
        let mut lines = Vec::new();
        let status = health.map_or_else(|_| "unknown".to_owned(), |health| health.status.to_string());
        if self.status != status {
            lines.push(format!("the cluster is {status}"));
            self.status = status;
        }
        let mut now = BTreeMap::new();
        match health {
            Err(error) => drop(now.insert("error".to_owned(), (error.clone(), None))),
            Ok(health) => now.extend(health.problems.iter().map(|problem| {
                let about = format!("{:?} {:?}", problem.kind, problem.brokers);
                (about, (problem.what.clone(), Some(problem.advice.clone())))
            })),
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

/// The progress bar of one broker's rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bar {
    broker: i32,
    done: u64,
    all: u64,
    words: String,
}

impl Bar {
    fn of(rebuild: &Rebuilding) -> Self {
        let mut words = format!("{} of {} replicas", rebuild.replicas_done, rebuild.replicas);
        // Without bytes to copy, replicas are what moves.
        let (done, all) = match rebuild.bytes {
            0 => (rebuild.replicas_done, rebuild.replicas),
            bytes => {
                words += &format!(", {} of {}", output::bytes(rebuild.copied_bytes), output::bytes(bytes));
                (rebuild.copied_bytes, bytes)
            }
        };
        if rebuild.bucket_bytes > 0 {
            words += &format!(", {} stay in the bucket", output::bytes(rebuild.bucket_bytes));
        }
        if let Some(left) = rebuild.left_ms.filter(|_| rebuild.bytes > 0) {
            words += &format!(", about {} left", output::millis(left.max(1000)));
        }
        Self { broker: rebuild.broker, done, all, words }
    }
}

fn show_rebuilds(screen: &MultiProgress, bars: &mut BTreeMap<i32, ProgressBar>, rebuilds: &[Bar]) {
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
    use super::*;
    use crate::admin::cluster::health::{Problem, ProblemKind};

    fn health(status: Standing, problems: &[(ProblemKind, &str)]) -> Health {
        let problem = |(kind, what): &(ProblemKind, &str)| Problem {
            kind: *kind,
            brokers: vec![3],
            lanes: Vec::new(),
            what: (*what).to_owned(),
            advice: "wait".to_owned(),
        };
        Health {
            status,
            brokers: 3,
            reachable: 3,
            lanes: Counts::default(),
            partitions: Counts::default(),
            problems: problems.iter().map(problem).collect(),
            rebuilds: Vec::new(),
        }
    }

    #[test]
    fn only_changes_are_printed() {
        let degraded = |what| health(Standing::Degraded, &[(ProblemKind::Rebuilding, what)]);
        let mut seen = Seen::default();
        let first = degraded("1 of 4 replicas");
        assert_eq!(seen.changes(Ok(&first)), ["the cluster is degraded", "1 of 4 replicas", "  wait"]);
        assert!(seen.changes(Ok(&degraded("3 of 4 replicas"))).is_empty(), "the bar shows it");
        let away = "connection refused".to_owned();
        let lines = seen.changes(Err(&away));
        assert_eq!(lines, ["the cluster is unknown", "connection refused", "no longer: 3 of 4 replicas"]);
        let healthy = health(Standing::Healthy, &[]);
        assert_eq!(seen.changes(Ok(&healthy)), ["the cluster is healthy", "no longer: connection refused"]);
    }

    #[test]
    fn a_rebuild_shows_what_is_copied_and_what_stays_in_the_bucket() {
        let rebuild = |bytes: u64| Rebuilding {
            broker: 3,
            replicas_done: 12,
            replicas: 40,
            copied_bytes: bytes / 2,
            bytes,
            bucket_bytes: 1 << 40,
            left_ms: Some(20_000),
            ..Rebuilding::default()
        };
        let found = Bar::of(&rebuild(2 << 30));
        assert_eq!((found.broker, found.done, found.all), (3, 1 << 30, 2 << 30));
        let words = "12 of 40 replicas, 1.00 GiB of 2.00 GiB, 1.00 TiB stay in the bucket, about 20s left";
        assert_eq!(found.words, words);
        let found = Bar::of(&rebuild(0));
        assert_eq!((found.done, found.all), (12, 40), "nothing of it has to be copied");
    }
}
