//! How many protocols a join may name, and what all members speak.

use super::*;

#[test]
fn a_member_that_its_groups_record_cannot_hold_is_refused_at_once() {
    let mut group = Group::new(GroupId::from("g"), times(0));
    let mut join = |metadata: usize, client_id: usize| {
        let join = Join {
            member: None,
            fresh: MemberId::from("m".to_owned()),
            instance: None,
            id_required: true,
            may_skip: false,
            client_id: "c".repeat(client_id),
            client_host: String::new(),
            session: Duration::from_secs(10),
            rebalance: Duration::from_secs(60),
            protocol_type: "consumer".into(),
            protocols: vec![("p".into(), Bytes::from(vec![0; metadata]))],
        };
        let mut effects = Vec::new();
        group.join(Mono::ZERO, join, Ticket(0), &mut effects);
        effects
    };
    let max = crate::limits::GROUP_MEMBER_BYTES_MAX;
    let refused = |found| vec![Effect::Joined(Ticket(0), Err(GroupError::MemberTooLarge { found, max }))];
    assert_eq!(join(max, 0), refused(max + 1));
    assert_eq!(join(max / 2, max / 2), refused(max + 1));
    assert!(matches!(join(max - 1, 0).as_slice(), [Effect::Joined(_, Err(GroupError::MemberIdRequired(_)))]));
}

#[test]
fn a_join_of_more_protocols_than_may_be_is_refused_at_once() {
    let names = |first: usize, count: usize| {
        (first..first + count).map(|n| (ProtocolName::from(format!("p{n}")), Bytes::new())).collect::<Vec<_>>()
    };
    let mut world = World::new(0);
    let join = |world: &mut World, protocols| {
        let ticket = world.ticket();
        world.fresh += 1;
        let join = Join {
            member: None,
            fresh: MemberId::from(format!("m-{}", world.fresh)),
            instance: None,
            id_required: false,
            may_skip: false,
            client_id: String::new(),
            client_host: String::new(),
            session: Duration::from_secs(10),
            rebalance: Duration::from_secs(60),
            protocol_type: "consumer".into(),
            protocols,
        };
        world.group.join(world.now, join, ticket, &mut world.effects);
        let refused = |effect: &Effect| *effect == Effect::Joined(ticket, Err(GroupError::InconsistentProtocol));
        world.effects.iter().any(refused)
    };
    let max = crate::limits::GROUP_PROTOCOLS_MAX;
    assert!(join(&mut world, names(0, 100_000)));
    assert!(join(&mut world, names(0, max + 1)));
    assert!(!join(&mut world, names(0, max)));
    assert!(join(&mut world, names(100_000, 100_000)));
    assert!(join(&mut world, names(max, max)), "none in common");
    for n in 0..98 {
        assert!(!join(&mut world, names(max - 1, 1 + n % max)), "one in common");
    }
    assert_eq!(world.group.choose_protocol(), Some(ProtocolName::from(format!("p{}", max - 1))));
}

proptest! {
    #[test]
    fn counts_are_of_the_members_there_are(
        steps in proptest::collection::vec((0usize..6, any::<u8>(), any::<bool>()), 1..60),
    ) {
        let mut group = Group::new(GroupId::from("g"), times(0));
        for (n, spoken, leaves) in steps {
            let id = MemberId::from(format!("m{n}"));
            let bits = (0..8).filter(|bit| spoken & (1 << bit) != 0);
            let mut protocols: Vec<(ProtocolName, Bytes)> =
                bits.map(|bit| (format!("p{bit}").into(), Bytes::new())).collect();
            // A name given twice counts once.
            protocols.extend(protocols.first().cloned());
            if leaves {
                group.remove(&id, &mut Vec::new());
            } else {
                group.insert(id, Member {
                    instance: None,
                    client_id: String::new(),
                    client_host: String::new(),
                    session: Duration::ZERO,
                    rebalance: Duration::ZERO,
                    protocols,
                    assignment: Bytes::new(),
                    joining: None,
                    syncing: None,
                    synced: false,
                    is_new: false,
                    deadline: Mono::ZERO,
                });
            }
            for bit in 0..8 {
                let name = ProtocolName::from(format!("p{bit}"));
                let speaks = |member: &Member| member.protocols.iter().any(|(other, _)| *other == name);
                prop_assert_eq!(group.all_speak(&name), group.members.values().all(speaks));
            }
        }
    }
}
