//! The helper thread of a glommio executor, for calls that would block a shard: names, directories, small files.
//!
//! Owns: three workarounds for glommio 0.9.0. A panic inside `spawn_blocking` hangs the caller and kills the executor
//! at the next call, so work runs under `catch_unwind`. If an executor ends while its helper works, the helper panics
//! because its answer is not taken; [`until_settled`] ends an executor only after the helper has finished. An executor
//! that goes to sleep while the helper answers may miss that: one without a timer of its own slept for good, so
//! [`until_settled`] wakes it now and then.
//!
//! Affinity: shard-local.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Between two wakes of an executor that sleeps.
const WAKE: Duration = Duration::from_secs(1);

thread_local! {
    /// This thread's executor is about to end. A thread may have several executors, one after the other.
    static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the helper thread; a panic becomes an error. Never resolves once the executor is about to end.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if ENDING.get() {
        return std::future::pending().await;
    }
    guarded(work).await
}

async fn guarded<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let caught = move || catch_unwind(AssertUnwindSafe(work));
    match glommio::executor().spawn_blocking(caught).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("a blocking file operation panicked")),
    }
}

/// Runs `main`, an executor's whole life, and then waits for the work that its helper thread still has.
pub async fn until_settled<F: Future>(main: F) -> F::Output {
    ENDING.set(false);
    let waking = glommio::spawn_local(async {
        loop {
            glommio::timer::sleep(WAKE).await;
        }
    });
    let done = main.await;
    ENDING.set(true);
    // The one helper works in order: when it answers this, it has answered all others.
    let _ = guarded(|| Ok(())).await;
    drop(waking);
    done
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_executor_ends_after_its_helper() {
        for _ in 0..2 {
            let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let executor = glommio::LocalExecutorBuilder::default().make().expect("executor");
            let last = Rc::new(Cell::new(false));
            executor.run(until_settled({
                let (begun, ended, last) = (Arc::clone(&begun), Arc::clone(&ended), Rc::clone(&last));
                async move {
                    for _ in 0..4 {
                        let (begun, ended, last) = (Arc::clone(&begun), Arc::clone(&ended), Rc::clone(&last));
                        glommio::spawn_local(async move {
                            loop {
                                assert!(!last.get(), "work began after the end");
                                let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
                                let work = move || {
                                    begun.fetch_add(1, Ordering::SeqCst);
                                    std::thread::sleep(Duration::from_millis(5));
                                    ended.fetch_add(1, Ordering::SeqCst);
                                    Ok(())
                                };
                                blocking(work).await.expect("no panic");
                            }
                        })
                        .detach();
                    }
                    glommio::timer::sleep(Duration::from_millis(12)).await;
                }
            }));
            last.set(true);
            assert!(begun.load(Ordering::SeqCst) >= 4, "the helper had work");
            assert_eq!(begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst), "work was cut off");
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_helper_goes_on() {
        let executor = glommio::LocalExecutorBuilder::default().make().expect("executor");
        executor.run(until_settled(async {
            blocking::<()>(|| panic!("on purpose")).await.expect_err("panicked");
            assert_eq!(blocking(|| Ok(7)).await.expect("works"), 7);
        }));
    }
}
