//! Coordinators on three brokers with replicas of one lane, whose leaders are cut off one after the other.

use super::*;
use crate::partition::three::{Three, address};

/// A coordinator on each broker.
fn coordinators(three: &Three) -> Vec<GroupRouter> {
    let place = address();
    let mut known = (*image(1, Some(7))).clone();
    let mut offsets = (**known.topic(OFFSETS_TOPIC).expect("is there")).clone();
    offsets.id = place.id.topic;
    offsets.partitions[0].id = place.id;
    known.topics.insert(offsets.name.clone(), Arc::new(offsets));
    let known = Arc::new(known);
    let settings = GroupSettings { initial_rebalance_delay_ms: 0, snapshot_bytes: 3000, ..GroupSettings::default() };
    let start = |broker: &crate::partition::three::Broker| {
        let controller = ControllerHandle::new(Arc::clone(&known), Mesh::new(1, 1).0);
        let hosting = Rc::clone(&broker.partitions) as Rc<dyn Hosting>;
        let (env, router) = (broker.env.clone(), broker.router.clone());
        let coordinator = Coordinator::new(env, router, controller.clone(), hosting, settings);
        let (mesh, mut inboxes) = Mesh::new(1, 1);
        coordinator.serve(inboxes.remove(0));
        GroupRouter::new(ShardId(0), coordinator, mesh, controller)
    };
    three.brokers.iter().map(start).collect()
}

/// Asks one coordinator after the other until one answers.
async fn until_done<T>(
    three: &Three,
    groups: &[GroupRouter],
    ask: impl AsyncFn(&GroupRouter) -> Result<T, GroupError>,
) -> T {
    for groups in groups.iter().cycle() {
        match ask(groups).await {
            Ok(done) => return done,
            Err(GroupError::NotCoordinator | GroupError::Loading | GroupError::NotAvailable) => {}
            Err(error) => unreachable!("{error}"),
        }
        three.env.tasks.sleep(Duration::from_millis(20)).await;
    }
    unreachable!("there are coordinators")
}

#[test]
fn no_committed_offset_is_lost_or_seen_to_go_back_when_coordinators_change() {
    for seed in 0..3 {
        let world = World::new(seed);
        world.block_on(async {
            let three = Three::open(&world).await;
            let groups = coordinators(&three);
            let (acked, done) = (Cell::new(0), Cell::new(false));
            let joined = until_done(&three, &groups, async |groups| groups.join(g(), joining(b't')).await).await;
            let sync = || Sync {
                member: joined.member.clone(),
                instance: None,
                generation: joined.generation,
                protocol_type: None,
                protocol: None,
                assignments: vec![(joined.member.clone(), Bytes::from_static(b"share"))],
            };
            until_done(&three, &groups, async |groups| groups.sync(g(), sync()).await).await;
            let writes = async {
                for n in 1..600 {
                    let ask = || CommitAsk {
                        member: Some(joined.member.clone()),
                        generation: joined.generation,
                        ..commit(n)
                    };
                    let answers = until_done(&three, &groups, async |groups| groups.commit(g(), ask()).await).await;
                    assert_eq!(answers, vec![Ok(())], "the member goes on with every coordinator");
                    acked.set(n);
                    three.env.tasks.sleep(Duration::from_millis(20)).await;
                }
                done.set(true);
            };
            // Each coordinator is asked all the time, also one that is cut off.
            let reads = futures::future::join_all(groups.iter().map(|groups| async {
                while !done.get() {
                    let before = acked.get();
                    if let Ok(found) = groups.fetch(g(), Some(vec![("t".into(), vec![0])])).await {
                        let found = found[0].commit.as_ref().map_or(0, |commit| commit.offset.0.unsigned_abs());
                        assert!(found >= before, "seed {seed}: {found} was read, {before} was committed");
                    }
                    three.env.tasks.sleep(Duration::from_millis(5)).await;
                }
            }));
            let cuts = async {
                while !done.get() {
                    three.env.tasks.sleep(Duration::from_millis(1500)).await;
                    let nodes: Vec<_> = three.brokers.iter().map(|broker| broker.node).collect();
                    let leader = three.leader_of(&nodes).await.node;
                    three.cut_off(leader, true);
                    three.env.tasks.sleep(Duration::from_millis(2500)).await;
                    three.cut_off(leader, false);
                }
            };
            futures::join!(writes, reads, cuts);
        });
    }
}
