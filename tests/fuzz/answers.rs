//! What a broker sends our own client. Response bodies are decoded by kafka-protocol and trusted (`src/client.rs` says
//! why); the records inside are opened by us.

use tidewater::client::outside;

use super::batches;
use super::target::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("client_records", outside::records, || {
            let seeds = batches::seeds();
            [seeds.clone(), seeds.chunks(2).map(<[_]>::concat).collect()].concat()
        })
        .mended(batches::mend)
        // A client unpacks whatever its broker let through.
        .extra(64 << 20),
    ]
}
