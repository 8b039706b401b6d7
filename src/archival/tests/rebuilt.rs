//! What the bucket says of a partition beside its records is what its replicas hold: leader epochs and idempotent
//! producers, also after a change of leader.

use tidewater_storage::model::{LeaderEpoch, ProducerId};
use tidewater_tiering::follow::{FollowedLane, Next, Purpose, ReadPages};
use tidewater_tiering::keys::ObjectName;
use tidewater_tiering::manifest::{PublishedLane, decode_objects, decode_page};
use tidewater_tiering::store::ETag;

use super::*;
use crate::archival::host::log_facts;

/// The lane as the bucket alone says it.
async fn rebuild(cluster: &Archived) -> FollowedLane {
    let objects = cluster.sim.objects();
    let object = |name: ObjectName| objects.get(name.key().as_str()).cloned();
    let fetch = FetchConfig::new(PathBuf::from("/another-cache"), 1 << 20);
    let reader = RemoteReader::open(cluster.three.env.clone(), cluster.sim.store(), fetch).await.expect("opens");
    let (home, id) = (cluster.three.brokers[0].lane.archive().home, cluster.three.brokers[0].lane.id);
    let mut lane = FollowedLane::new(home, id, Purpose::Restore);
    loop {
        match lane.next() {
            Next::Manifest(name) => match object(name) {
                None => lane.on_no_manifest().expect("there never was one"),
                Some(body) => {
                    let published = PublishedLane::decode(&body).expect("decodes");
                    lane.on_manifest(published, ETag("1".into())).expect("a first base");
                }
            },
            Next::Pages { partitions, objects } => {
                let mut read = ReadPages::default();
                for page in partitions {
                    let body = object(page.page).expect("is there");
                    read.partitions.insert(page.page, decode_page(&page, &body).expect("decodes"));
                }
                for page in objects {
                    let body = object(page.page).expect("is there");
                    read.objects.insert(page.page, decode_objects(&page, &body).expect("decodes"));
                }
                lane.on_pages(read).expect("a first base");
            }
            Next::Bundle(name) if object(name).is_none() => return lane,
            Next::Bundle(name) => {
                let found = reader.indexes().at_key(name).await.expect("is read");
                lane.on_bundle(&found.index, found.at, found.size).expect("continues the lane");
            }
            Next::Root(seal) => unreachable!("nothing sealed the lane: {seal:?}"),
        }
    }
}

/// Compares what the bucket says with what a replica holds; the replica's leader epochs and producers.
async fn check(cluster: &Archived, broker: &Broker) -> (Vec<LeaderEpoch>, Vec<ProducerId>) {
    let rebuilt = rebuild(cluster).await;
    let replica = broker.lane.replica(address().id).expect("is there");
    let (facts, followed) = (log_facts(&replica), &rebuilt.partitions()[&address().id]);
    assert_eq!(followed.high_watermark(), replica.high_watermark());
    assert_eq!(followed.log_start(), replica.log_start());
    assert_eq!(followed.epochs(), facts.epochs);
    let mut found: Vec<_> = followed.producers().values().cloned().collect();
    for (found, known) in found.iter_mut().zip(&facts.producers) {
        // A bundle knows when it was written, which is later.
        assert!(found.seen >= known.seen && found.seen <= cluster.three.env.clock.wall());
        found.seen = known.seen;
    }
    assert_eq!(found, facts.producers);
    (facts.epochs.iter().map(|epoch| epoch.epoch).collect(), facts.producers.iter().map(|known| known.id).collect())
}

#[test]
fn the_bucket_knows_leader_epochs_and_producers_as_the_replicas_do() {
    for seed in 30..34 {
        in_three(seed, async |cluster| {
            let three = &cluster.three;
            let old = three.leader_of(&NODES).await;
            cluster.configure(old).await;
            cluster.send(old, 3).await;
            old.send(77, 5).await.expect("is stored");
            cluster.until_archived(old).await;
            three.env.tasks.sleep(Duration::from_secs(3)).await;
            check(cluster, old).await;
            three.cut_off(old.node, true);
            let new = three.leader_of(&Three::others(old.node)).await;
            cluster.send(new, 9).await;
            cluster.until_archived(new).await;
            // In bundles after what was published, and then published.
            check(cluster, new).await;
            three.env.tasks.sleep(Duration::from_secs(3)).await;
            assert!(new.lane.archive().published_as_of().is_some(), "a new leader publishes");
            let (epochs, producers) = check(cluster, new).await;
            assert_eq!((epochs.len(), producers), (2, vec![ProducerId(1), ProducerId(77)]));
        });
    }
}
