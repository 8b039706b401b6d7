//! A replica cluster's discovery of a source over a store of 20 ms: from nothing until every lane is at its last
//! bundle.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidewater_read_replica::{LaneFollower, LaneParts, ReplicaConfig, Source, SourceParts, TopicPattern};
use tidewater_tiering::fetch::Indexes;

use crate::archive::{self, Archive, Shape};
use crate::cost::{Bench, Cost};
use crate::{Run, shapes};

/// Memory for indexes, of each broker.
const INDEX_BYTES: u64 = 16 << 20;
/// How often the figure looks whether all is followed; it is as exact as this.
const LOOK: Duration = Duration::from_millis(10);

pub fn run(run: &Run) {
    let table = Cost::table();
    for shape in shapes(run) {
        let archive = archive::make(shape);
        let bench = Bench::new(&archive);
        let (lanes, cost) = bench.cost_of(|| discovered(&bench, &archive, &shape));
        let partitions: usize = lanes.iter().map(|lane| lane.status().partitions).sum();
        assert_eq!(partitions, shape.partitions, "every partition is followed");
        cost.row(&table, shape.name, "discovery");
        bench.world.dissolve();
    }
}

fn discovered(bench: &Bench, archive: &Archive, shape: &Shape) -> Vec<LaneFollower> {
    let env = bench.world.env();
    let source = Source::new(SourceParts {
        env: env.clone(),
        store: Arc::clone(&bench.store),
        name: archive.name.clone(),
        topics: TopicPattern::all(),
        config: ReplicaConfig::default(),
        changed: Rc::new(|| {}),
    });
    bench.world.block_on(source.look()).expect("root and catalogue can be read");
    let state = source.state().expect("a home is served");
    assert_eq!(state.lanes.len(), shape.lanes);
    let indexes = Indexes::new(Arc::clone(&bench.store), INDEX_BYTES);
    let follow = |lane| {
        let follower = LaneFollower::new(LaneParts {
            env: env.clone(),
            store: Arc::clone(&bench.store),
            indexes: indexes.clone(),
            name: archive.name.clone(),
            home: state.home,
            lane,
            config: ReplicaConfig::default(),
            changed: Rc::new(|_| {}),
        });
        let running = follower.clone();
        drop(env.tasks.spawn("follower", async move { running.run().await }));
        follower
    };
    let lanes: Vec<LaneFollower> = state.lanes.iter().copied().map(follow).collect();
    while !lanes.iter().all(|lane| lane.status().has_caught_up) {
        bench.world.run_for(LOOK);
        if let Some(error) = lanes.iter().find_map(|lane| lane.status().error) {
            panic!("{error}");
        }
    }
    lanes
}
