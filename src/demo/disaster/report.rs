//! What the demo has shown, in a few lines, and commands to try next.

use std::time::Duration;

use super::super::output;
use super::super::processes::Processes;
use super::super::seconds;
use super::{GROUP, TOPIC};

/// What happened. Records are those of the topic.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) brokers: usize,
    /// On their disks.
    pub(super) deleted_bytes: u64,
    /// Records acknowledged before the kill.
    pub(super) acknowledged: u64,
    /// Records below the ends that the restore printed.
    pub(super) restored: u64,
    pub(super) lost: u64,
    /// From the acknowledgement of the first record that is lost to the kill.
    pub(super) rpo: Duration,
    /// From the acknowledgement of the first of the group's commits that is lost to the kill.
    pub(super) group_rpo: Duration,
    /// How long the command took.
    pub(super) restore: Duration,
    /// From its start until all records had been read from the restored cluster.
    pub(super) read_again: Duration,
    /// From the start of more brokers until every replica was in sync; none with one broker.
    pub(super) grown: Option<Duration>,
    /// Records that the replica cluster served while no broker of the source ran.
    pub(super) replica_alone: u64,
    /// Records written after the restore.
    pub(super) more: u64,
    /// From the last of them until the replica cluster had them.
    pub(super) replica_lag: Duration,
    /// The lineage epoch of the restored cluster.
    pub(super) epoch: u64,
}

/// The lines of the end.
pub(super) fn summary(shown: &Shown) -> Vec<String> {
    let count = output::count;
    let brokers = brokers(shown.brokers);
    let records = match shown.lost {
        0 => "no acknowledged record".to_owned(),
        lost => format!("{} records, acknowledged in the last {} before the kill", count(lost), seconds(shown.rpo)),
    };
    let commits = match shown.group_rpo.is_zero() {
        true => "none of the group's commits".to_owned(),
        false => format!("the group's commits of the last {}", seconds(shown.group_rpo)),
    };
    let mut lines = vec![
        String::new(),
        "What was shown:".to_owned(),
        format!(
            "  killed     {brokers}, with kill -9, after {} acknowledged records; then {} on disk deleted",
            count(shown.acknowledged),
            output::bytes(shown.deleted_bytes)
        ),
        format!(
            "  restored   {} records, each at its offset, the topic's id, the group's offsets; {} to restore, {} until everything had been read again",
            count(shown.restored),
            seconds(shown.restore),
            seconds(shown.read_again)
        ),
        format!("  lost       {records}; {commits}: what the bucket did not have yet"),
        format!("  goes on    {} records written after the restored ones, the group commits", count(shown.more)),
        format!(
            "  replica    {} records served while no broker of the source ran; follows the restored cluster into epoch {}: has its new records {} after the last one",
            count(shown.replica_alone),
            shown.epoch,
            seconds(shown.replica_lag)
        ),
    ];
    if let Some(grown) = shown.grown {
        lines.insert(5, format!("  grown      to {brokers} again, every replica in sync after {}", seconds(grown)));
    }
    lines
}

/// `1 broker`, `3 brokers`.
pub(super) fn brokers(count: usize) -> String {
    if count == 1 { "1 broker".to_owned() } else { format!("{count} brokers") }
}

/// Commands to try with the brokers that serve on.
pub(super) fn next_steps(cluster: &Processes, replica: &Processes) -> Vec<String> {
    let (kafka, admin) = (cluster.bootstrap(), cluster.admin());
    vec![
        String::new(),
        "The restored cluster and the replica cluster serve on (Ctrl-C ends them and removes their data). Try:"
            .to_owned(),
        format!("  tidewater topic describe {TOPIC} --bootstrap {kafka} --admin {admin}"),
        format!("  tidewater group describe {GROUP} --bootstrap {kafka} --admin {admin}"),
        format!("  tidewater restore lift --admin {admin}"),
        format!("  tidewater verify {}", cluster.from()),
        format!("  tidewater replica list --admin {}", replica.admin()),
        format!(
            "  tidewater topic consume {TOPIC} --from earliest --count 5 --bootstrap {} --admin {}",
            replica.bootstrap(),
            replica.admin()
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_is_lost_and_what_is_not() {
        let shown = Shown {
            brokers: 3,
            deleted_bytes: 1 << 20,
            acknowledged: 1200,
            restored: 1100,
            lost: 100,
            rpo: Duration::from_millis(900),
            group_rpo: Duration::from_millis(1100),
            restore: Duration::from_millis(300),
            read_again: Duration::from_secs(2),
            grown: Some(Duration::from_secs(5)),
            replica_alone: 1100,
            more: 50,
            replica_lag: Duration::from_secs(1),
            epoch: 2,
        };
        let lines = summary(&shown).join("\n");
        for part in [
            "3 brokers, with kill -9",
            "1,100 records, each",
            "100 records, acknowledged in the last 900 ms before the kill; the group's commits of the last 1.1 s",
            "epoch 2",
        ] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
        let nothing = summary(&Shown { lost: 0, group_rpo: Duration::ZERO, grown: None, ..shown }).join("\n");
        assert!(nothing.contains("no acknowledged record; none of the group's commits"), "{nothing}");
        assert!(!nothing.contains("grown"), "{nothing}");
    }
}
