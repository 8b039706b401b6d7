//! Tests of `chunk_cache`, beside it.

use tidewater_storage::env::sim::World;
use tidewater_storage::model::LaneId;

use super::*;
use crate::keys::{ClusterId, Home, LineageEpoch, Sequence};

const BUDGET: u64 = 64 * BLOCK;

fn chunk(sequence: u64, start: u64, len: u64) -> ChunkId {
    let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
    ChunkId { object: home.bundle(LaneId(1), Sequence(sequence)), bytes: start..start + len }
}

fn content(id: &ChunkId) -> Bytes {
    (id.bytes.start..id.bytes.end).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

async fn keep(cache: &ChunkCache, id: &ChunkId) -> bool {
    let Some(space) = cache.reserve(id) else { return false };
    cache.store(id, &content(id), space).await;
    true
}

async fn disk_bytes(env: &Env) -> u64 {
    let files = env.disk.list(Path::new("/cache")).await.expect("lists");
    files.iter().map(|file| file.len).sum()
}

#[test]
fn names_say_everything_about_a_chunk() {
    let id = chunk(7, 123, 4567);
    let name = id.file_name().expect("short enough");
    assert_eq!(ChunkId::from_file_name(&name), Some(id));
    for other in ["x", "a@1-2.chunk", "@1-2.chunk", "a~b@1.chunk"] {
        assert_eq!(ChunkId::from_file_name(other), None, "{other}");
    }
}

#[test]
fn the_disk_stays_within_the_budget_and_the_least_used_go() {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async {
        let cache = ChunkCache::open(env.clone(), Path::new("/cache"), BUDGET).await.expect("opens");
        let hot = chunk(0, 0, 3 * BLOCK);
        assert!(keep(&cache, &hot).await);
        for n in 1..100 {
            let id = chunk(n, 5000, 2 * BLOCK - 100);
            assert!(keep(&cache, &id).await);
            assert_eq!(cache.read_cached(&id, 5010..6010).await, Some(content(&id).slice(10..1010)));
            assert!(cache.read_cached(&hot, 0..10).await.is_some(), "used all the time");
            assert!(disk_bytes(&env).await <= BUDGET && cache.used_bytes() <= BUDGET);
        }
        assert!(!cache.contains(&chunk(1, 5000, 2 * BLOCK - 100)));
        assert!(cache.reserve(&chunk(0, 0, BUDGET)).is_none(), "larger than the headroom");
    });
}

#[test]
fn a_restart_goes_on_with_what_is_there_and_lost_files_are_misses() {
    let world = World::new(2);
    let (kept, lost) = (chunk(1, 0, 5000), chunk(2, 0, 5000));
    let env = world.env();
    world.block_on(async {
        let cache = ChunkCache::open(env.clone(), Path::new("/cache"), BUDGET).await.expect("opens");
        assert!(keep(&cache, &kept).await && keep(&cache, &lost).await);
    });
    let env = world.restart();
    world.block_on(async {
        let file = env.disk.open(Path::new("/cache/stranger"), OpenMode::CreateNew).await.expect("opens");
        file.close().await.expect("closes");
        let cache = ChunkCache::open(env.clone(), Path::new("/cache"), BUDGET).await.expect("opens");
        assert!(!env.disk.exists(Path::new("/cache/stranger")).await.expect("looks"));
        assert_eq!(cache.read_cached(&kept, 0..5000).await, Some(content(&kept)));
        let name = lost.file_name().expect("short enough");
        env.disk.remove_file(&Path::new("/cache").join(name)).await.expect("removes");
        assert_eq!(cache.read_cached(&lost, 0..10).await, None);
        assert!(!cache.contains(&lost));
        assert!(keep(&cache, &lost).await);
        assert_eq!(cache.read_cached(&lost, 0..10).await, Some(content(&lost).slice(0..10)));
    });
}
