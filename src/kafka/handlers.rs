//! One file per API key: what is asked, what is done for it, what is answered.
//!
//! `handle(&RequestContext, Request) -> Response`, called by one row of [`super::dispatch`]. Protocol sentinels (-1,
//! -2, null) become `Option` or an enum here and go no further in; what can be decided without waiting is a pure
//! function with tests beside it.

pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod api_versions;
pub mod broker_settings;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod describe_user_scram_credentials;
pub mod elect_leaders;
pub mod fetch;
pub mod find_coordinator;
#[cfg(test)]
pub(crate) mod fixture;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;
