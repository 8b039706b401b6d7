//! Forming, example by example, and under crashes, wiped founders and late messages.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::controller::brokers::Endpoint;

fn birth(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn seeds(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("b{n}:33145")).collect()
}

fn address() -> BrokerAddress {
    BrokerAddress {
        endpoints: vec![Endpoint::plain("b", 9092)],
        rpc: Some(("b".into(), 33145)),
        rack: None,
        shards: 1,
        level: 1,
    }
}

fn founders(births: &[u128]) -> Vec<Founder> {
    let founder = |(n, of): (usize, &u128)| Founder { node: node_at(n), birth: birth(*of), address: address() };
    births.iter().enumerate().map(founder).collect()
}

fn hello(of: u128, count: usize, state: Belonging) -> Hello {
    let (cluster_name, seeds) = ("tidewater".to_owned(), seeds(count));
    Hello { birth: birth(of), cluster_name, seeds, version: FORMING_VERSION, address: address(), state }
}

fn empty(of: u128) -> Hello {
    hello(of, 3, Belonging::Empty)
}

fn founder(of: u128, cluster: u128, births: [u128; 3]) -> Hello {
    hello(of, 3, Belonging::Founder { cluster: birth(cluster), founders: founders(&births) })
}

fn member(of: u128, cluster: u128) -> Hello {
    hello(of, 3, Belonging::Member { cluster: birth(cluster), node: NodeId(1) })
}

fn silent() -> Result<Hello, String> {
    Err("connection refused".into())
}

fn refused(decision: Decision) -> String {
    match decision {
        Decision::Refuse(why) => why,
        other => panic!("is not refused: {other:?}"),
    }
}

fn waits(decision: Decision) -> String {
    match decision {
        Decision::Wait(why) => why,
        other => panic!("does not wait: {other:?}"),
    }
}

#[test]
fn the_first_of_the_list_founds_once_all_have_answered() {
    let answers = [Ok(empty(1)), Ok(empty(2)), silent()];
    assert_eq!(
        waits(decide(&empty(1), &answers)),
        "waiting for 1 of 3 seeds: b2:33145 does not answer (connection refused)"
    );
    let answers = [Ok(empty(1)), Ok(empty(2)), Ok(empty(3))];
    assert_eq!(decide(&empty(1), &answers), Decision::Found { founders: founders(&[1, 2, 3]) });
    assert!(waits(decide(&empty(2), &answers)).contains("b0:33145 to found"));
}

#[test]
fn a_founder_takes_its_node_id_from_any_other_founder() {
    let answers = [silent(), Ok(founder(2, 9, [1, 2, 3])), Ok(empty(3))];
    let founders = founders(&[1, 2, 3]);
    assert_eq!(decide(&empty(3), &answers), Decision::Adopt { cluster: birth(9), founders, node: NodeId(3) });
}

#[test]
fn a_chief_without_its_disk_does_not_found_a_second_cluster() {
    let answers = [Ok(empty(7)), Ok(founder(2, 9, [1, 2, 3])), Ok(empty(3))];
    assert!(waits(decide(&empty(7), &answers)).contains("--replace 1"));
    let answers = [Ok(empty(7)), silent(), Ok(empty(3))];
    assert!(waits(decide(&empty(7), &answers)).contains("b1:33145"));
}

#[test]
fn a_formed_cluster_is_joined_by_every_broker_whatever_its_list_is() {
    let answers = [silent(), Ok(member(2, 9)), silent()];
    let join = Decision::Register { cluster: birth(9), through: 1 };
    assert_eq!(decide(&empty(4), &answers), join);
    let mut other = answers.clone();
    other[1].as_mut().expect("answers").seeds = seeds(5);
    assert_eq!(decide(&empty(4), &other), join);
}

#[test]
fn what_cannot_come_right_is_refused_in_words() {
    let mut other = empty(2);
    other.seeds = seeds(2);
    let why = refused(decide(&empty(1), &[Ok(empty(1)), Ok(other), Ok(empty(3))]));
    assert!(why.contains("--seed b0:33145,b1:33145,b2:33145, at b1:33145 --seed b0:33145,b1:33145;"), "{why}");
    let why = refused(decide(&empty(1), &[Ok(empty(1)), Ok(member(2, 8)), Ok(member(3, 9))]));
    assert!(why.contains("b1:33145 and b2:33145 belong to different clusters"), "{why}");
    let mut newer = empty(2);
    newer.version += 1;
    let why = refused(decide(&empty(1), &[Ok(empty(1)), Ok(newer), silent()]));
    assert!(why.contains("upgrade this broker"), "{why}");
    let mut named = empty(2);
    named.cluster_name = "other".into();
    let why = refused(decide(&empty(1), &[Ok(empty(1)), Ok(named), silent()]));
    assert!(why.contains("--cluster-name other"), "{why}");
    let why = refused(decide(&empty(1), &[Ok(empty(1)), Ok(empty(1)), silent()]));
    assert!(why.contains("the same broker"), "{why}");
    let why = refused(decide(&empty(2), &[Ok(founder(1, 9, [1, 3, 2])), Ok(empty(2)), Ok(empty(3))]));
    assert!(why.contains("position 3 of the seed list") && why.contains("position 2:"), "{why}");
}

#[test]
fn the_controller_has_an_odd_number_of_voters_from_three_brokers_on() {
    assert_eq!([1, 2, 3, 4, 5, 9].map(controller_voters), [1, 2, 3, 3, 5, 5]);
}

/// A broker at one address: what its disk has, and what its process has heard since it started.
struct Machine {
    birth: u128,
    /// Durable.
    state: Belonging,
    heard: Vec<Result<Hello, String>>,
    up: bool,
}

struct Machines {
    all: Vec<Machine>,
    next: u128,
    wiped: usize,
    /// Answers under way: from, to the process of birth id at, hello.
    under_way: Vec<(usize, usize, u128, Hello)>,
    /// Births that adopted a cluster, ever.
    adopted: BTreeMap<u128, Uuid>,
    formed: Option<Uuid>,
}

#[derive(Clone, Debug)]
enum Happens {
    Ask(usize, usize),
    Deliver(usize),
    /// Decides; with `crash`, the process ends before its decision is durable.
    Decide {
        at: usize,
        crash: bool,
    },
    Restart(usize),
    Wipe(usize),
    Stop(usize),
}

impl Machines {
    fn new(count: usize) -> Self {
        let machine = |n: usize| Machine {
            birth: n as u128 + 1,
            state: Belonging::Empty,
            heard: vec![silent(); count],
            up: true,
        };
        let all: Vec<Machine> = (0..count).map(machine).collect();
        Self { all, next: 100, wiped: 0, under_way: Vec::new(), adopted: BTreeMap::new(), formed: None }
    }

    fn hello(&self, at: usize) -> Hello {
        hello(self.all[at].birth, self.all.len(), self.all[at].state.clone())
    }

    fn restart(&mut self, at: usize) {
        let count = self.all.len();
        let machine = &mut self.all[at];
        (machine.heard, machine.up) = (vec![silent(); count], true);
        // The connections of the process end with it.
        self.under_way.retain(|(_, to, _, _)| *to != at);
    }

    fn step(&mut self, happens: Happens) {
        let count = self.all.len();
        match happens {
            Happens::Ask(from, to) => {
                let (from, to) = (from % count, to % count);
                if self.all[from].up && self.all[to].up {
                    let asker = self.all[from].birth;
                    self.under_way.push((to, from, asker, self.hello(to)));
                }
            }
            Happens::Deliver(n) if !self.under_way.is_empty() => {
                let (from, to, asker, hello) = self.under_way.remove(n % self.under_way.len());
                if self.all[to].up && self.all[to].birth == asker {
                    self.all[to].heard[from] = Ok(hello);
                }
            }
            Happens::Deliver(_) => {}
            Happens::Decide { at, crash } => self.decide(at % count, crash),
            Happens::Restart(at) => self.restart(at % count),
            Happens::Stop(at) => self.all[at % count].up = false,
            // Fewer than a majority lose their disk.
            Happens::Wipe(at) if self.wiped < (count - 1) / 2 => {
                self.wiped += 1;
                self.next += 1;
                let at = at % count;
                (self.all[at].birth, self.all[at].state) = (self.next, Belonging::Empty);
                self.restart(at);
            }
            Happens::Wipe(_) => {}
        }
        self.check();
    }

    fn decide(&mut self, at: usize, crash: bool) {
        if !self.all[at].up || self.all[at].state != Belonging::Empty {
            return;
        }
        let state = match decide(&self.hello(at), &self.all[at].heard) {
            Decision::Found { founders } => {
                self.next += 1;
                Belonging::Founder { cluster: birth(self.next), founders }
            }
            Decision::Adopt { cluster, founders, node } => {
                assert_eq!(node, node_at(at), "a founder's node id is its position");
                Belonging::Founder { cluster, founders }
            }
            Decision::Wait(_) | Decision::Register { .. } | Decision::Refuse(_) => return,
        };
        if crash {
            return self.restart(at);
        }
        let Belonging::Founder { cluster, .. } = &state else { unreachable!("made above") };
        let before = self.adopted.insert(self.all[at].birth, *cluster);
        assert_eq!(before, None, "a birth id adopts once");
        self.all[at].state = state;
    }

    /// A cluster is formed when a majority of its founders, on the disks they founded it with, are up at once.
    fn check(&mut self) {
        let mut founders: BTreeMap<Uuid, usize> = BTreeMap::new();
        for machine in &self.all {
            if let Belonging::Founder { cluster, founders: births } = &machine.state {
                assert!(births.iter().any(|founder| founder.birth == birth(machine.birth)), "only a founder adopts");
                *founders.entry(*cluster).or_default() += 1;
            }
        }
        for (cluster, count) in founders {
            if count * 2 > self.all.len() {
                let formed = *self.formed.get_or_insert(cluster);
                assert_eq!(formed, cluster, "a second cluster is formed");
            }
        }
    }
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0..5_usize, 0..5_usize).prop_map(|(from, to)| Happens::Ask(from, to)),
        8 => (0..64_usize).prop_map(Happens::Deliver),
        6 => (0..5_usize, prop::bool::weighted(0.2)).prop_map(|(at, crash)| Happens::Decide { at, crash }),
        1 => (0..5_usize).prop_map(Happens::Restart),
        1 => (0..5_usize).prop_map(Happens::Wipe),
        1 => (0..5_usize).prop_map(Happens::Stop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn one_list_forms_one_cluster(
        count in prop_oneof![Just(1_usize), Just(3), Just(5)],
        run in prop::collection::vec(happens(), 0..200),
    ) {
        let mut machines = Machines::new(count);
        for happens in run {
            machines.step(happens);
        }
    }

    /// Once the faults end, all that answer come to a cluster, unless a founder's disk was lost between.
    #[test]
    fn without_lost_disks_every_run_forms_in_the_end(
        count in prop_oneof![Just(1_usize), Just(2), Just(3), Just(5)],
        run in prop::collection::vec(happens(), 0..100),
    ) {
        let mut machines = Machines::new(count);
        for happens in run.into_iter().filter(|happens| !matches!(happens, Happens::Wipe(_))) {
            machines.step(happens);
        }
        (0..count).for_each(|at| machines.restart(at));
        for _ in 0..2 {
            for at in 0..count {
                for of in 0..count {
                    machines.step(Happens::Ask(at, of));
                    machines.step(Happens::Deliver(machines.under_way.len() - 1));
                }
                machines.step(Happens::Decide { at, crash: false });
            }
        }
        let formed = machines.formed.expect("is formed");
        let adopted = |m: &Machine| matches!(&m.state, Belonging::Founder { cluster, .. } if *cluster == formed);
        prop_assert!(machines.all.iter().all(adopted));
    }
}
