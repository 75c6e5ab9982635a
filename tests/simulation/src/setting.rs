//! The run and the fleet of one history, by its seed.

use retort_coordinator_core::spec::{Alpha, GroupKind, GroupSpec, Pace, RunSpec, TeacherSpec};

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

impl Setting {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let block = random.within(2..9) as u32;
        let positions = random.within(20..160);
        let pace = *random.pick(&[Pace::Students, Pace::Students, Pace::Free, Pace::Lockstep]);
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
                round_steps: random.within(1..6) as u32,
                exchange: replicas > 1,
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
                trained: online,
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
        let spec = RunSpec {
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
            alpha: Alpha {
                from: 0.0,
                to: 0.9,
                over: 0.5,
            },
            gate: random.chance(500),
            max_staleness: random.within(0..4),
            pace,
        };
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
