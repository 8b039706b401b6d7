//! Tests of `disk_sim`, beside it.

use super::*;
use crate::env::sim::World;

const DIR: &str = "/data";

#[test]
fn what_was_synced_survives_and_what_was_not_may_not() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let world = World::new(seed);
        let env = world.env();
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            let file = env.disk.open(Path::new("/data/f"), OpenMode::CreateNew).await.expect("creates");
            env.disk.sync_dir(Path::new(DIR)).await.expect("syncs names");
            let mut first = file.alloc(8192);
            first.fill(1);
            file.write_at(first, 0).await.expect("writes");
            file.sync().await.expect("syncs");
            let mut second = file.alloc(8192);
            second.fill(2);
            file.write_at(second, 8192).await.expect("writes");
        });
        world.crash();
        let bytes = world.disk().contents(Path::new("/data/f")).expect("the name was synced");
        assert!(bytes[..8192].iter().all(|byte| *byte == 1), "seed {seed}");
        let tail = &bytes[8192..];
        match tail.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            8192 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "kept {kept} lost {lost} torn {torn}");
}

#[test]
fn names_need_their_directory_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..100 {
        let world = World::new(seed);
        let env = world.env();
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            let file = env.disk.open(Path::new("/data/f"), OpenMode::CreateNew).await.expect("creates");
            file.sync().await.expect("syncs");
            env.disk.write_atomic(Path::new("/data/g"), b"whole").await.expect("writes");
            env.disk.open(Path::new("/data/h"), OpenMode::CreateNew).await.expect("creates");
        });
        world.crash();
        assert_eq!(world.disk().contents(Path::new("/data/g")).as_deref(), Some(&b"whole"[..]));
        match world.disk().contents(Path::new("/data/h")) {
            Some(_) => kept += 1,
            None => lost += 1,
        }
    }
    assert!(kept > 10 && lost > 10, "kept {kept} lost {lost}");
}

#[test]
fn a_replacement_is_the_old_or_the_new() {
    for seed in 0..100 {
        let world = World::new(seed);
        let env = world.env();
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            env.disk.write_atomic(Path::new("/data/g"), b"old").await.expect("writes");
            let writer = env.clone();
            let write = env.tasks.spawn("writer", async move {
                writer.disk.write_atomic(Path::new("/data/g"), b"newer").await.expect("writes");
            });
            env.tasks.sleep(Duration::from_micros(env.rng.below(1000))).await;
            drop(write);
        });
        world.crash();
        let now = world.disk().contents(Path::new("/data/g")).expect("is there");
        assert!(now == b"old" || now == b"newer", "seed {seed}: {now:?}");
    }
}

#[test]
fn a_failed_sync_dooms_what_it_covered() {
    let mut survived = 0;
    for seed in 0..60 {
        let world = World::new(seed);
        let env = world.env();
        let disk = world.disk();
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            let file = env.disk.open(Path::new("/data/f"), OpenMode::CreateNew).await.expect("creates");
            env.disk.sync_dir(Path::new(DIR)).await.expect("syncs names");
            file.write_at(file.alloc(4096), 0).await.expect("writes");
            let fault = Fault { operation: Operation::Sync, path: "/f".into(), after: 0, error: io::ErrorKind::Other };
            disk.inject(fault);
            file.sync().await.expect_err("fails");
            file.sync().await.expect("a later one pretends all is well");
        });
        world.crash();
        survived += usize::from(world.disk().contents(Path::new("/data/f")).is_some_and(|bytes| !bytes.is_empty()));
    }
    assert!(survived < 60, "a crash may take what a failed sync covered");
}

/// Linux writes lengths with the journal of the file system: a later sync that succeeds has them, in their order.
#[test]
fn a_length_before_a_failed_sync_does_not_come_back_after_a_good_one() {
    for seed in 0..60 {
        let world = World::new(seed);
        let (env, disk) = (world.env(), world.disk());
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            let file = env.disk.open(Path::new("/data/f"), OpenMode::CreateNew).await.expect("creates");
            env.disk.sync_dir(Path::new(DIR)).await.expect("syncs names");
            file.write_at(file.alloc(8192), 0).await.expect("writes");
            file.set_len(0).await.expect("empties");
            disk.inject(Fault { operation: Operation::Sync, path: "/f".into(), after: 0, error: io::ErrorKind::Other });
            file.sync().await.expect_err("fails");
            file.write_at(file.alloc(4096), 0).await.expect("writes");
            file.sync().await.expect("syncs");
        });
        world.crash();
        let bytes = world.disk().contents(Path::new("/data/f")).expect("the name was synced");
        assert_eq!(bytes.len(), 4096, "seed {seed}");
    }
}

/// What a dead process left under the temporary name may be a file whose sync failed.
#[test]
fn a_replacement_does_not_write_to_a_file_that_an_earlier_one_left() {
    for seed in 0..60 {
        let world = World::new(seed);
        let (env, disk) = (world.env(), world.disk());
        world.block_on(async move {
            env.disk.create_dir_all(Path::new(DIR)).await.expect("makes");
            env.disk.write_atomic(Path::new("/data/g"), b"old").await.expect("writes");
            let fault =
                Fault { operation: Operation::Sync, path: "g.tmp".into(), after: 0, error: io::ErrorKind::Other };
            disk.inject(fault);
            env.disk.write_atomic(Path::new("/data/g"), b"failed").await.expect_err("fails");
            let left = env.disk.open(Path::new("/data/g.tmp"), OpenMode::Read).await.expect("is left");
            env.disk.write_atomic(Path::new("/data/g"), b"newer").await.expect("writes");
            assert_eq!(left.read_at(0, 10).await.expect("reads"), b"failed"[..]);
        });
        world.crash();
        assert_eq!(world.disk().contents(Path::new("/data/g")).as_deref(), Some(&b"newer"[..]), "seed {seed}");
    }
}

#[test]
fn a_full_disk_says_so() {
    let world = World::new(1);
    let env = world.env();
    world.disk().set_capacity(8192);
    world.block_on(async move {
        let file = env.disk.open(Path::new("f"), OpenMode::CreateNew).await.expect("creates");
        file.write_at(file.alloc(8192), 0).await.expect("fits");
        file.write_at(file.alloc(8192), 0).await.expect("fits again");
        let error = file.write_at(file.alloc(1), 8192).await.expect_err("does not fit");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(env.disk.free_bytes(Path::new("f")).await.expect("counts"), 0);
    });
}
