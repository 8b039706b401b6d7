//! Brokers that need longer for a round trip than lies between two heartbeats.

use super::*;

/// The longest way between two replicas; both ways take less than twice as much.
const FAR: Duration = Duration::from_millis(100);

#[test]
fn a_leader_proves_that_it_leads_to_followers_that_are_far_away() {
    for seed in 500..510 {
        let mut cluster = Cluster::apart(seed, FAR);
        cluster.propose(3);
        let (_, leader) = cluster.await_leader();
        cluster.world.run_for(Duration::from_secs(1));
        for look in 0..100 {
            cluster.world.run_for(Duration::from_millis(53));
            assert!(leader.holds_lease(), "seed {seed}, look {look}: {:?} ms", leader.last_quorum_ms());
        }
        cluster.check();
    }
}
