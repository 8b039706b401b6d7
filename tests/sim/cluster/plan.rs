//! What a run of a cluster will do, drawn from its seed before it begins. Every part has a name, and a run may leave
//! parts out: so a failing seed is made smaller.

use std::collections::BTreeSet;
use std::time::Duration;

use tidewater_storage::env::Rng;
use tidewater_storage::env::net_sim::NetFaults;
use tidewater_storage::model::LaneId;
use tidewater_tiering::store::Faults;

use super::defect::Defect;
use crate::seeds::Drawn;

/// Virtual time under faults, least and spread.
const ROUGH_MS: (u64, u64) = (4_000, 8_000);

#[derive(Clone, Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) seed: u64,
    /// Brokers, numbered from 1.
    pub(crate) nodes: u32,
    /// Data lanes, numbered from 1; each has a voter on every broker.
    pub(crate) lanes: u32,
    /// Partitions of the topic that lasts, over the lanes in turn.
    pub(crate) partitions: i32,
    /// How long things go wrong.
    pub(crate) rough_ms: u64,
    pub(crate) events: Vec<Event>,
    /// Names of the parts left out.
    pub(crate) without: BTreeSet<String>,
    /// Do brokers keep the members of lanes as the table says, and stand for the leader of a broker that was lost? Runs
    /// that were drawn before they could do without.
    pub(crate) keepers: bool,
    /// Do brokers run lane 0 with a controller over it?
    pub(crate) controllers: bool,
    /// What is wrong with the brokers, on purpose.
    pub(crate) defect: Option<Defect>,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) at_ms: u64,
    pub(crate) what: What,
}

/// A broker that an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    Node(u32),
    /// The broker that leads this lane when the event comes.
    Leader(LaneId),
}

/// Ways of a node to and from all other brokers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ways {
    In,
    Out,
    Both,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// `kill -9` or a power cut; the broker starts again after a while.
    End {
        whom: Whom,
        power_cut: bool,
        down_ms: u64,
    },
    /// The power of all brokers is cut at once.
    EndAll {
        down_ms: u64,
    },
    /// The broker's power is cut when its next granted vote has left it.
    EndAtVote {
        node: u32,
        down_ms: u64,
    },
    /// SIGSTOP and, later, SIGCONT.
    Stop {
        whom: Whom,
        ms: u64,
    },
    /// Brokers no longer hear each other; clients and the bucket hear all of them.
    Isolate {
        whom: Whom,
        ways: Ways,
        ms: u64,
    },
    Cut {
        from: u32,
        to: u32,
        ms: u64,
    },
    Net {
        faults: NetFaults,
        ms: u64,
    },
    /// The node's clocks run faster or slower from now on.
    Drift {
        node: u32,
        ppm: i32,
    },
    /// The node's wall clock jumps.
    Clock {
        node: u32,
        ms: i64,
    },
    /// The bucket changes its manners, for one broker or for all.
    Bucket {
        node: Option<u32>,
        faults: Faults,
        ms: u64,
    },
    /// The node learns no change of topics.
    Lag {
        node: u32,
        ms: u64,
    },
    /// The node's disk takes so many more bytes.
    Full {
        node: u32,
        left: u64,
        ms: u64,
    },
    /// Operations of the node's disk take so many times as long.
    Slow {
        node: u32,
        times: u64,
        ms: u64,
    },
    /// The node's disk is lost, and the broker comes back under the same id: only with a defect.
    Wipe {
        node: u32,
        down_ms: u64,
    },
    /// The node's disk is lost, and an empty broker takes its place, once all lanes have the members that they shall
    /// have.
    Replace {
        node: u32,
        down_ms: u64,
    },
    /// The lane's leader is killed; another has to lead within this time.
    LoseLeader {
        lane: LaneId,
        within_ms: u64,
        down_ms: u64,
    },
    /// The lane's leader hands over.
    Transfer {
        lane: LaneId,
        to: u32,
    },
}

/// Parts that are no events, by name.
const PARTS: &[&str] = &["readers", "topics", "trim", "archive", "groups"];

impl ClusterPlan {
    /// The plan of a seed for so many brokers.
    pub(crate) fn of(nodes: u32, seed: u64, without: BTreeSet<String>) -> Self {
        let rng = Rng::seeded(seed ^ 0x636c_7573_7465_7200 ^ u64::from(nodes));
        let lanes = 1 + u32::try_from(rng.below(2)).expect("small");
        let partitions = 1 + i32::try_from(rng.below(3)).expect("small");
        let rough_ms = ROUGH_MS.0 + rng.below(ROUGH_MS.1);
        let mut plan = Self {
            seed,
            nodes,
            lanes,
            partitions,
            rough_ms,
            events: Vec::new(),
            without,
            keepers: false,
            controllers: false,
            defect: None,
        };
        plan.events = plan.draw_events(&rng);
        plan.events.retain(|event| !plan.without.contains(&event.name));
        plan
    }

    /// The plan of a seed for three brokers with a defect: what brings it to light, besides what the seed drew.
    pub(crate) fn with_defect(defect: Defect, seed: u64) -> Self {
        let mut plan = Self::of(3, 2 * seed, BTreeSet::new());
        let leader = Whom::Leader(LaneId(1));
        let end = What::End { whom: leader, power_cut: true, down_ms: 1_500 };
        let isolate = |ms| What::Isolate { whom: leader, ways: Ways::Both, ms };
        let drawn = std::mem::take(&mut plan.events);
        let directed = match defect {
            Defect::AckBeforeMajority => vec![(1_500, isolate(2_500)), (4_500, end.clone()), (6_500, end)],
            Defect::VoteWithoutSync => (1..=3)
                .map(|node| (900, What::EndAtVote { node, down_ms: 50 }))
                .chain([(1_000, end.clone()), (4_000, end)])
                .collect(),
            Defect::DropFromStaleImage => vec![
                (300, What::Lag { node: 2, ms: 6_000 }),
                (300, What::Lag { node: 3, ms: 6_000 }),
                (3_000, end.clone()),
                (5_000, end),
            ],
            Defect::LeaseWithoutQuorum => vec![(2_000, isolate(12_000))],
            Defect::RebirthUnderTheSameId => vec![
                (1_000, isolate(1_000)),
                (3_000, What::Wipe { node: 2, down_ms: 100 }),
                (5_000, What::Wipe { node: 3, down_ms: 100 }),
            ],
            Defect::ReplaceUnderTheSameId => Self::replacements(),
            Defect::AnswerByWatermark => vec![
                (1_500, isolate(2_500)),
                (4_500, What::Transfer { lane: LaneId(1), to: 1 }),
                (5_500, isolate(2_500)),
                (8_500, What::Transfer { lane: LaneId(1), to: 2 }),
            ],
        };
        plan.events = directed
            .into_iter()
            .enumerate()
            .map(|(n, (at_ms, what))| Event { name: format!("d{n}"), at_ms, what })
            .chain(drawn.into_iter().filter(|_| seed >= 10))
            .collect();
        plan.events.sort_by_key(|event| event.at_ms);
        (plan.lanes, plan.rough_ms, plan.defect) = (1, plan.rough_ms.max(14_000), Some(defect));
        plan.keepers = defect == Defect::ReplaceUnderTheSameId;
        if plan.keepers {
            plan.rough_ms = plan.rough_ms.max(20_000);
        }
        plan
    }

    /// The plan of a seed for three brokers of which two lose their disks, the second while the third is cut off.
    pub(crate) fn with_replacements(seed: u64, without: BTreeSet<String>) -> Self {
        let mut plan = Self::of(3, seed, without);
        let drawn = std::mem::take(&mut plan.events);
        let own = Self::replacements().into_iter().enumerate();
        let own = own.map(|(n, (at_ms, what))| Event { name: format!("r{n}"), at_ms, what });
        plan.events = own.chain(drawn.into_iter().filter(|_| !seed.is_multiple_of(4))).collect();
        plan.events.retain(|event| !plan.without.contains(&event.name));
        plan.events.sort_by_key(|event| event.at_ms);
        (plan.keepers, plan.rough_ms) = (true, plan.rough_ms.max(20_000));
        plan
    }

    /// The plan of a seed for three or five brokers with controllers, which little else is asked of.
    pub(crate) fn with_controllers(seed: u64, mut without: BTreeSet<String>) -> Self {
        without.extend(["readers", "topics", "trim", "groups"].map(str::to_owned));
        let nodes = if seed.is_multiple_of(5) { 5 } else { 3 };
        Self { controllers: true, ..Self::of(nodes, seed, without) }
    }

    fn replacements() -> Vec<(u64, What)> {
        let cut_off = What::Isolate { whom: Whom::Node(1), ways: Ways::Both, ms: 4_000 };
        vec![
            (1_500, What::Replace { node: 2, down_ms: 100 }),
            (10_000, cut_off),
            (10_100, What::Replace { node: 3, down_ms: 100 }),
        ]
    }

    /// Is that part in?
    pub(crate) fn has(&self, part: &str) -> bool {
        let rare = match part {
            "topics" => self.seed.is_multiple_of(2),
            "trim" => self.seed.is_multiple_of(3),
            "groups" => self.seed % 4 == 2,
            _ => true,
        };
        rare && !self.without.contains(part)
    }

    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.nodes
    }

    pub(crate) fn all_lanes(&self) -> impl Iterator<Item = LaneId> + use<> {
        (1..=self.lanes).map(LaneId)
    }

    fn draw_events(&self, rng: &Rng) -> Vec<Event> {
        let often = 150 + rng.below(2_500);
        let (mut events, mut at_ms) = (Vec::new(), 300);
        loop {
            at_ms += 1 + rng.below(often);
            if at_ms >= self.rough_ms {
                return events;
            }
            let what = self.draw(rng);
            events.push(Event { name: format!("e{}", events.len()), at_ms, what });
        }
    }

    fn draw(&self, rng: &Rng) -> What {
        let below = |n: u64| rng.below(n);
        let node = || 1 + u32::try_from(below(u64::from(self.nodes))).expect("small");
        let lane = || LaneId(1 + u32::try_from(below(u64::from(self.lanes))).expect("small"));
        let whom = || if below(2) == 0 { Whom::Leader(lane()) } else { Whom::Node(node()) };
        match below(20) {
            0..=4 => What::End { whom: whom(), power_cut: below(3) > 0, down_ms: below(2_500) },
            5 => What::EndAll { down_ms: below(300) },
            6 => What::EndAtVote { node: node(), down_ms: below(400) },
            7 | 8 => What::Stop { whom: whom(), ms: below(4_000) },
            9..=11 => {
                let ways = [Ways::In, Ways::Out, Ways::Both, Ways::Both];
                let ways = ways[usize::try_from(below(4)).expect("small")];
                What::Isolate { whom: whom(), ways, ms: below(6_000) }
            }
            12 => What::Cut { from: node(), to: node(), ms: below(4_000) },
            13 => What::Net { faults: bad_net(rng), ms: below(3_000) },
            14 => match below(2) {
                0 => What::Drift { node: node(), ppm: i32::try_from(below(20_000)).expect("small") - 10_000 },
                _ => What::Clock { node: node(), ms: i64::try_from(below(120_000)).expect("small") - 60_000 },
            },
            15 | 16 => {
                let node = (below(3) > 0).then(node);
                What::Bucket { node, faults: bad_bucket(rng), ms: below(4_000) }
            }
            17 => What::Lag { node: node(), ms: below(8_000) },
            18 => match below(2) {
                0 => What::Full { node: node(), left: below(200_000), ms: below(1_500) },
                _ => What::Slow { node: node(), times: 2 + below(60), ms: below(4_000) },
            },
            _ => What::Transfer { lane: lane(), to: node() },
        }
    }
}

impl Drawn for ClusterPlan {
    fn parts(&self) -> Vec<String> {
        let parts = PARTS.iter().filter(|part| self.has(part)).map(|part| (*part).to_owned());
        parts.chain(self.events.iter().map(|event| event.name.clone())).collect()
    }
}

fn bad_net(rng: &Rng) -> NetFaults {
    let mild = NetFaults::default();
    match rng.below(4) {
        0 => NetFaults { lost: 100 + rng.below(300), ..mild },
        1 => NetFaults { doubled: 300, ..mild },
        2 => NetFaults { late: 200, late_max: Duration::from_secs(2), ..mild },
        _ => NetFaults { delay_max: Duration::from_millis(80), lost: 50, doubled: 50, ..mild },
    }
}

fn bad_bucket(rng: &Rng) -> Faults {
    let mild =
        Faults { latency_min: Duration::from_millis(1), latency_max: Duration::from_millis(30), ..Faults::default() };
    match rng.below(5) {
        0 | 1 => Faults { down: true, ..mild },
        2 => Faults { throttled: 300, lost_answers: 100, ..mild },
        3 => Faults { late_writes: 150, late_max: Duration::from_secs(1), ..Faults::rough() },
        _ => Faults { late_max: Duration::from_millis(300), ..Faults::rough() },
    }
}
