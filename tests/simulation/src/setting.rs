//! The run and the fleet of one history, by its seed.

use retort_coordinator_core::spec::{
    GroupKind, GroupSpec, Pace, RunSpec, Shared, Source, TeacherSpec, Which,
};
use retort_data::schedule::{Ramp, Schedule, Shape};

use crate::random::Random;

/// What a history is about.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) spec: RunSpec,
    pub(crate) students: usize,
    pub(crate) servers: usize,
    /// Faults stop then, in virtual ms.
    pub(crate) calm_at: u64,
    /// Faults per mille and per message or occasion.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) jitter: u64,
    pub(crate) crash: u64,
    /// Mean pause between two faults of processes or links, ms.
    pub(crate) fault_every: u64,
    /// A sample that kills its reader (true) or can't be read (false).
    pub(crate) poison: Option<(u32, bool)>,
    pub(crate) seed: u64,
}

/// Histories from this seed on also have students that teach: their averages, their earlier states, each other.
const SOURCES_FROM: u64 = 10_000_000;

/// Histories from this seed on also have replicas that share every batch.
const SHARED_FROM: u64 = 20_000_000;

/// Makes the rounds of replicated groups those of `sync.strategy = "step"`.
fn share_batches(spec: &mut RunSpec, random: &mut Random) {
    let samples = spec.batch;
    for group in spec.groups.iter_mut().filter(|g| g.exchange) {
        group.round_steps = 1;
        group.hands_over = true;
        group.shared = Some(Shared {
            batches: random.within(1..9) as u32,
            samples,
        });
    }
}

/// Adds a few teachers that follow "small" or "tiny".
fn more_sources(groups: &mut [GroupSpec], teachers: &mut Vec<TeacherSpec>, random: &mut Random) {
    let group = |of: &str, which| Source::Group { of: of.into(), which };
    let average = Source::Average {
        of: "small".into(),
        decay: 0.9,
    };
    // Name of the teacher, what it is, who learns from it.
    let all = [
        ("mean", average, "small"),
        ("before", group("small", Which::EpochEnds), "small"),
        ("first", group("small", Which::Last), "tiny"),
        ("small", group("small", Which::Every), "tiny"),
        ("tiny", group("tiny", Which::Every), "small"),
        ("small", group("small", Which::Every), "wide"),
    ];
    let first = random.within(0..all.len() as u64) as usize;
    for (i, (name, source, learner)) in all.into_iter().enumerate() {
        if i != first && random.chance(600) {
            continue;
        }
        // Two that wait for each other are refused with the job.
        if name == "tiny" && teachers.iter().any(|t| t.name == "first") {
            continue;
        }
        let Some(learner) = groups.iter_mut().find(|g| g.name == learner) else {
            continue;
        };
        learner.teachers.push(name.to_owned());
        if learner.kind == GroupKind::Baseline {
            learner.kind = GroupKind::Student;
        }
        if teachers.iter().all(|t| t.name != name) {
            let of = source.of().map(str::to_owned);
            if let Some(of) = groups.iter_mut().find(|g| Some(&g.name) == of.as_ref()) {
                of.publish_every = of.publish_every.max(random.within(2..8) as u32);
            }
            teachers.push(TeacherSpec {
                name: name.to_owned(),
                source,
                replicas: random.within(1..3) as u32,
            });
        }
    }
}

impl Setting {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let block = random.within(2..9) as u32;
        let positions = random.within(20..160);
        let mut pace = *random.pick(&[Pace::Students, Pace::Students, Pace::Free, Pace::Lockstep]);
        let lease_ttl = random.within(1_000..5_000);
        let mut groups = Vec::new();
        let mut teachers = Vec::new();
        let shape = random.within(0..4);
        let group = |name: &str, kind: GroupKind, random: &mut Random| {
            let replicas = match kind {
                GroupKind::Teacher => random.within(1..3),
                _ => random.within(1..4),
            } as u32;
            GroupSpec {
                name: name.into(),
                kind,
                replicas,
                epochs: random.within(1..3) as u32,
                teachers: Vec::new(),
                alpha: Schedule::Ramp(Ramp {
                    from: 0.0,
                    to: 0.9,
                    over: 0.5,
                    after: 0.0,
                    shape: Shape::Linear,
                    warm_up: 0.0,
                }),
                round_steps: random.within(1..6) as u32,
                exchange: replicas > 1,
                hands_over: false,
                shared: None,
                publish_every: if kind == GroupKind::Teacher {
                    random.within(2..8) as u32
                } else {
                    0
                },
                evaluate_every: random.within(1..12),
            }
        };
        let mut taught = Vec::new();
        if shape > 0 {
            let online = shape < 3;
            if online {
                groups.push(group("wide", GroupKind::Teacher, random));
            }
            teachers.push(TeacherSpec {
                name: "wide".into(),
                source: if online {
                    Source::Group {
                        of: "wide".into(),
                        which: Which::Every,
                    }
                } else {
                    Source::Fixed
                },
                replicas: random.within(1..3) as u32,
            });
            taught.push("wide".to_owned());
        }
        for name in ["small", "tiny"].into_iter().take(random.within(1..3) as usize) {
            let kind = if taught.is_empty() {
                GroupKind::Baseline
            } else {
                GroupKind::Student
            };
            let mut spec = group(name, kind, random);
            spec.teachers = taught.clone();
            groups.push(spec);
        }
        if seed >= SOURCES_FROM {
            pace = *random.pick(&[Pace::Students, Pace::Free]);
            if groups.iter().all(|g| g.name != "tiny") {
                let mut spec = group("tiny", GroupKind::Student, random);
                spec.teachers = taught.clone();
                groups.push(spec);
            }
            more_sources(&mut groups, &mut teachers, random);
        }
        let wanted: u32 = groups.iter().map(|g| g.replicas).sum();
        let servers: u32 = teachers.iter().map(|t| t.replicas).sum();
        // Sometimes a worker more than there is work for, or one less.
        let students = match random.within(0..4) {
            0 => wanted + 1,
            1 if wanted > groups.len() as u32 => wanted - 1,
            _ => wanted,
        };
        // As the coordinator derives it from a job: a teacher's round is its publishing interval.
        for group in groups.iter_mut().filter(|g| g.publish_every > 0) {
            group.round_steps = group.publish_every;
        }
        let mut spec = RunSpec {
            id: "run".into(),
            dataset_digest: "d".into(),
            positions,
            block,
            batch: random.within(1..u64::from(block) + 1) as u32,
            groups,
            teachers,
            lease_ttl,
            heartbeat: lease_ttl / 10,
            checkpoint_every: random.within(500..20_000),
            gate: random.chance(500),
            max_staleness: random.within(0..4),
            pace,
        };
        if seed >= SHARED_FROM {
            share_batches(&mut spec, random);
        }
        let rough = random.chance(850);
        let level = |random: &mut Random, most: u64| if rough { random.within(0..most) } else { 0 };
        Self {
            students: students as usize,
            servers: servers as usize,
            calm_at: random.within(5_000..60_000),
            loss: level(random, 60),
            duplication: level(random, 60),
            jitter: random.within(1..400),
            crash: level(random, 25),
            fault_every: if rough {
                random.within(500..10_000)
            } else {
                u64::MAX
            },
            poison: (rough && random.chance(200))
                .then(|| (random.within(0..positions) as u32, random.chance(500))),
            spec,
            seed,
        }
    }
}
