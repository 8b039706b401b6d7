//! Static members (KIP-345): who bears an instance id, and who is fenced.

use super::*;

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut world = World::new(0);
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    let old = world.must_join(ticket);
    let sync = world.sync(&old, &[(&old.member.clone(), "all")]);
    world.save(Ok(()));
    assert!(world.synced(sync).is_some());

    let ticket = world.join(Who { instance: Some("i"), may_skip: true, ..who(None) });
    assert_eq!(world.joined(ticket), None);
    assert_eq!(world.save(Ok(())), 1);
    let new = world.must_join(ticket);
    assert_ne!(new.member, old.member);
    assert_eq!((new.generation, new.skip_assignment, &new.leader), (1, true, &new.member));
    let fenced = world.group.heartbeat(world.now, &old.member, Some(&InstanceId::from("i")), 1);
    assert_eq!(fenced, Err(GroupError::Fenced(InstanceId::from("i"))));
    let sync = world.sync(&new, &[]);
    assert_eq!(world.synced(sync), Some(Ok(Bytes::from_static(b"all"))));
    assert_eq!(world.group.state(), StateName::Stable);
}

#[test]
fn an_old_client_that_comes_back_is_not_made_leader() {
    let mut world = World::new(0);
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    let old = world.must_join(ticket);
    world.sync(&old, &[]);
    world.save(Ok(()));
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    world.save(Ok(()));
    let new = world.must_join(ticket);
    assert!(!new.skip_assignment && new.members.is_empty());
    assert_eq!(new.leader, old.member);
}

#[test]
fn a_static_member_replaced_while_it_waits_is_fenced() {
    let mut world = World::new(3000);
    let old = world.join(Who { instance: Some("i"), ..who(None) });
    let new = world.join(Who { instance: Some("i"), ..who(None) });
    assert_eq!(world.joined(old), Some(Err(GroupError::Fenced(InstanceId::from("i")))));
    world.pass(3000);
    let joined = world.must_join(new);
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn an_absent_static_member_keeps_its_place_until_its_session_ends() {
    let mut world = World::new(0);
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    let fixed = world.must_join(ticket);
    world.sync(&fixed, &[]);
    world.save(Ok(()));
    let other = world.join(who(None));
    // The dynamic member waits for the static one's session to end.
    world.pass(9_000);
    assert_eq!(world.joined(other), None);
    world.pass(1_000);
    let joined = world.must_join(other);
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn an_admin_removes_a_static_member_by_instance() {
    let mut world = World::new(0);
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    world.must_join(ticket);
    let leaves = [
        Leave { member: None, instance: Some(InstanceId::from("i")) },
        Leave { member: None, instance: Some(InstanceId::from("j")) },
        Leave { member: None, instance: None },
    ];
    let answers = world.group.leave(world.now, &leaves, &mut world.effects);
    assert_eq!(answers, [Ok(()), Err(GroupError::UnknownMember), Err(GroupError::UnknownMember)]);
    assert_eq!(world.group.state(), StateName::Empty);
}

#[test]
fn a_commit_for_a_static_identity_that_another_bears_is_fenced() {
    let mut world = World::new(0);
    let ticket = world.join(Who { instance: Some("i"), ..who(None) });
    let joined = world.must_join(ticket);
    world.sync(&joined, &[(&joined.member, "share")]);
    world.save(Ok(()));
    let (mine, other) = (InstanceId::from("i"), InstanceId::from("j"));
    assert_eq!(world.group.commit(world.now, Some(&joined.member), Some(&mine), 1), Ok(()));
    assert_eq!(world.group.commit(world.now, None, Some(&mine), -1), Err(GroupError::Fenced(mine.clone())));
    let stranger = MemberId::from("x");
    assert_eq!(world.group.commit(world.now, Some(&stranger), Some(&mine), 1), Err(GroupError::Fenced(mine)));
    assert_eq!(world.group.commit(world.now, None, Some(&other), 1), Err(GroupError::UnknownMember));
}

#[test]
fn absent_static_members_without_a_rebalance_timeout_do_not_spin() {
    let mut world = World::new(0);
    let fixed = world.join(Who { instance: Some("i"), timeouts: Some((10_000, 0)), ..who(None) });
    let fixed = world.must_join(fixed);
    let other = world.join(who(None));
    let again = world.join(Who { instance: Some("i"), timeouts: Some((10_000, 0)), ..who(Some(&fixed.member)) });
    let (fixed, other) = (world.must_join(again), world.must_join(other));
    world.sync(&fixed, &[]);
    world.sync(&other, &[]);
    world.save(Ok(()));
    assert_eq!(world.group.state(), StateName::Stable);
    // Who is left has no time to join again: its session decides, and nothing is due before a while has passed.
    assert_eq!(world.leave(&other.member), Ok(()));
    let mut looks = 0;
    while let Some(next) = world.group.next_deadline() {
        assert!(next > world.now, "due again at the same moment");
        world.now = next;
        world.pass(0);
        looks += 1;
    }
    assert!(looks <= 11, "{looks} looks at one absent member");
    assert_eq!(world.group.state(), StateName::Empty);
}
