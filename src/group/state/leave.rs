//! Leaving: a member leaves, or an admin removes a static member by its instance id.

use tidewater_storage::env::Mono;

use super::{Effect, Group};
use crate::group::error::GroupError;
use crate::group::ids::{InstanceId, MemberId};

#[derive(Clone, Debug)]
pub struct Leave {
    /// Who; `None` when only the instance is named (an admin's removal).
    pub member: Option<MemberId>,
    pub instance: Option<InstanceId>,
}

impl Group {
    /// Removes members; one answer for each, in order, and one rebalance for all.
    pub fn leave(&mut self, now: Mono, leaves: &[Leave], effects: &mut Vec<Effect>) -> Vec<Result<(), GroupError>> {
        let members = self.members.len();
        let answers = leaves.iter().map(|leave| self.leave_one(leave, effects)).collect();
        self.after_loss(self.members.len() < members, now, effects);
        answers
    }

    fn leave_one(&mut self, leave: &Leave, effects: &mut Vec<Effect>) -> Result<(), GroupError> {
        let id = match (&leave.member, &leave.instance) {
            (None, Some(instance)) => self.instances.get(instance).cloned().ok_or(GroupError::UnknownMember)?,
            (None, None) => return Err(GroupError::UnknownMember),
            (Some(id), None) if self.pending.remove(id).is_some() => return Ok(()),
            (Some(id), instance) => {
                self.check_member(id, instance.as_ref())?;
                id.clone()
            }
        };
        self.remove(&id, effects);
        Ok(())
    }
}
