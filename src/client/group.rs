//! Groups for tools: list, describe, move offsets, delete.

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use serde::Serialize;

use super::admin::{text, topic_name};
use super::cluster::Client;
use super::error::{ClientError, check};

#[derive(Clone, Debug, Serialize)]
pub struct GroupSummary {
    pub group: String,
    pub state: String,
    /// Empty for a group that only stores offsets.
    pub protocol_type: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct GroupInfo {
    pub group: String,
    pub state: String,
    pub protocol_type: String,
    /// The assignor in use.
    pub protocol: String,
    pub members: Vec<MemberInfo>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemberInfo {
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance: Option<String>,
    pub client_id: String,
    pub host: String,
    /// Partitions by topic, if it is a consumer.
    pub assigned: Vec<(String, Vec<i32>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupOffset {
    pub topic: String,
    pub partition: i32,
    /// The next offset that the group reads.
    pub offset: u64,
    /// The text that the client committed with it.
    pub metadata: String,
}

const GROUP_ID_NOT_FOUND: i16 = 69;

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

impl Client {
    /// All groups, by name.
    ///
    /// # Errors
    /// The call fails.
    pub async fn groups(&mut self) -> Result<Vec<GroupSummary>, ClientError> {
        let mut listed = Vec::new();
        let brokers = self.all_brokers().await?;
        for addr in &brokers {
            // The groups of a broker that is away are those of another by now.
            match self.call_at(addr, &ListGroupsRequest::default()).await {
                Err(error) if error.is_of_connection() && brokers.len() > 1 => continue,
                answer => {
                    let answer = answer?;
                    check(|| "list groups".into(), answer.error_code, None)?;
                    listed.extend(answer.groups);
                }
            }
        }
        let summary = |group: kafka_protocol::messages::list_groups_response::ListedGroup| GroupSummary {
            group: group.group_id.to_string(),
            state: group.group_state.to_string(),
            protocol_type: group.protocol_type.to_string(),
        };
        let mut groups: Vec<_> = listed.into_iter().map(summary).collect();
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    /// One group; state `Dead` when there is none.
    ///
    /// # Errors
    /// The call fails.
    pub async fn group(&mut self, group: &str) -> Result<GroupInfo, ClientError> {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let code = |answer: &DescribeGroupsResponse| answer.groups.first().map_or(0, |group| group.error_code);
        let found = self.at_coordinator(group, &request, code).await?.groups.into_iter().next();
        let mut found = found.ok_or_else(|| ClientError::Missing(format!("group {group}")))?;
        // From v6 on an unknown group is an error beside the state.
        if found.error_code == GROUP_ID_NOT_FOUND {
            found.error_code = 0;
        }
        check(|| format!("describe group {group}"), found.error_code, found.error_message.as_deref())?;
        let member = |m: kafka_protocol::messages::describe_groups_response::DescribedGroupMember| MemberInfo {
            id: m.member_id.to_string(),
            instance: m.group_instance_id.as_ref().map(ToString::to_string),
            client_id: m.client_id.to_string(),
            host: m.client_host.to_string(),
            assigned: assigned(&m.member_assignment).unwrap_or_default(),
        };
        Ok(GroupInfo {
            group: group.to_owned(),
            state: found.group_state.to_string(),
            protocol_type: found.protocol_type.to_string(),
            protocol: found.protocol_data.to_string(),
            members: found.members.into_iter().map(member).collect(),
        })
    }

    /// All committed offsets of a group.
    ///
    /// # Errors
    /// The call fails.
    pub async fn group_offsets(&mut self, group: &str) -> Result<Vec<GroupOffset>, ClientError> {
        let asked = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![asked]);
        let code = |answer: &OffsetFetchResponse| answer.groups.first().map_or(0, |group| group.error_code);
        let answer = self.at_coordinator(group, &request, code).await?;
        let mut offsets = Vec::new();
        for found in answer.groups {
            check(|| format!("offsets of group {group}"), found.error_code, None)?;
            for topic in found.topics {
                for part in topic.partitions {
                    check(|| format!("offset of {}", topic.name.as_str()), part.error_code, None)?;
                    let Ok(offset) = u64::try_from(part.committed_offset) else { continue };
                    let metadata = part.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
                    offsets.push(GroupOffset {
                        topic: topic.name.to_string(),
                        partition: part.partition_index,
                        offset,
                        metadata,
                    });
                }
            }
        }
        Ok(offsets)
    }

    /// Commits offsets for a group without members.
    ///
    /// # Errors
    /// The group has members, or the broker refuses.
    pub async fn commit(&mut self, group: &str, topic: &str, offsets: &[(i32, u64)]) -> Result<(), ClientError> {
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        for found in self.call(&find).await?.coordinators {
            check(|| format!("find group {group}"), found.error_code, found.error_message.as_deref())?;
        }
        let partitions = offsets.iter().map(|(n, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*n)
                .with_committed_offset(i64::try_from(*offset).unwrap_or(i64::MAX))
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text("")))
        });
        let asked =
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![asked]);
        let code = |answer: &OffsetCommitResponse| {
            answer.topics.first().and_then(|topic| topic.partitions.first()).map_or(0, |part| part.error_code)
        };
        let answer = self.at_coordinator(group, &request, code).await?;
        for part in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            check(|| format!("commit {topic}/{} for group {group}", part.partition_index), part.error_code, None)?;
        }
        Ok(())
    }

    /// Deletes a group without members.
    ///
    /// # Errors
    /// It has members or does not exist.
    pub async fn delete_group(&mut self, group: &str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let code = |answer: &DeleteGroupsResponse| answer.results.first().map_or(0, |group| group.error_code);
        for result in self.at_coordinator(group, &request, code).await?.results {
            check(|| format!("delete group {group}"), result.error_code, None)?;
        }
        Ok(())
    }
}

/// The partitions in a consumer's assignment (`ConsumerProtocolAssignment`, any version).
pub(super) fn assigned(bytes: &bytes::Bytes) -> Option<Vec<(String, Vec<i32>)>> {
    use bytes::Buf;
    let mut bytes = bytes.clone();
    bytes.try_get_i16().ok()?;
    let mut topics = Vec::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let len = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let name = if len <= bytes.len() { bytes.split_to(len) } else { return None };
        let mut partitions = Vec::new();
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.push(bytes.try_get_i32().ok()?);
        }
        topics.push((String::from_utf8(name.into()).ok()?, partitions));
    }
    Some(topics)
}
