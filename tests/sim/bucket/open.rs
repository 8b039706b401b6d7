//! Opening the cluster's place in the bucket, as the side runtime does.

use std::sync::Arc;
use std::time::Duration;

use tidewater::archival::run::{Opening, Tier};
use tidewater_storage::env::Env;
use tidewater_tiering::bucket::{Bucket, BucketError, Claim, RootRefusal};
use tidewater_tiering::keys::{ClusterName, Nonce};
use tidewater_tiering::store::ObjectStore;

use crate::world::{NAME, World};

/// A tier that opens in its own time.
pub(crate) fn open(env: &Env, world: &World, store: &Arc<dyn ObjectStore>) -> Tier {
    let name = ClusterName::new(NAME).expect("legal");
    let (tier, opening) = Tier::over(Arc::clone(store), world.home(), name.clone());
    let claim = Claim { cluster: world.home().cluster, epoch: world.home().epoch, name, confirmed: false };
    let superseded = tier.superseded.clone();
    let (opener, store) = (env.clone(), Arc::clone(store));
    drop(env.tasks.spawn("bucket opening", async move {
        loop {
            let nonce = Nonce(opener.rng.next_u64());
            match Bucket::open(Arc::clone(&store), &claim, nonce, opener.clock.wall()).await {
                Ok(bucket) => {
                    opening.send_replace(Opening::Open(bucket));
                    return;
                }
                Err(BucketError::Refused(RootRefusal::Superseded { found, own, .. })) => {
                    superseded.note(own, found, "the bucket's root names it");
                    opening.send_replace(Opening::Refused("superseded".to_owned()));
                    return;
                }
                Err(error) if error.disposition().passes() => opener.tasks.sleep(Duration::from_millis(500)).await,
                Err(error) => panic!("the bucket is refused: {error}"),
            }
        }
    }));
    tier
}
