//! `tidewater cluster …`.

use clap::Subcommand;
use serde_json::Value;

use super::Reading;
use crate::client::Client;
use crate::console::{CliError, admin, output};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Id, brokers, bucket
    Info(Reading),
}

pub(super) async fn run(command: ClusterCommand) -> Result<(), CliError> {
    let ClusterCommand::Info(args) = command;
    let cluster = Client::connect(&args.remote.bootstrap).await?.cluster().await?;
    // Kafka's answer alone is a success; the admin port adds the rest if it can be reached.
    let status = admin::get(&args.remote.admin, "/v1/cluster").await;
    if args.json {
        let (status, error) = admin::answer_or_error(status);
        return output::json(&serde_json::json!({ "kafka": cluster, "admin": status, "admin_error": error }));
    }
    output::line(&format!("cluster     {}", cluster.cluster_id))?;
    match status {
        Ok(Some(status)) => {
            for (label, key) in [
                ("name", "name"),
                ("bucket", "bucket"),
                ("bucket is", "bucket_state"),
                ("topics", "topics"),
                ("partitions", "partitions"),
            ] {
                let value = status.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned));
                output::line(&format!("{label:<11} {}", value.unwrap_or_default()))?;
            }
            figures(&status)?;
        }
        Ok(None) => {}
        Err(error) => eprintln!("tidewater: {error}"),
    }
    for (id, host, port) in &cluster.brokers {
        let role = if *id == cluster.controller { " (controller)" } else { "" };
        output::line(&format!("broker {id:<4} {host}:{port}{role}"))?;
    }
    Ok(())
}

/// Connections, disk usage and archive lag.
fn figures(status: &Value) -> Result<(), CliError> {
    let number = |key: &str| status.get(key).and_then(Value::as_u64).unwrap_or_default();
    let size = |key: &str| output::bytes(number(key));
    output::line(&format!("connections {}", number("connections")))?;
    output::line(&format!(
        "disk        {} of {} used, {} left for producers",
        size("disk_used_bytes"),
        size("disk_limit_bytes"),
        size("disk_admissible_bytes")
    ))?;
    let behind = match number("archive_lag_bytes") {
        0 => "all committed records are in the bucket".to_owned(),
        bytes => format!(
            "{} not in the bucket yet, the oldest for {}",
            output::bytes(bytes),
            output::millis(number("archive_lag_ms"))
        ),
    };
    output::line(&format!("archive     {behind}"))
}
