//! Topics, settings, offsets, the cluster.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use serde::Serialize;

use super::cluster::{Client, moves_leader};
use super::error::{ClientError, check};

/// Time limit of the broker for a call, in ms.
const TIMEOUT_MS: i32 = 30_000;
/// Kafka's resource type of a topic.
const TOPIC: i8 = 2;

#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// Partitions; `None` is the broker's `num.partitions`.
    pub partitions: Option<i32>,
    /// Replicas of each partition; `None` is the cluster's `default.replication.factor`.
    pub replication_factor: Option<i16>,
    pub configs: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ClusterInfo {
    pub cluster_id: String,
    pub controller: i32,
    pub brokers: Vec<BrokerInfo>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BrokerInfo {
    pub id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TopicInfo {
    pub name: String,
    pub id: String,
    /// A topic of the broker itself.
    pub internal: bool,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PartitionInfo {
    pub partition: i32,
    /// -1 while there is none.
    pub leader: i32,
    pub leader_epoch: i32,
    /// Node ids, the preferred leader first.
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ConfigEntry {
    pub name: String,
    pub value: Option<String>,
    /// Set on the topic, not a default.
    pub is_override: bool,
    /// The broker's description.
    pub documentation: Option<String>,
}

/// A query of `ListOffsets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    Earliest,
    /// After the last record.
    Latest,
    /// The first on the broker's disk.
    EarliestLocal,
    /// The first at or after this time, in ms.
    AtTime(i64),
}

impl OffsetQuery {
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::EarliestLocal => -4,
            Self::AtTime(ms) => ms.max(0),
        }
    }
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

impl Client {
    /// The cluster and its brokers.
    ///
    /// # Errors
    /// The call fails.
    pub async fn cluster(&mut self) -> Result<ClusterInfo, ClientError> {
        let answer = self.ask(&DescribeClusterRequest::default()).await?;
        check(|| "describe the cluster".into(), answer.error_code, answer.error_message.as_deref())?;
        let brokers = answer.brokers.iter().map(|b| BrokerInfo {
            id: b.broker_id.0,
            host: b.host.to_string(),
            port: b.port,
            rack: b.rack.as_ref().map(ToString::to_string),
        });
        Ok(ClusterInfo {
            cluster_id: answer.cluster_id.to_string(),
            controller: answer.controller_id.0,
            brokers: brokers.collect(),
        })
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// The call fails.
    pub async fn topics(&mut self) -> Result<Vec<TopicInfo>, ClientError> {
        self.found(None).await
    }

    /// One topic.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], or the call fails.
    pub async fn topic(&mut self, name: &str) -> Result<TopicInfo, ClientError> {
        let found = self.found(Some(name)).await?;
        found.into_iter().next().ok_or_else(|| ClientError::UnknownTopic(name.to_owned()))
    }

    async fn found(&mut self, topic: Option<&str>) -> Result<Vec<TopicInfo>, ClientError> {
        let named = topic.map(|name| [name]);
        let answer = self.metadata(named.as_ref().map(<[&str; 1]>::as_slice)).await?;
        let mut found = Vec::with_capacity(answer.topics.len());
        for topic in answer.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            if topic.error_code == ResponseError::UnknownTopicOrPartition.code() {
                continue;
            }
            check(|| format!("topic {name}"), topic.error_code, None)?;
            let partition = |p: kafka_protocol::messages::metadata_response::MetadataResponsePartition| PartitionInfo {
                partition: p.partition_index,
                leader: p.leader_id.0,
                leader_epoch: p.leader_epoch,
                replicas: p.replica_nodes.iter().map(|node| node.0).collect(),
                in_sync: p.isr_nodes.iter().map(|node| node.0).collect(),
            };
            let mut partitions: Vec<_> = topic.partitions.into_iter().map(partition).collect();
            partitions.sort_by_key(|p| p.partition);
            found.push(TopicInfo { name, id: topic.topic_id.to_string(), internal: topic.is_internal, partitions });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// # Errors
    /// The broker refuses; the text is the broker's.
    pub async fn create_topic(&mut self, topic: &NewTopic) -> Result<(), ClientError> {
        let configs = topic
            .configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
        let asked = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(TIMEOUT_MS);
        for result in self.call(&request).await?.topics {
            check(|| format!("create topic {}", topic.name), result.error_code, result.error_message.as_deref())?;
        }
        Ok(())
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// It does not exist, or the broker refuses.
    pub async fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let by_state = DeleteTopicState::default().with_name(Some(topic_name(name)));
        let request = DeleteTopicsRequest::default().with_topics(vec![by_state]).with_timeout_ms(TIMEOUT_MS);
        for result in self.call(&request).await?.responses {
            if result.error_code == ResponseError::UnknownTopicOrPartition.code() {
                return Err(ClientError::UnknownTopic(name.to_owned()));
            }
            check(|| format!("delete topic {name}"), result.error_code, result.error_message.as_deref())?;
        }
        Ok(())
    }

    /// Raises a topic's number of partitions.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn add_partitions(&mut self, name: &str, total: i32) -> Result<(), ClientError> {
        let asked =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(total).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![asked]).with_timeout_ms(TIMEOUT_MS);
        for result in self.call(&request).await?.results {
            check(|| format!("partitions of {name}"), result.error_code, result.error_message.as_deref())?;
        }
        Ok(())
    }

    /// Changes a topic's settings; `None` resets one to its default.
    ///
    /// # Errors
    /// The broker refuses one; none is changed then.
    pub async fn alter_configs(&mut self, name: &str, changes: &[(String, Option<String>)]) -> Result<(), ClientError> {
        let configs = changes.iter().map(|(key, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.as_deref().map(text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        for result in self.call(&request).await?.responses {
            check(|| format!("alter topic {name}"), result.error_code, result.error_message.as_deref())?;
        }
        Ok(())
    }

    /// A topic's settings.
    ///
    /// # Errors
    /// The call fails.
    pub async fn topic_configs(&mut self, name: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_documentation(true);
        let mut entries = Vec::new();
        for result in self.ask(&request).await?.results {
            check(|| format!("settings of {name}"), result.error_code, result.error_message.as_deref())?;
            entries.extend(result.configs.into_iter().map(|config| ConfigEntry {
                name: config.name.to_string(),
                value: config.value.as_ref().map(ToString::to_string),
                // 1 is Kafka's DYNAMIC_TOPIC_CONFIG.
                is_override: config.config_source == 1,
                documentation: config.documentation.as_ref().map(ToString::to_string),
            }));
        }
        Ok(entries)
    }

    /// Looks offsets up; `None` where no record matches.
    ///
    /// # Errors
    /// The call fails for one of the partitions.
    pub async fn list_offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        query: OffsetQuery,
    ) -> Result<Vec<(i32, Option<u64>)>, ClientError> {
        let make = |partitions: &[i32], _| {
            let asked = partitions.iter().map(|n| {
                ListOffsetsPartition::default()
                    .with_partition_index(*n)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(query.timestamp())
            });
            let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(asked.collect());
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked])
        };
        let mut found = Vec::with_capacity(partitions.len());
        self.at_leaders(topic, partitions, make, |answer| {
            let mut again = Vec::new();
            for part in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                match check(|| format!("offsets of {topic}/{}", part.partition_index), part.error_code, None) {
                    Ok(()) => found.push((part.partition_index, u64::try_from(part.offset).ok())),
                    Err(error) if moves_leader(part.error_code) => again.push((part.partition_index, error)),
                    Err(error) => return Err(error),
                }
            }
            Ok(again)
        })
        .await?;
        found.sort_unstable();
        Ok(found)
    }

    /// Moves log starts (DeleteRecords); returns the new ones.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn delete_records(&mut self, topic: &str, to: &[(i32, u64)]) -> Result<Vec<(i32, u64)>, ClientError> {
        let make = |partitions: &[i32], _| {
            let asked = to.iter().filter(|(n, _)| partitions.contains(n)).map(|(n, offset)| {
                let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
                DeleteRecordsPartition::default().with_partition_index(*n).with_offset(offset)
            });
            let asked = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(asked.collect());
            DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(TIMEOUT_MS)
        };
        let partitions: Vec<i32> = to.iter().map(|(n, _)| *n).collect();
        let mut starts = Vec::with_capacity(to.len());
        self.at_leaders(topic, &partitions, make, |answer| {
            let mut again = Vec::new();
            for part in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                match check(|| format!("trim {topic}/{}", part.partition_index), part.error_code, None) {
                    Ok(()) => starts.push((part.partition_index, u64::try_from(part.low_watermark).unwrap_or(0))),
                    Err(error) if moves_leader(part.error_code) => again.push((part.partition_index, error)),
                    Err(error) => return Err(error),
                }
            }
            Ok(again)
        })
        .await?;
        starts.sort_unstable();
        Ok(starts)
    }
}
