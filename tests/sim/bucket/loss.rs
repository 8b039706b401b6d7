//! A loss: the end of the broker, one restore or two, and the start of the next broker, to which clients go on.
//!
//! What may be lost is what lies at or above the ends that the restore printed; everything else is as it was.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidewater::controller::image::PartitionImage;
use tidewater_storage::model::{Offset, PartitionId};
use tidewater_tiering::cuts::Cut;
use tidewater_tiering::keys::{ClusterName, Sequence};
use tidewater_tiering::manifest::Root;
use tidewater_tiering::restore::RestoreError;
use tidewater_tiering::store::Faults;

use super::clients;
use super::epochs::Epochs;
use super::plan::{Loss, Old};
use super::restorer::{Restored, Restorer};
use crate::world::{NAME, World};

/// Machines for restores: two for each loss, from here on.
const MACHINES_FROM: u32 = 10;
/// The archive is waited for so long at most before a broker that rests is lost.
const REST_MS: u64 = 10_000;

/// Loses the cluster and restores it; clients go on when it returns.
pub(crate) async fn happen(epochs: &Rc<Epochs>, n: usize, loss: Loss) {
    let old = epochs.now();
    epochs.note(format!("loss {n}: {loss:?}"));
    if loss.late {
        let faults = Faults {
            latency_max: Duration::from_millis(40),
            late_writes: 300,
            late_max: Duration::from_secs(12),
            ..Faults::default()
        };
        old.bucket.set_faults_for(old.machine(), Some(faults));
        epochs.puts_may_be_late.set(true);
        epochs.sleep_ms(epochs.below(2_500)).await;
    }
    if loss.idle {
        rest(epochs, &old).await;
    }
    epochs.restoring.set(true);
    if loss.old != Old::Stays {
        old.end(epochs.below(2) == 0);
    }
    let asking = async {
        if loss.old == Old::Stays {
            epochs.sleep_ms(epochs.below(1_500)).await;
        }
        epochs.close().await;
    };
    let restored = async {
        epochs.sleep_ms(loss.pause_ms).await;
        if let Old::Back { after_ms } = loss.old {
            let (epochs, old) = (Rc::clone(epochs), Rc::clone(&old));
            drop(epochs.clone().env.tasks.spawn("zombie", async move {
                epochs.sleep_ms(after_ms).await;
                old.start();
            }));
        }
        restore(epochs, n, &loss, &old).await
    };
    let (restored, ()) = futures::join!(restored, asking);
    hold_against_the_past(epochs, &restored);
    if loss.old != Old::Gone {
        haunt(epochs, &old, loss.idle);
    }
    let ends = ends(epochs, &restored);
    let next = Rc::new(restored.world);
    epochs.go_on_in(Rc::clone(&next));
    next.watch_over();
    // The restore ends once the shards are made; `serve` begins with what is durable.
    next.end(true);
    next.start();
    let node = next.serving().await;
    epochs.note(format!("epoch {} serves", restored.attempt.epoch));
    if epochs.plan.has("group") {
        clients::check_restored_commits(epochs, &ends).await;
    }
    if loss.end_hold {
        for _ in 0..100 {
            if node.controller.end_hold(epochs.env.clock.wall()).await.is_ok() {
                break;
            }
            epochs.sleep_ms(50).await;
        }
    }
    epochs.restoring.set(false);
    epochs.closed.set(false);
}

/// Clients ask nothing more, and what they wrote is archived.
async fn rest(epochs: &Epochs, old: &World) {
    epochs.close().await;
    for _ in 0..REST_MS / 50 {
        if crate::run::archived(old) {
            return;
        }
        epochs.sleep_ms(50).await;
    }
}

/// Restores with one or two restorers; exactly one of them has the cluster.
async fn restore(epochs: &Rc<Epochs>, n: usize, loss: &Loss, old: &World) -> Restored {
    let machine = MACHINES_FROM + 2 * u32::try_from(n).expect("few");
    let source = old.home();
    let back = loss.back;
    let first = Restorer { machine, take_over: false, source, kills: loss.kills.clone(), back };
    let Some(rival) = &loss.rival else {
        return first.run(epochs).await.unwrap_or_else(|error| panic!("the only restore is refused: {error}"));
    };
    let second =
        Restorer { machine: machine + 1, take_over: rival.take_over, source, kills: rival.kills.clone(), back };
    let late = async {
        epochs.sleep_ms(rival.after_ms).await;
        second.run(epochs).await
    };
    let winner = match futures::join!(first.run(epochs), late) {
        (Ok(_), Ok(_)) => panic!("two restores of one cluster say that they have it"),
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => {
            assert!(matches!(lost, RestoreError::Refused(_)), "a restore that lost the race ends with {lost}");
            epochs.note(format!("attempt {} wins: {lost}", won.attempt.id));
            won
        }
        (Err(one), Err(other)) => panic!("of two restores none has the cluster: {one}; {other}"),
    };
    let key = ClusterName::new(NAME).expect("legal").root_key();
    let root = Root::decode(&old.bucket.objects()[key.as_str()]).expect("decodes");
    assert_eq!((root.attempt, root.home()), (Some(winner.attempt.id), winner.attempt.home()));
    winner
}

/// Ends of the topic's partitions, by number.
fn ends(epochs: &Epochs, restored: &Restored) -> Vec<Offset> {
    let topic = epochs.now().topic();
    topic.partitions.iter().map(|partition| bounds(restored, partition.id).1).collect()
}

/// Log start and end of a partition as restored.
fn bounds(restored: &Restored, id: PartitionId) -> (Offset, Offset) {
    let all = restored.lanes.iter().flat_map(|lane| &lane.partitions);
    let found = all.map(|published| &published.manifest).find(|manifest| manifest.id == id);
    found.map_or((Offset::ZERO, Offset::ZERO), |manifest| (manifest.log_start, manifest.archived_end))
}

/// Where a partition must begin and end that goes back to a cut: at the end of the cut's last bundle of its lane.
fn end_in_cut(epochs: &Epochs, cut: &Cut, partition: &PartitionImage, start: Offset) -> Offset {
    let last = cut.lanes.iter().find(|state| state.lane == partition.lane).map_or(Sequence::NONE, |state| state.last);
    let end = epochs.archived.end(cut.home, partition.lane, last, partition.id);
    end.expect("it is known what the epoch began with").max(start)
}

/// Holds what is restored against what was, and takes out of the past what was lost.
fn hold_against_the_past(epochs: &Epochs, restored: &Restored) {
    epochs.archived.look(&epochs.now().bucket.objects());
    let ends_in_cut: BTreeMap<i32, Offset> = match &restored.cut {
        Some(cut) => {
            let topic = epochs.now().topic();
            let end = |found: &PartitionImage| end_in_cut(epochs, cut, found, bounds(restored, found.id).0);
            topic.partitions.iter().map(|found| (found.id.index.0, end(found))).collect()
        }
        None => BTreeMap::new(),
    };
    let all = restored.lanes.iter().flat_map(|lane| &lane.partitions);
    let seeds = all.map(|published| (published.manifest.id, published.manifest.archived_end)).collect();
    epochs.archived.restored(restored.attempt.epoch, seeds);
    for partition in &epochs.now().topic().partitions {
        let (id, number) = (partition.id, partition.id.index.0);
        let (start, end) = bounds(restored, id);
        let of = |report: &tidewater_tiering::restore::Report| {
            let Some(topic) = report.topics.iter().find(|topic| topic.id == id.topic) else {
                let is_known = report.unarchived.iter().any(|name| name.as_str() == epochs.now().topic_name());
                assert!(is_known, "p{number}: its topic is not restored");
                return Offset::ZERO;
            };
            topic.partitions.iter().find(|found| found.partition == number).map_or(Offset::ZERO, |found| found.end)
        };
        let printed = of(&restored.printed);
        assert!(end >= printed, "p{number}: ends at {end}, --plan printed {printed}");
        if let Some(report) = &restored.report {
            assert_eq!(end, of(report), "p{number}: the restore prints another end than the broker begins with");
        }
        let in_cut = ends_in_cut.get(&number).copied();
        if let Some(expected) = in_cut {
            assert_eq!(end, expected, "p{number}: the cut does not end there");
        }
        if let Some((home, _, shown)) = epochs.shown.borrow().get(&id)
            && !epochs.is_undone(home.epoch)
        {
            assert!(end >= *shown, "p{number}: ends at {end}, the replica has shown {shown}");
        }
        epochs.history.with(number, |past| {
            let archived = past.archived_end;
            assert!(end >= archived || in_cut.is_some(), "p{number}: ends at {end}, {archived} was archived");
            assert!(start <= past.trim_asked, "p{number}: starts at {start}, {} was asked for", past.trim_asked);
            // Only where the log start has passed what was archived is the end not that of a batch.
            let crosses = past.seen.values().find(|seen| seen.offsets.start < end && seen.offsets.end > end);
            assert!(crosses.is_none() || start == end, "p{number}: ends at {end}, within {crosses:?}");
            // What was deleted before it was archived is lost with its producer's state; it may be sent again.
            let is_there = |base: Offset| base < end && epochs.archived.holds(id, base);
            past.seen.retain(|base, _| is_there(*base));
            past.acked_end = Offset::ZERO;
            for sent in past.sent.values_mut() {
                match sent.acked {
                    Some(base) if !is_there(base) => {
                        sent.acked = None;
                        epochs.cut_off.borrow_mut().insert(sent.writer);
                    }
                    Some(base) => past.acked_end = past.acked_end.max(Offset::new(base.get() + sent.records)),
                    None => {}
                }
            }
            let lost = past.high_watermark.get().saturating_sub(end.get());
            epochs.note(format!("p{number}: restored {start}..{end}, {lost} records lost"));
            (past.log_start, past.high_watermark, past.archived_end) = (start, end, end);
            past.trim_done = past.trim_done.min(start);
        });
    }
}

/// Clients that have not heard of the restore write to the old broker while it runs: once it must have noticed, nothing
/// is acknowledged. If it is `idle`, they only delete records until then.
fn haunt(epochs: &Rc<Epochs>, old: &Rc<World>, idle: bool) {
    let (epochs, old, since_ms) = (Rc::clone(epochs), Rc::clone(old), epochs.now_ms());
    let this = Rc::clone(&epochs);
    drop(epochs.env.tasks.spawn("client of a zombie", async move {
        let mut n = 0;
        loop {
            let pause_ms = if this.stopped.get() { 4_000 } else { 400 };
            this.sleep_ms(1 + this.below(pause_ms)).await;
            let number = i32::try_from(this.below(u64::try_from(old.plan.partitions).expect("some"))).expect("few");
            let address = old.topic().partition(number).expect("is there").address();
            let begun_ms = this.now_ms();
            let noticed = begun_ms > since_ms + super::run::NOTICED_WITHIN_MS;
            if idle && !noticed {
                clients::delete_some(&this, &old, address).await;
                continue;
            }
            let (bytes, _) = crate::workload::batch(&this.env, 1_000_000, n, None);
            n += 1;
            let answer = crate::workload::send(&this.env, &old.way(), address, bytes).await;
            assert!(!noticed || answer.is_err(), "p{number}: a broker of a lost epoch acknowledges {answer:?}");
        }
    }));
}
