//! From a job to what the core knows of it.

use retort_coordinator_core::spec::{Alpha, GroupKind, GroupSpec, Pace, RunSpec, TeacherSpec};
use retort_job::{Gate, Group, Job, Schedule, Source, Strategy};

/// Held-out evaluations over a run, about; each costs a pass over a few hundred samples.
const EVALUATIONS: u64 = 40;

/// Size and digest of the data that all roles read.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) positions: u64,
    pub(crate) digest: String,
}

pub(crate) fn run_spec(id: String, job: &Job, data: Data) -> RunSpec {
    let trained = |t: &retort_job::Teacher| matches!(t.source, Source::Trained { .. });
    let distillation = &job.distillation;
    let gate = distillation.gate.unwrap_or_else(|| {
        if job.teachers.iter().any(trained) {
            Gate::Lead
        } else {
            Gate::None
        }
    });
    let groups = job
        .groups()
        .iter()
        .map(|g| group_spec(g, job, data.positions))
        .collect();
    let teachers = job
        .teachers
        .iter()
        // Without students nobody asks for soft targets: the teacher is trained and not served.
        .filter(|_| !job.students.is_empty())
        .map(|t| TeacherSpec {
            name: t.name.clone(),
            trained: trained(t),
            replicas: t.replicas,
        })
        .collect();
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
        alpha: match distillation.alpha {
            Schedule::Constant(value) => Alpha {
                from: value,
                to: value,
                over: 1.0,
            },
            Schedule::Ramp(r) => Alpha {
                from: r.from,
                to: r.to,
                over: r.over,
            },
        },
        gate: gate == Gate::Lead,
        max_staleness: u64::from(distillation.max_staleness),
        pace: match distillation.pace {
            retort_job::Pace::Students => Pace::Students,
            retort_job::Pace::Lockstep => Pace::Lockstep,
            retort_job::Pace::Free => Pace::Free,
        },
    }
}

fn group_spec(group: &Group, job: &Job, positions: u64) -> GroupSpec {
    let kind = match group.kind {
        retort_job::GroupKind::Teacher => GroupKind::Teacher,
        retort_job::GroupKind::Student => GroupKind::Student,
        retort_job::GroupKind::Baseline => GroupKind::Baseline,
    };
    // A teacher's round is its publishing interval, so that versions appear on time.
    let round_steps = if group.publish_every > 0 {
        group.publish_every
    } else {
        job.sync.every
    };
    let steps = positions.div_ceil(u64::from(job.run.batch_size)) * u64::from(group.epochs);
    GroupSpec {
        name: group.name.clone(),
        kind,
        replicas: group.replicas,
        epochs: group.epochs,
        teachers: group.teachers.iter().map(|m| m.name.clone()).collect(),
        round_steps,
        exchange: group.replicas > 1 && job.sync.strategy == Strategy::LocalSgd,
        publish_every: group.publish_every,
        evaluate_every: (steps / EVALUATIONS).max(u64::from(round_steps)),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
