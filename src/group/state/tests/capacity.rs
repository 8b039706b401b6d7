//! `group.max.size` across a restart: who finds no place any more.

use super::*;

#[test]
fn a_restored_group_with_too_many_members_shrinks_to_what_it_may_have() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    let saved = world.group.saved_form(TimestampMs(5));
    let times = GroupTimes { members_max: 1, ..times(0) };
    world.group = Group::restore(GroupId::from("g"), times, saved, world.now);
    assert_eq!(world.beat(&first), Err(GroupError::RebalanceInProgress));
    let early = world.join(who(Some(&second.member)));
    let late = world.join(who(Some(&first.member)));
    assert_eq!(world.joined(late), Some(Err(GroupError::Full(1))));
    assert_eq!(world.joined(early), None, "until the other's session ends");
    world.pass(10_000);
    let joined = world.must_join(early);
    assert_eq!((joined.generation, &joined.leader, joined.members.len()), (3, &second.member, 1));
}
