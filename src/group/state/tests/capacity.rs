//! `group.max.size`: across a restart, who finds no place any more; and how many ids are kept in mind.

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

#[test]
fn unused_ids_are_bounded() {
    let mut world = World::new(0);
    world.group.times.members_max = 2;
    let mut given = Vec::new();
    for _ in 0..10_000 {
        world.now = world.now + Duration::from_micros(1);
        let ticket = world.join(Who { id_required: true, ..who(None) });
        let Some(Err(GroupError::MemberIdRequired(id))) = world.joined(ticket) else { unreachable!("an id is given") };
        given.push(id);
    }
    assert_eq!(world.group.pending.len(), PENDING_FLOOR);
    let early = world.join(Who { id_required: true, ..who(given.first()) });
    assert_eq!(world.joined(early), Some(Err(GroupError::UnknownMember)));
    let late = world.join(Who { id_required: true, ..who(given.last()) });
    assert_eq!(world.must_join(late).generation, 1);
}
