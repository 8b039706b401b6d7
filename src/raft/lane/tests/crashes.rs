//! One voter over the journal on the simulated disk, killed and cut off power again and again: every acknowledged
//! proposal is applied exactly once, in order, and every incarnation leads a higher term.

use std::collections::BTreeMap;
use std::path::Path;

use tidewater_storage::journal::{Journal, JournalConfig};

use super::*;

/// What outlives the process, and what the clients know.
#[derive(Default)]
struct Book {
    next: u64,
    acknowledged: Vec<(EntryId, u64)>,
    checkpoint: Option<(Option<EntryId>, Bytes, Vec<(EntryId, u64)>)>,
}

type Shared = Rc<RefCell<Book>>;

/// Proposes numbers, several in flight, and notes what is acknowledged.
async fn client(env: Env, lane: Lane, book: Shared) {
    until(&env, "ready", || lane.leadership().ready).await;
    loop {
        let burst = 1 + env.rng.below(12);
        let flight: Vec<_> = (0..burst)
            .map(|_| {
                let number = book.borrow().next;
                book.borrow_mut().next += 1;
                (number, lane.propose(payload(number, 50)))
            })
            .collect();
        for (number, proposal) in flight {
            let (id, answer) = proposal.await.expect("a single voter does not lose leadership");
            assert_eq!(answer.take::<u64>().expect("a number"), number);
            book.borrow_mut().acknowledged.push((id, number));
        }
        env.tasks.sleep(Duration::from_micros(env.rng.below(400))).await;
    }
}

/// Where the lane is, once it has started.
type Started = Rc<RefCell<Option<Lane>>>;

/// Makes checkpoints and purges behind them, as the engine does: from before the lane has started.
async fn checkpoints(env: Env, lane: Started, numbers: Rc<Numbers>, book: Shared) {
    let often = 20 + env.rng.below(6000);
    loop {
        env.tasks.sleep(Duration::from_micros(env.rng.below(often))).await;
        let Some(applied) = numbers.last.get() else { continue };
        let made = (Some(applied), numbers.membership.borrow().clone(), numbers.applied.borrow().clone());
        book.borrow_mut().checkpoint = Some(made);
        if let Some(lane) = lane.borrow().clone()
            && env.rng.below(2) == 0
        {
            lane.purge(applied);
        }
    }
}

fn check(book: &Book, applied: &[(EntryId, u64)]) {
    assert!(applied.windows(2).all(|pair| pair[0].0.index < pair[1].0.index));
    let mut places = BTreeMap::new();
    for (id, number) in applied {
        assert!(places.insert(*number, *id).is_none(), "{number} applied twice");
    }
    for (id, number) in &book.acknowledged {
        assert_eq!(places.get(number), Some(id), "acknowledged {number} at {id}");
    }
}

/// Incarnations of a run; the last is waited for.
const LIVES: u32 = 6;

fn small() -> JournalConfig {
    JournalConfig {
        first_file_bytes: 16 << 10,
        file_bytes: 64 << 10,
        capacity_bytes: 8 << 20,
        memory_bytes: 16 << 10,
        commit_bytes: 16 << 10,
        spare_files: 1,
    }
}

fn run(seed: u64) -> usize {
    let world = World::new(seed);
    let book = Shared::default();
    let mut terms = vec![Term(0)];
    for life in 1..=LIVES {
        let env = world.env();
        let (applied, membership, state) = match book.borrow().checkpoint.clone() {
            Some((applied, membership, state)) => (applied, Some(membership), state),
            None => (None, None, Vec::new()),
        };
        let numbers = Numbers::restored(state, applied);
        numbers.membership.replace(membership.clone().unwrap_or_default());
        let started = Started::default();
        let upkeep = checkpoints(env.clone(), started.clone(), numbers.clone(), book.clone());
        drop(env.tasks.spawn("checkpoints", upkeep));
        let lane = world.block_on(async {
            let options = LaneOptions::single(LANE, NodeId(1)).from_checkpoint(applied, membership);
            let journal = Journal::open(env.clone(), Path::new("/journal"), small()).await.expect("opens");
            Lane::start(&env, journal.lane(LANE), numbers.clone(), options).await.expect("starts")
        });
        drop(env.tasks.spawn("client", client(env.clone(), lane.clone(), book.clone())));
        started.replace(Some(lane.clone()));
        world.run_for(Duration::from_micros(env.rng.below(25_000)));
        if life == LIVES {
            world.block_on(until(&env, "ready", || lane.leadership().ready));
        }
        if let Some(Event::Leading(term, _)) = numbers.events.borrow().first() {
            assert!(terms.iter().all(|before| before < term), "{term} after {terms:?}");
            terms.push(*term);
            // Before it leads, what was committed last may not be known to be, and is not applied again yet.
            check(&book.borrow(), &numbers.applied.borrow());
        }
        drop(lane);
        started.replace(None);
        if env.rng.below(2) == 0 {
            world.kill();
        } else {
            world.crash();
        }
    }
    let book = book.borrow();
    book.acknowledged.len()
}

#[test]
fn every_acknowledged_proposal_is_applied_once_and_in_order() {
    let acknowledged: usize = (0..100).map(run).sum();
    assert!(acknowledged > 1000, "the runs did something: {acknowledged}");
}
