//! openraft's conformance suite on both machines, and what the suite does not ask.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use openraft_rt::{AsyncRuntime as _, Instant as _, Mpsc as _, MpscReceiver as _};
use tidewater_storage::env::sim::World;

use super::scope::{current, enter, scoped};
use super::time::{ShardInstant, hold_timeout};
use super::{ShardRuntime, mpsc};

thread_local! {
    static MACHINE: Cell<bool> = const { Cell::new(false) };
}

/// Do the suite's runtimes run on the real machine?
pub(super) fn on_the_machine() -> bool {
    MACHINE.get()
}

pub(super) fn run_on_the_machine<T>(future: impl Future<Output = T>) -> T {
    tidewater_storage::env::real::run(1, |env| scoped(Rc::new(env), future)).expect("executor")
}

#[test]
fn openrafts_suite_passes_in_a_simulated_world() {
    openraft_rt::testing::Suite::<ShardRuntime>::test_all();
}

#[test]
fn openrafts_suite_passes_on_the_machine() {
    MACHINE.set(true);
    openraft_rt::testing::Suite::<ShardRuntime>::test_all();
}

#[test]
fn sleeps_end_on_the_grid_and_a_microsecond_only_gives_way() {
    let mut runtime = ShardRuntime::new(1);
    runtime.block_on(async {
        let start = ShardInstant::now();
        ShardRuntime::sleep(Duration::from_micros(1)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        ShardRuntime::sleep(Duration::from_millis(3)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(20));
        ShardRuntime::sleep(Duration::from_millis(21)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(60));
    });
}

/// Ticks of openraft wait for a moment, send a tick and compute the next moment from the clock: a wait that ended early
/// would be followed by one for the same moment, without end in a simulated world.
#[test]
fn a_wait_for_a_near_moment_ends_after_it() {
    let mut runtime = ShardRuntime::new(1);
    runtime.block_on(async {
        for ahead in [0, 1, 999, 1_000, 9_999, 10_000] {
            let deadline = ShardInstant::now() + Duration::from_nanos(ahead);
            ShardRuntime::sleep_until(deadline).await;
            assert!(ShardInstant::now() >= deadline, "{ahead} ns ahead");
            let deadline = ShardInstant::now() + Duration::from_nanos(ahead);
            let waited = ShardRuntime::timeout_at(deadline, std::future::pending::<()>()).await;
            assert!(waited.is_err() && ShardInstant::now() >= deadline, "{ahead} ns ahead");
        }
    });
}

#[test]
fn tasks_stay_with_the_node_that_spawned_them() {
    let world = World::new(1);
    let (a, b) = (Rc::new(world.env_of(1)), Rc::new(world.env_of(2)));
    let of = |env: &Rc<tidewater_storage::env::Env>| enter(env, || Rc::as_ptr(&current()));
    assert_ne!(of(&a), of(&b));
    enter(&a, || {
        assert_eq!(of(&b), Rc::as_ptr(&b));
        assert_eq!(Rc::as_ptr(&current()), Rc::as_ptr(&a));
    });
    let task = enter(&a, || ShardRuntime::spawn(async { ShardRuntime::spawn(std::future::pending::<()>()).await }));
    world.run_for(Duration::from_millis(1));
    assert_eq!((world.tasks_alive(1), world.tasks_alive(2)), (2, 0));
    world.kill_node(1);
    assert!(world.block_on(task).is_err());
}

#[test]
fn a_full_queue_is_served_in_order() {
    let (sender, mut receiver) = mpsc::ShardMpsc::channel::<u32>(1);
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = Box::pin(sender.send(1));
    let mut second = Box::pin(sender.send(2));
    let mut third = Box::pin(sender.send(3));
    assert!(first.as_mut().poll(&mut cx).is_ready());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert!(third.as_mut().poll(&mut cx).is_pending());
    assert_eq!(receiver.try_recv(), Ok(1));
    assert!(third.as_mut().poll(&mut cx).is_pending(), "the second is first in line");
    drop(second);
    assert!(third.as_mut().poll(&mut cx).is_ready(), "the second left the line");
    assert_eq!(receiver.try_recv(), Ok(3));
}

#[test]
fn a_future_may_ask_the_timeout_around_it_for_more_time() {
    let mut runtime = ShardRuntime::new(1);
    runtime.block_on(async {
        let start = ShardInstant::now();
        let held = async {
            hold_timeout(Duration::from_millis(400));
            // One within it has its own deadline.
            assert!(ShardRuntime::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.is_err());
            assert_eq!(start.elapsed(), Duration::from_millis(100));
            std::future::pending::<()>().await;
        };
        let around = ShardRuntime::timeout(Duration::from_millis(600), async {
            assert!(ShardRuntime::timeout(Duration::from_millis(60), held).await.is_err());
            assert_eq!(start.elapsed(), Duration::from_millis(400));
            std::future::pending::<()>().await;
        });
        assert!(around.await.is_err());
        assert_eq!(start.elapsed(), Duration::from_millis(600), "only the nearest is asked");
    });
}
