//! Reads of several partitions for one fetch. Partitions in memory are read first; the others (slow reads) are read
//! side by side and delay none of the first.
//!
//! Owns: how many slow reads run at once, and how long a fetch that already has records waits for them. Does not own:
//! reading (`read_path`). Shard-local. When the fetch stops waiting, requests to the bucket go on, and the next fetch
//! finds their bytes in memory. Slow reads take no room from the others: bytes that do not fit into the answer are cut
//! off. Each slow read gets an equal share of the fetch's bytes, so together they hold no more than that and one run
//! each.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use tidewater_storage::env::{Deadlines, Env};

use crate::limits::{COLD_PATIENCE, COLD_READS_MAX};
use crate::partition::message::{ReadDone, ReadError, ReadPart};

type Outcome = Result<ReadDone, ReadError>;

/// Reads `parts` within `max_bytes`. `begin` returns for a part and its room the answer to use if the fetch stops
/// waiting, and the read, which checks its room again after each wait.
pub(in crate::partition) async fn read<R>(
    env: &Env,
    deadlines: &Deadlines,
    parts: Vec<ReadPart>,
    max_bytes: usize,
    mut begin: impl FnMut(ReadPart, Rc<Cell<usize>>) -> Result<(ReadDone, R), ReadError>,
) -> Vec<Outcome>
where
    R: Future<Output = Outcome> + Unpin,
{
    let (mut left, mut slow, mut rooms) = (max_bytes, FuturesUnordered::new(), Vec::new());
    let mut found: Vec<Outcome> = Vec::with_capacity(parts.len());
    for part in parts {
        let room = Rc::new(Cell::new(left));
        let (nothing, mut read) = match begin(part, Rc::clone(&room)) {
            Ok(begun) => begun,
            Err(error) => {
                found.push(Err(error));
                continue;
            }
        };
        match futures::poll!(&mut read) {
            Poll::Ready(done) => {
                left = left.saturating_sub(done.as_ref().map_or(0, ReadDone::bytes));
                found.push(done);
            }
            Poll::Pending => {
                let n = found.len();
                found.push(Ok(nothing));
                if slow.len() < COLD_READS_MAX {
                    rooms.push(room);
                    slow.push(async move { (n, read.await) });
                }
            }
        }
    }
    // None has read more than its first run yet; a single slow read keeps its whole room.
    let share = max_bytes / rooms.len().max(1);
    rooms.into_iter().for_each(|room| room.set(room.get().min(share)));
    let mut patience = None;
    while !slow.is_empty() {
        if patience.is_none() && found.iter().any(|done| done.as_ref().is_ok_and(|done| done.bytes() > 0)) {
            patience = Some(deadlines.until(env.clock.now() + COLD_PATIENCE));
        }
        let next = match &mut patience {
            None => slow.next().await,
            Some(patience) => match select(slow.next(), patience).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => break,
            },
        };
        put(&mut found, next);
    }
    let (mut left, mut first) = (max_bytes, true);
    found.into_iter().map(|done| done.map(|done| done.within(&mut left, &mut first))).collect()
}

fn put(found: &mut [Outcome], next: Option<(usize, Outcome)>) {
    if let Some((n, done)) = next
        && let Some(place) = found.get_mut(n)
    {
        *place = done;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::{LaneId, Offset, PartitionId, PartitionIndex, ShardId};

    use super::*;
    use crate::partition::message::{Isolation, PartitionAddress};

    fn done(bytes: usize) -> ReadDone {
        let batches = if bytes == 0 { Vec::new() } else { vec![Bytes::from(vec![0; bytes])] };
        let end = Offset::new(100);
        ReadDone { batches, high_watermark: end, last_stable_offset: end, log_start: Offset::ZERO }
    }

    fn part(n: usize) -> ReadPart {
        let id = PartitionId { index: PartitionIndex(n as i32), ..PartitionId::default() };
        let address = PartitionAddress { id, lane: LaneId(1), shard: ShardId(0) };
        ReadPart { address, from: Offset::ZERO, max_bytes: 10, isolation: Isolation::ReadUncommitted, epoch: None }
    }

    /// Each part yields 10 bytes after so many milliseconds, or an error at once; returns the bytes of each and the
    /// time.
    fn run(parts: &[Option<u64>], max_bytes: usize) -> (Vec<Option<usize>>, Duration) {
        let world = World::new(1);
        let env = world.env();
        let deadlines = Deadlines::new(env.clone());
        let begun = env.clock.now();
        let clock = env.clock.clone();
        let all = (0..parts.len()).map(part).collect();
        let begin = |part: ReadPart, room: Rc<Cell<usize>>| {
            let after = parts[part.address.id.index.0 as usize].ok_or(ReadError::NotLeader(None))?;
            let tasks = env.tasks.clone();
            let read = Box::pin(async move {
                if after > 0 {
                    tasks.sleep(Duration::from_millis(after)).await;
                }
                Ok(done(room.get().min(10)))
            });
            Ok((done(0), read))
        };
        let found = world.block_on(read(&env, &deadlines, all, max_bytes, begin));
        (found.iter().map(|done| done.as_ref().ok().map(ReadDone::bytes)).collect(), clock.now().since(begun))
    }

    #[test]
    fn what_is_there_does_not_wait_for_what_is_slow() {
        let (found, took) = run(&[Some(5000), Some(0), None, Some(20), Some(0)], 1000);
        assert_eq!(found, [Some(0), Some(10), None, Some(10), Some(10)]);
        assert!(took >= COLD_PATIENCE && took < COLD_PATIENCE * 2, "{took:?}");
        let (found, took) = run(&[Some(0), Some(30)], 1000);
        assert_eq!(found, [Some(10), Some(10)]);
        assert!(took < COLD_PATIENCE, "{took:?}");
    }

    #[test]
    fn only_slow_ones_are_waited_for() {
        let (found, took) = run(&[Some(5000), Some(700), Some(720), None], 1000);
        assert_eq!(found, [Some(0), Some(10), Some(10), None]);
        assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn slow_reads_share_the_room_and_a_single_one_has_all() {
        let (found, _) = run(&[Some(10), Some(10), None, Some(10), Some(10)], 12);
        assert_eq!(found, [Some(3), Some(3), None, Some(3), Some(3)]);
        let (found, _) = run(&[Some(10), Some(0)], 10);
        assert_eq!(found, [Some(10), Some(0)], "what is not read with it takes nothing from it");
        let (found, _) = run(&[Some(10); COLD_READS_MAX * 2], 10 * COLD_READS_MAX);
        assert_eq!(found.iter().flatten().sum::<usize>(), 10 * COLD_READS_MAX);
    }

    #[test]
    fn slow_reads_take_no_room_and_delay_no_other_however_many() {
        let slow = || std::iter::repeat_n(Some(5000), COLD_READS_MAX + 4);
        let (found, took) = run(&slow().chain([Some(0)]).collect::<Vec<_>>(), 10);
        assert_eq!(found.last(), Some(&Some(10)));
        assert!(took < COLD_PATIENCE * 2, "{took:?}");
        let (found, _) = run(&[Some(10), Some(0), Some(0)], 10);
        assert_eq!(found, [Some(10), Some(0), Some(0)], "cut to what was asked for");
    }
}
