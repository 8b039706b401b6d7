//! Runs a future on a real executor of its own: for tests, benchmarks and offline tools.
//!
//! The broker's shards make their executors themselves. Every executor leaks one eventfd when it ends (glommio 0.9), so
//! do not call this hundreds of times in a process.

use std::future::Future;
use std::io;

use super::{Env, blocking};

/// Runs `work` to its end on a new, unpinned glommio executor on this thread, which must not have one.
///
/// # Errors
/// The executor could not be made; [`super::preflight`] finds out why.
pub fn run<F: Future>(seed: u64, work: impl FnOnce(Env) -> F) -> io::Result<F::Output> {
    let executor = glommio::LocalExecutorBuilder::default().make().map_err(io::Error::from)?;
    Ok(executor.run(blocking::until_settled(async move { work(Env::real(seed)).await })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::env::OpenMode;

    #[test]
    fn the_real_machine_does_what_the_contract_says() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
        run(1, |env| async move {
            let sub = dir.path().join("a/b");
            env.disk.create_dir_all(&sub).await.expect("makes directories");
            let path = sub.join("file");
            let file = env.disk.open(&path, OpenMode::CreateNew).await.expect("creates");
            env.disk.open(&path, OpenMode::CreateNew).await.expect_err("exists");
            file.zero(0..16384).await.expect("zeroes");
            let mut buffer = file.alloc(5000);
            assert_eq!(buffer.len(), 8192);
            buffer[4090..4100].copy_from_slice(b"0123456789");
            file.write_at(buffer, 4096).await.expect("writes");
            file.sync().await.expect("syncs");
            assert_eq!(&file.read_at(4096 + 4090, 10).await.expect("reads")[..], b"0123456789");
            assert_eq!(file.read_at(16380, 100).await.expect("reads to the end").len(), 4);
            assert_eq!(file.read_at(20000, 100).await.expect("reads past the end").len(), 0);
            let unaligned = file.alloc(1);
            file.write_at(unaligned, 100).await.expect_err("unaligned");
            file.set_len(6000).await.expect("cuts");
            assert_eq!(file.len().await.expect("length"), 6000);
            assert_eq!(file.read_at(5000, 5000).await.expect("reads short").len(), 1000);
            file.close().await.expect("closes");
            env.disk.write_atomic(&sub.join("small"), b"one").await.expect("writes");
            let (left, kept) = (sub.join("small.tmp"), dir.path().join("kept"));
            std::fs::write(&left, b"left by a process that died").expect("writes");
            std::fs::hard_link(&left, &kept).expect("links");
            env.disk.write_atomic(&sub.join("small"), b"two").await.expect("replaces");
            assert_eq!(std::fs::read(&kept).expect("reads"), b"left by a process that died", "it is not written again");
            assert_eq!(&env.disk.read_all(&sub.join("small")).await.expect("reads")[..], b"two");
            let names: Vec<_> = env.disk.list(&sub).await.expect("lists").into_iter().map(|e| e.name).collect();
            assert_eq!(names, ["file", "small"]);
            assert!(env.disk.free_bytes(&sub).await.expect("counts") > 0);
            let before = env.clock.now();
            let task = env.tasks.spawn("sleeper", {
                let env = env.clone();
                async move {
                    env.tasks.sleep(Duration::from_millis(2)).await;
                    7
                }
            });
            assert_eq!(task.await, Some(7));
            assert!(env.clock.now().since(before) >= Duration::from_millis(2));
            let never = env.tasks.spawn("never", std::future::pending::<()>());
            never.cancel();
            assert_eq!(never.await, None);
        })
        .expect("executor");
    }

    #[test]
    fn a_file_is_taken_over_once_the_last_handle_for_writing_is_closed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
        run(1, |env| async move {
            let path = dir.path().join("file");
            env.disk.open(&path, OpenMode::CreateNew).await.expect("creates").close().await.expect("closes");
            let first = env.disk.open(&path, OpenMode::ReadWriteDurable).await.expect("opens");
            first.take_over().await.expect("no other handle has it");
            first.take_over().await.expect("this handle has it");
            let second = env.disk.open(&path, OpenMode::ReadWriteDurable).await.expect("opens");
            let begun = env.clock.now();
            let held = Duration::from_millis(40);
            let tasks = env.tasks.clone();
            let closing = env.tasks.spawn("closing", async move {
                tasks.sleep(held).await;
                first.close().await.expect("closes");
            });
            second.take_over().await.expect("closed");
            assert!(env.clock.now().since(begun) >= held);
            assert_eq!(closing.await, Some(()));
            // A handle that stays open may leave the file to the next one.
            let next = env.disk.open(&path, OpenMode::ReadWrite).await.expect("opens");
            second.hand_over().expect("unlocks");
            next.take_over().await.expect("handed over");
            next.close().await.expect("closes");
            second.take_over().await.expect("closed");
            // Readers are not kept away, and do not keep others away.
            let reader = env.disk.open(&path, OpenMode::Read).await.expect("opens");
            second.close().await.expect("closes");
            let third = env.disk.open(&path, OpenMode::ReadWrite).await.expect("opens");
            third.take_over().await.expect("a reader has no lock");
            drop(reader);
        })
        .expect("executor");
    }
}
