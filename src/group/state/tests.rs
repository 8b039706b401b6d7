//! The group machine, driven as clients drive it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod capacity;
mod protocols;
mod static_members;

fn times(initial_delay_ms: u64) -> GroupTimes {
    GroupTimes {
        initial_delay: Duration::from_millis(initial_delay_ms),
        session_min: Duration::from_secs(6),
        session_max: Duration::from_secs(1800),
        members_max: 100,
    }
}

struct World {
    group: Group,
    now: Mono,
    tickets: u64,
    fresh: u32,
    effects: Vec<Effect>,
}

/// How a member joins; the rest is what a Java consumer sends.
#[derive(Clone, Default)]
struct Who {
    member: Option<MemberId>,
    instance: Option<&'static str>,
    id_required: bool,
    may_skip: bool,
    protocols: Vec<(&'static str, &'static str)>,
    /// Session and rebalance timeout in ms; otherwise 10 s and 60 s.
    timeouts: Option<(u64, u64)>,
}

fn who(member: Option<&MemberId>) -> Who {
    Who { member: member.cloned(), protocols: vec![("range", "sub")], ..Who::default() }
}

impl World {
    fn new(initial_delay_ms: u64) -> Self {
        let times = times(initial_delay_ms);
        let group = Group::new(GroupId::from("g"), times);
        Self { group, now: Mono::ZERO, tickets: 0, fresh: 0, effects: Vec::new() }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn join(&mut self, who: Who) -> Ticket {
        let ticket = self.ticket();
        self.fresh += 1;
        let (session, rebalance) = who.timeouts.unwrap_or((10_000, 60_000));
        let join = Join {
            member: who.member,
            fresh: format!("m{}", self.fresh).into(),
            instance: who.instance.map(InstanceId::from),
            id_required: who.id_required,
            may_skip: who.may_skip,
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session: Duration::from_millis(session),
            rebalance: Duration::from_millis(rebalance),
            protocol_type: "consumer".into(),
            protocols: who
                .protocols
                .iter()
                .map(|(n, m)| (ProtocolName::from(*n), Bytes::from_static(m.as_bytes())))
                .collect(),
        };
        self.group.join(self.now, join, ticket, &mut self.effects);
        ticket
    }

    fn joined(&mut self, ticket: Ticket) -> Option<Result<Joined, GroupError>> {
        let at = self.effects.iter().position(|e| matches!(e, Effect::Joined(t, _) if *t == ticket))?;
        match self.effects.remove(at) {
            Effect::Joined(_, answer) => Some(answer),
            _ => None,
        }
    }

    fn must_join(&mut self, ticket: Ticket) -> Joined {
        self.joined(ticket).expect("answered").expect("joined")
    }

    fn sync(&mut self, joined: &Joined, shares: &[(&MemberId, &'static str)]) -> Ticket {
        let ticket = self.ticket();
        let sync = Sync {
            member: joined.member.clone(),
            instance: None,
            generation: joined.generation,
            protocol_type: joined.protocol_type.clone(),
            protocol: joined.protocol.clone(),
            assignments: shares
                .iter()
                .map(|(id, share)| ((*id).clone(), Bytes::from_static(share.as_bytes())))
                .collect(),
        };
        self.group.sync(self.now, sync, ticket, &mut self.effects);
        ticket
    }

    fn synced(&mut self, ticket: Ticket) -> Option<Result<Bytes, GroupError>> {
        let at = self.effects.iter().position(|e| matches!(e, Effect::Synced(t, _) if *t == ticket))?;
        match self.effects.remove(at) {
            Effect::Synced(_, answer) => Some(answer.map(|synced| synced.assignment)),
            _ => None,
        }
    }

    /// Carries out the writes that are wanted.
    fn save(&mut self, outcome: Result<(), GroupError>) -> usize {
        let (saves, rest) =
            std::mem::take(&mut self.effects).into_iter().partition::<Vec<_>, _>(|e| matches!(e, Effect::Save(_)));
        self.effects = rest;
        for save in &saves {
            if let Effect::Save(cause) = save {
                self.group.saved(self.now, cause, outcome.clone(), &mut self.effects);
            }
        }
        saves.len()
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.group.expire(self.now, &mut self.effects);
    }

    fn beat(&mut self, joined: &Joined) -> Result<(), GroupError> {
        self.group.heartbeat(self.now, &joined.member, None, joined.generation)
    }

    fn leave(&mut self, id: &MemberId) -> Result<(), GroupError> {
        let leave = Leave { member: Some(id.clone()), instance: None };
        self.group.leave(self.now, &[leave], &mut self.effects).remove(0)
    }

    /// A stable group of one.
    fn stable_one(&mut self) -> Joined {
        let ticket = self.join(who(None));
        let joined = self.must_join(ticket);
        let ticket = self.sync(&joined, &[(&joined.member.clone(), "all")]);
        self.save(Ok(()));
        assert_eq!(self.synced(ticket), Some(Ok(Bytes::from_static(b"all"))));
        joined
    }

    /// A stable group of two, the first leading.
    fn stable_two(&mut self) -> (Joined, Joined) {
        let first = self.stable_one();
        let second = self.join(who(None));
        let first = self.join(who(Some(&first.member)));
        let (first, second) = (self.must_join(first), self.must_join(second));
        let shares = [(&first.member.clone(), "a"), (&second.member.clone(), "b")];
        let (one, two) = (self.sync(&first, &shares), self.sync(&second, &[]));
        self.save(Ok(()));
        assert_eq!(self.synced(one), Some(Ok(Bytes::from_static(b"a"))));
        assert_eq!(self.synced(two), Some(Ok(Bytes::from_static(b"b"))));
        assert_eq!(self.group.state(), StateName::Stable);
        (first, second)
    }
}

#[test]
fn one_member_joins_syncs_and_leaves() {
    let mut world = World::new(0);
    let joined = world.stable_one();
    assert_eq!((joined.generation, &joined.leader), (1, &joined.member));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(world.beat(&joined), Ok(()));
    assert_eq!(world.leave(&joined.member), Ok(()));
    assert_eq!(world.group.state(), StateName::Empty);
    assert_eq!(world.save(Ok(())), 1);
    assert_eq!(world.group.next_deadline(), None);
    assert_eq!(world.beat(&joined), Err(GroupError::UnknownMember));
}

#[test]
fn a_new_group_waits_for_more_members() {
    let mut world = World::new(3000);
    let one = world.join(who(None));
    world.pass(2000);
    let two = world.join(who(None));
    world.pass(1000);
    assert_eq!(world.joined(one), None);
    world.pass(3000);
    let (one, two) = (world.must_join(one), world.must_join(two));
    assert_eq!((one.generation, two.generation), (1, 1));
    assert_eq!((one.members.len(), two.members.len()), (2, 0));
    assert_eq!(one.leader, two.leader);
}

#[test]
fn the_delay_ends_when_no_more_members_join() {
    let mut world = World::new(3000);
    let one = world.join(who(None));
    world.pass(2999);
    assert_eq!(world.joined(one), None);
    world.pass(1);
    assert_eq!(world.must_join(one).generation, 1);
}

#[test]
fn a_dynamic_member_gets_its_id_first() {
    let mut world = World::new(0);
    let ticket = world.join(Who { id_required: true, ..who(None) });
    let Some(Err(GroupError::MemberIdRequired(id))) = world.joined(ticket) else { unreachable!("an id is given") };
    assert!(!world.group.is_vacant());
    let ticket = world.join(Who { id_required: true, ..who(Some(&id)) });
    assert_eq!(world.must_join(ticket).member, id);
}

#[test]
fn an_id_that_is_never_used_lapses() {
    let mut world = World::new(0);
    let ticket = world.join(Who { id_required: true, ..who(None) });
    assert!(matches!(world.joined(ticket), Some(Err(GroupError::MemberIdRequired(_)))));
    assert_eq!(world.group.next_deadline(), Some(Mono::ZERO + Duration::from_secs(10)));
    world.pass(10_000);
    assert!(world.group.is_vacant());
}

#[test]
fn a_pending_id_holds_the_barrier_and_does_not_upset_a_stable_group() {
    let mut world = World::new(0);
    let first = world.stable_one();
    let ticket = world.join(Who { id_required: true, ..who(None) });
    assert!(matches!(world.joined(ticket), Some(Err(GroupError::MemberIdRequired(_)))));
    for _ in 0..3 {
        world.pass(4_000);
        assert_eq!(world.beat(&first), Ok(()));
    }
    assert_eq!(world.group.state(), StateName::Stable);
}

#[test]
fn a_second_member_makes_a_rebalance() {
    let mut world = World::new(0);
    let first = world.stable_one();
    let second = world.join(who(None));
    assert_eq!(world.joined(second), None);
    assert_eq!(world.beat(&first), Err(GroupError::RebalanceInProgress));
    let again = world.join(who(Some(&first.member)));
    let (first, second) = (world.must_join(again), world.must_join(second));
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!(second.leader, first.member);
    // No member has a share before the leader's assignments are written.
    let early = world.sync(&second, &[]);
    assert_eq!(world.synced(early), None);
    let lead = world.sync(&first, &[(&second.member.clone(), "b")]);
    assert_eq!((world.synced(early), world.synced(lead)), (None, None));
    world.save(Ok(()));
    assert_eq!(world.synced(early), Some(Ok(Bytes::from_static(b"b"))));
    assert_eq!(world.synced(lead), Some(Ok(Bytes::new())));
}

#[test]
fn a_failed_write_makes_all_members_join_again() {
    let mut world = World::new(0);
    let ticket = world.join(who(None));
    let joined = world.must_join(ticket);
    let sync = world.sync(&joined, &[(&joined.member.clone(), "all")]);
    world.save(Err(GroupError::NotAvailable));
    assert_eq!(world.synced(sync), Some(Err(GroupError::NotAvailable)));
    assert_eq!(world.group.state(), StateName::PreparingRebalance);
    let again = world.join(who(Some(&joined.member)));
    assert_eq!(world.must_join(again).generation, 2);
}

#[test]
fn a_late_write_of_an_old_generation_changes_nothing() {
    let mut world = World::new(0);
    let ticket = world.join(who(None));
    let joined = world.must_join(ticket);
    world.sync(&joined, &[(&joined.member.clone(), "old")]);
    let second = world.join(who(None));
    assert_eq!(world.save(Ok(())), 1);
    assert_eq!(world.group.state(), StateName::PreparingRebalance);
    assert_eq!(world.joined(second), None);
}

#[test]
fn a_follower_that_joins_again_is_told_the_same() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    let ticket = world.join(who(Some(&second.member)));
    assert_eq!(world.must_join(ticket).generation, first.generation);
    assert_eq!(world.group.state(), StateName::Stable);
    // With other metadata (a changed subscription) it is a rebalance; so is the leader's own.
    let ticket = world.join(Who { protocols: vec![("range", "other")], ..who(Some(&second.member)) });
    assert_eq!(world.joined(ticket), None);
    assert_eq!(world.group.state(), StateName::PreparingRebalance);
}

#[test]
fn the_leader_that_joins_again_makes_a_rebalance() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    let lead = world.join(who(Some(&first.member)));
    assert_eq!(world.joined(lead), None);
    assert_eq!(world.beat(&second), Err(GroupError::RebalanceInProgress));
    let follow = world.join(who(Some(&second.member)));
    assert_eq!((world.must_join(lead).generation, world.must_join(follow).generation), (3, 3));
}

#[test]
fn while_completing_a_lost_answer_is_given_again() {
    let mut world = World::new(0);
    let ticket = world.join(who(None));
    let joined = world.must_join(ticket);
    let ticket = world.join(who(Some(&joined.member)));
    assert_eq!(world.must_join(ticket), joined);
    assert_eq!(world.group.state(), StateName::CompletingRebalance);
    assert_eq!(world.beat(&joined), Ok(()));
}

#[test]
fn wrong_generations_and_strangers_are_refused() {
    let mut world = World::new(0);
    let joined = world.stable_one();
    let old = Joined { generation: 0, ..joined.clone() };
    let illegal = Err(GroupError::IllegalGeneration { current: 1, found: 0 });
    assert_eq!(world.beat(&old), illegal);
    let ticket = world.sync(&old, &[]);
    assert_eq!(world.synced(ticket).map(|r| r.map(|_| ())), Some(illegal.clone()));
    assert_eq!(world.group.commit(world.now, Some(&joined.member), None, 0), illegal);
    let stranger = Joined { member: MemberId::from("x"), ..joined };
    assert_eq!(world.beat(&stranger), Err(GroupError::UnknownMember));
    let ticket = world.join(who(Some(&MemberId::from("x"))));
    assert_eq!(world.joined(ticket), Some(Err(GroupError::UnknownMember)));
    assert_eq!(world.leave(&MemberId::from("x")), Err(GroupError::UnknownMember));
}

#[test]
fn protocols_must_match() {
    let mut world = World::new(0);
    world.stable_one();
    let ticket = world.join(Who { protocols: vec![("sticky", "")], ..who(None) });
    assert_eq!(world.joined(ticket), Some(Err(GroupError::InconsistentProtocol)));
    let ticket = world.join(Who { protocols: vec![], ..who(None) });
    assert_eq!(world.joined(ticket), Some(Err(GroupError::InconsistentProtocol)));
}

#[test]
fn the_protocol_most_prefer_among_those_all_speak_is_chosen() {
    let mut world = World::new(3000);
    let one = world.join(Who { protocols: vec![("only-one", ""), ("range", "r1"), ("sticky", "s1")], ..who(None) });
    let two = world.join(Who { protocols: vec![("sticky", "s2"), ("range", "r2")], ..who(None) });
    let three = world.join(Who { protocols: vec![("sticky", "s3"), ("range", "r3")], ..who(None) });
    world.pass(3000);
    world.pass(3000);
    let lead = world.must_join(one);
    assert_eq!(lead.protocol, Some("sticky".into()));
    assert_eq!(lead.members.iter().map(|m| m.metadata.clone()).collect::<Vec<_>>(), ["s1", "s2", "s3"]);
    assert!(world.must_join(two).members.is_empty());
    assert!(world.must_join(three).members.is_empty());
}

#[test]
fn a_silent_member_is_dropped_and_the_others_rebalance() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    world.pass(6_000);
    assert_eq!(world.beat(&first), Ok(()));
    world.pass(4_000);
    assert_eq!(world.group.state(), StateName::PreparingRebalance);
    assert_eq!(world.beat(&second), Err(GroupError::UnknownMember));
    let again = world.join(who(Some(&first.member)));
    let again = world.must_join(again);
    assert_eq!((again.generation, again.members.len()), (3, 1));
}

#[test]
fn a_member_that_does_not_join_again_is_left_behind() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    let lead = world.join(who(Some(&first.member)));
    for _ in 0..7 {
        world.pass(8_000);
        let _ = world.beat(&second);
        assert_eq!(world.joined(lead), None);
    }
    world.pass(4_000);
    let joined = world.must_join(lead);
    assert_eq!((joined.generation, joined.members.len()), (3, 1));
    assert_eq!(world.beat(&second), Err(GroupError::UnknownMember));
}

#[test]
fn a_member_that_joins_and_never_syncs_is_dropped() {
    let mut world = World::new(0);
    let first = world.stable_one();
    let second = world.join(who(None));
    let lead = world.join(who(Some(&first.member)));
    let (lead, second) = (world.must_join(lead), world.must_join(second));
    let sync = world.sync(&lead, &[]);
    world.save(Ok(()));
    assert_eq!(world.synced(sync), Some(Ok(Bytes::new())));
    for _ in 0..10 {
        world.pass(6_000);
        let _ = (world.beat(&lead), world.beat(&second));
    }
    assert_eq!(world.group.state(), StateName::PreparingRebalance);
    assert_eq!(world.beat(&second), Err(GroupError::UnknownMember));
}

#[test]
fn commits_follow_membership() {
    let mut world = World::new(0);
    assert_eq!(world.group.commit(world.now, None, None, -1), Ok(()));
    let joined = world.stable_one();
    assert_eq!(world.group.commit(world.now, Some(&joined.member), None, 1), Ok(()));
    assert_eq!(world.group.commit(world.now, None, None, -1), Err(GroupError::UnknownMember));
    let other = world.join(who(None));
    // While members gather, the old generation may still commit what it has read.
    assert_eq!(world.group.commit(world.now, Some(&joined.member), None, 1), Ok(()));
    let again = world.join(who(Some(&joined.member)));
    let again = world.must_join(again);
    let _ = world.joined(other);
    let refused = world.group.commit(world.now, Some(&again.member), None, 2);
    assert_eq!(refused, Err(GroupError::RebalanceInProgress));
}

#[test]
fn sessions_outside_the_bounds_are_refused() {
    let mut world = World::new(0);
    world.group.times.session_min = Duration::from_secs(60);
    let ticket = world.join(who(None));
    assert_eq!(world.joined(ticket), Some(Err(GroupError::InvalidSessionTimeout(10_000))));
}

#[test]
fn a_full_group_takes_no_member() {
    let mut world = World::new(0);
    world.group.times.members_max = 1;
    world.stable_one();
    let ticket = world.join(who(None));
    assert_eq!(world.joined(ticket), Some(Err(GroupError::Full(1))));
}

#[test]
fn a_restored_group_goes_on_and_gives_its_members_a_session() {
    let mut world = World::new(0);
    let (first, second) = world.stable_two();
    let saved = world.group.saved_form(TimestampMs(5));
    let later = Mono::ZERO + Duration::from_secs(1000);
    let mut group = Group::restore(GroupId::from("g"), times(3000), saved.clone(), later);
    assert_eq!(group.saved_form(TimestampMs(5)), saved);
    assert_eq!(group.heartbeat(later, &first.member, None, 2), Ok(()));
    assert_eq!(group.heartbeat(later, &second.member, None, 2), Ok(()));
    assert_eq!(group.next_deadline(), Some(later + Duration::from_secs(10)));
}

/// One thing clients or time may do.
#[derive(Clone, Copy, Debug)]
enum Step {
    New { fixed: Option<u8>, id_required: bool, timeouts: (u64, u64) },
    Rejoin(usize, (u64, u64)),
    Sync(usize),
    Beat(usize),
    Leave(usize),
    Save(bool),
    Pass(u64),
}

/// Session and rebalance timeouts as clients choose them; no time at all to join again is one of them.
fn timeouts() -> impl Strategy<Value = (u64, u64)> {
    (6_000u64..30_000, prop_oneof![Just(0u64), 0u64..2_000, Just(60_000)])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (proptest::option::of(0u8..2), any::<bool>(), timeouts())
            .prop_map(|(fixed, id_required, timeouts)| Step::New { fixed, id_required, timeouts }),
        (0usize..6, timeouts()).prop_map(|(n, timeouts)| Step::Rejoin(n, timeouts)),
        (0usize..6).prop_map(Step::Sync),
        (0usize..6).prop_map(Step::Beat),
        (0usize..6).prop_map(Step::Leave),
        any::<bool>().prop_map(Step::Save),
        (0u64..30_000).prop_map(Step::Pass),
    ]
}

/// What is so at every moment: one of the members leads, and every static identity is borne by one member.
fn holds_together(group: &Group) {
    match &group.leader {
        Some(leader) => assert!(group.members.contains_key(leader), "{leader} leads and is no member"),
        None => assert!(group.members.is_empty(), "no member leads"),
    }
    let borne = group.members.values().filter(|member| member.instance.is_some()).count();
    assert_eq!(group.instances.len(), borne);
    for (instance, id) in &group.instances {
        let member = group.members.get(id).expect("the identity is a member's");
        assert_eq!(member.instance.as_ref(), Some(instance));
    }
    assert_eq!(group.phase == Phase::Empty && group.members.is_empty(), group.phase == Phase::Empty);
}

proptest! {
    /// For any requests in any order: every request is answered exactly once and none hangs for ever; generations
    /// never fall; a deadline is always in the future; and a group left alone ends up empty.
    #[test]
    fn every_request_is_answered_once(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(3000);
        let mut seen: Vec<Joined> = Vec::new();
        let mut open = std::collections::BTreeSet::new();
        let mut generation = 0;
        let instances = ["i", "j"];
        let drain = |world: &mut World, open: &mut std::collections::BTreeSet<Ticket>, seen: &mut Vec<Joined>| {
            let (answers, saves) = std::mem::take(&mut world.effects).into_iter().partition::<Vec<_>, _>(|e| !matches!(e, Effect::Save(_)));
            world.effects = saves;
            for answer in answers {
                let ticket = match answer {
                    Effect::Joined(ticket, joined) => { seen.extend(joined.ok()); ticket }
                    Effect::Synced(ticket, _) => ticket,
                    Effect::Save(_) => continue,
                };
                assert!(open.remove(&ticket), "answered twice: {ticket:?}");
            }
        };
        for step in steps {
            match step {
                Step::New { fixed, id_required, timeouts } => {
                    let instance = fixed.and_then(|n| instances.get(usize::from(n)).copied());
                    open.insert(Ticket(world.tickets + 1));
                    world.join(Who { instance, id_required, timeouts: Some(timeouts), ..who(None) });
                }
                Step::Rejoin(n, timeouts) => if let Some(joined) = seen.get(n).cloned() {
                    open.insert(Ticket(world.tickets + 1));
                    world.join(Who { timeouts: Some(timeouts), ..who(Some(&joined.member)) });
                },
                Step::Sync(n) => if let Some(joined) = seen.get(n).cloned() {
                    let joined = Joined { generation: world.group.generation(), ..joined };
                    open.insert(Ticket(world.tickets + 1));
                    world.sync(&joined, &[]);
                },
                Step::Beat(n) => if let Some(joined) = seen.get(n).cloned() {
                    let _ = world.beat(&Joined { generation: world.group.generation(), ..joined });
                },
                Step::Leave(n) => if let Some(joined) = seen.get(n).cloned() {
                    let _ = world.leave(&joined.member);
                },
                Step::Save(ok) => drop(world.save(if ok { Ok(()) } else { Err(GroupError::NotAvailable) })),
                Step::Pass(ms) => {
                    world.pass(ms);
                    prop_assert!(world.group.next_deadline().is_none_or(|at| at > world.now));
                }
            }
            drain(&mut world, &mut open, &mut seen);
            holds_together(&world.group);
            prop_assert!(world.group.generation() >= generation);
            generation = world.group.generation();
        }
        for _ in 0..2000 {
            world.save(Ok(()));
            drain(&mut world, &mut open, &mut seen);
            let Some(next) = world.group.next_deadline() else { break };
            world.now = world.now.max(next);
            world.pass(0);
            prop_assert!(world.group.next_deadline().is_none_or(|at| at > world.now));
        }
        drain(&mut world, &mut open, &mut seen);
        prop_assert!(open.is_empty(), "never answered: {:?}", open);
        prop_assert!(world.group.is_vacant());
    }
}
