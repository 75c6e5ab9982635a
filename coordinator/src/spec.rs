//! From a job to what the core knows of it.

use retort_coordinator_core::spec::{
    GroupKind, GroupSpec, Pace, RunSpec, Shared, Source, TeacherSpec, Which,
};
use retort_job::{Group, Job, Strategy, Stream, Versions};

/// Held-out evaluations over a run, about; each costs a pass over a few hundred samples.
const EVALUATIONS: u64 = 40;

/// Size and digest of the data that all roles read.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) positions: u64,
    pub(crate) digest: String,
}

pub(crate) fn run_spec(id: String, job: &Job, data: Data) -> RunSpec {
    let distillation = &job.distillation;
    let groups = job
        .groups()
        .iter()
        .map(|g| group_spec(g, job, data.positions))
        .collect();
    // Where nobody learns, nobody asks for soft targets: a teacher is trained and not served.
    let learns = |stream: &Stream| {
        let mut groups = job.groups().into_iter();
        groups.any(|g| g.teachers.iter().any(|m| m.name == stream.name))
    };
    let served = job.streams().into_iter().filter(learns);
    let teachers = served.map(|s| teacher_spec(&s)).collect();
    RunSpec {
        id,
        dataset_digest: data.digest,
        positions: data.positions,
        block: job.dataset.block_samples.unwrap_or(job.run.batch_size),
        batch: job.run.batch_size,
        groups,
        teachers,
        lease_ttl: millis(job.fleet.lease),
        heartbeat: millis(job.fleet.heartbeat),
        checkpoint_every: millis(job.fleet.checkpoint),
        gate: job.is_gated(),
        max_staleness: u64::from(distillation.max_staleness),
        pace: match distillation.pace {
            retort_job::Pace::Students => Pace::Students,
            retort_job::Pace::Lockstep => Pace::Lockstep,
            retort_job::Pace::Free => Pace::Free,
        },
    }
}

fn teacher_spec(stream: &Stream) -> TeacherSpec {
    let group = |of: &String, which| Source::Group {
        of: of.clone(),
        which,
    };
    TeacherSpec {
        name: stream.name.clone(),
        source: match &stream.versions {
            Versions::Fixed => Source::Fixed,
            Versions::Every(of) => group(of, Which::Every),
            Versions::EpochEnds(of) => group(of, Which::EpochEnds),
            Versions::Last(of) => group(of, Which::Last),
            Versions::Average { of, decay } => Source::Average {
                of: of.clone(),
                decay: *decay,
            },
        },
        replicas: stream.replicas,
    }
}

fn group_spec(group: &Group, job: &Job, positions: u64) -> GroupSpec {
    let kind = match group.kind {
        retort_job::GroupKind::Teacher => GroupKind::Teacher,
        retort_job::GroupKind::Student => GroupKind::Student,
        retort_job::GroupKind::Baseline => GroupKind::Baseline,
    };
    // A teacher's round is its publishing interval, so that versions appear on time.
    let round_steps = match kind {
        GroupKind::Teacher => group.publish_every,
        // Whoever follows a student's versions does not make its rounds longer.
        _ if group.publish_every > 0 => job.sync.every.min(group.publish_every),
        _ => job.sync.every,
    };
    let steps = positions.div_ceil(u64::from(group.batch_size)) * u64::from(group.epochs);
    let together = group.replicas > 1 && job.sync.strategy != Strategy::None;
    let by_step = together && job.sync.strategy == Strategy::Step;
    // Each takes its share of every batch.
    let round_steps = if by_step { 1 } else { round_steps };
    GroupSpec {
        name: group.name.clone(),
        kind,
        replicas: group.replicas,
        epochs: group.epochs,
        teachers: group.teachers.iter().map(|m| m.name.clone()).collect(),
        alpha: group.alpha.clone(),
        round_steps,
        exchange: together,
        hands_over: together && job.sync.strategy != Strategy::LocalSgd,
        shared: by_step.then_some(Shared {
            batches: group.replicas,
            samples: group.batch_size,
        }),
        publish_every: group.publish_every,
        evaluate_every: (steps / EVALUATIONS).max(u64::from(round_steps)),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
