//! A consumer group's offsets, committed during the whole run: an acknowledged commit survives every kill.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewater::client::{Client, ClientError};

use super::support::broker::Broker;
use super::{PARTITIONS, TOPIC, run};

const GROUP: &str = "survivors";

/// Commits one number higher each time, to all partitions.
pub struct Committer {
    addr: String,
    acknowledged: u64,
    tried: u64,
}

impl Committer {
    pub fn new(addr: String) -> Self {
        Self { addr, acknowledged: 0, tried: 0 }
    }

    /// Commits until stopped.
    pub fn run(mut self, stop: &AtomicBool) -> Self {
        run(async {
            while !stop.load(Ordering::Relaxed) {
                // The kill closed the connection.
                let _ = self.connection(stop).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        self
    }

    async fn connection(&mut self, stop: &AtomicBool) -> Result<(), ClientError> {
        let mut client = Client::connect(&self.addr).await?;
        while !stop.load(Ordering::Relaxed) {
            self.tried += 1;
            let offsets: Vec<(i32, u64)> = (0..PARTITIONS).map(|partition| (partition, self.tried)).collect();
            client.commit(GROUP, TOPIC, &offsets).await?;
            self.acknowledged = self.tried;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The last acknowledged commit is there, or one that was tried after it.
    pub fn check(&self, broker: &Broker) {
        assert!(self.acknowledged > 20, "only {} commits were acknowledged", self.acknowledged);
        let held = run(async { Client::connect(&broker.kafka).await?.group_offsets(GROUP).await }).expect("offsets");
        assert_eq!(held.len(), PARTITIONS as usize, "{held:?}");
        for offset in held {
            assert!(
                (self.acknowledged..=self.tried).contains(&offset.offset),
                "{offset:?} is not between {} and {}",
                self.acknowledged,
                self.tried
            );
        }
    }
}
