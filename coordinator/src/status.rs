//! The core's state as the status API shows it, over gRPC and HTTP.

use retort_coordinator_core::group::Group;
use retort_coordinator_core::ids::{Millis, Role};
use retort_coordinator_core::round::Point;
use retort_coordinator_core::run::{Member, Run, State};
use retort_coordinator_core::spec::{GroupKind, Source, Which};
use retort_coordinator_core::teacher::Teacher;
use retort_proto::{pb, teacher_use};

use tonic::Status;

use crate::brain::{Entry, Handle};

/// Ended runs, newest first, that [`of_fleet`] tells of beside those under way.
const RECENT: usize = 8;

/// Runs in a list, unless another number is asked for.
pub(crate) const LISTED: usize = 100;

/// What metrics are made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    pub(crate) term: u64,
    /// Of all runs, the state of each.
    pub(crate) states: Vec<String>,
    /// Runs that have not ended and the [`RECENT`] newest others, oldest first, without curves.
    pub(crate) runs: Vec<pb::RunStatus>,
}

/// One run (empty: the newest).
pub(crate) async fn of_run(brain: &Handle, run: String, curves: bool) -> Result<pb::RunStatus, Status> {
    brain
        .peek(move |brain| {
            let (now, term) = (brain.now(), brain.term);
            brain.entry(&run).map(|e| run_status(e, curves, now, term))
        })
        .await?
}

/// The newest runs, oldest first, as a list wants them, and how many there are.
pub(crate) async fn of_newest(brain: &Handle, limit: usize) -> Result<pb::ListRunsReply, Status> {
    brain
        .peek(move |brain| {
            let (now, term) = (brain.now(), brain.term);
            let beyond = brain.runs.len().saturating_sub(limit);
            let brief = |entry: &Entry| {
                let mut status = run_status(entry, false, now, term);
                status.events.clear();
                status.groups.iter_mut().for_each(|g| g.teacher_use.clear());
                status
            };
            pb::ListRunsReply {
                runs: brain.runs[beyond..].iter().map(brief).collect(),
                total: brain.runs.len() as u64,
            }
        })
        .await
}

/// What is under way and what was last, however many runs there have been.
pub(crate) async fn of_fleet(brain: &Handle) -> Result<Fleet, Status> {
    brain
        .peek(|brain| {
            let (now, term) = (brain.now(), brain.term);
            let mut left = RECENT;
            let mut told = |entry: &&Entry| {
                let ended = entry.run.state().0.ended();
                let told = !ended || left > 0;
                left -= usize::from(ended && told);
                told
            };
            let newest_first = brain.runs.iter().rev().filter(|e| told(e));
            let mut runs: Vec<_> = newest_first.map(|e| run_status(e, false, now, term)).collect();
            runs.reverse();
            let state = |e: &Entry| e.run.state().0.name().to_owned();
            Fleet {
                term,
                states: brain.runs.iter().map(state).collect(),
                runs,
            }
        })
        .await
}

/// Nothing will change any more.
pub(crate) fn has_ended(status: &pb::RunStatus) -> bool {
    matches!(status.state.as_str(), "done" | "failed" | "stopped")
}

fn run_status(entry: &Entry, curves: bool, now: Millis, term: u64) -> pb::RunStatus {
    let run = &entry.run;
    let (state, reason) = run.state();
    let (accepted, started) = run.times();
    let seconds = |at: Millis| at.since(accepted) as f64 / 1e3;
    let groups: Vec<_> = run
        .groups()
        .iter()
        .map(|g| group_status(run, g, curves, now))
        .collect();
    let open = groups.iter().filter(|g| g.phase != "done");
    let left: Option<Vec<f64>> = open.map(|g| g.remaining_s).collect();
    pb::RunStatus {
        run: run.spec.id.clone(),
        name: entry.submission.name.clone(),
        state: state.name().into(),
        reason: reason.into(),
        seed: entry.submission.seed,
        revision: run.revision(),
        age_s: seconds(now),
        dataset_digest: run.spec.dataset_digest.clone(),
        positions_per_epoch: run.spec.positions,
        groups,
        teachers: run
            .teachers()
            .iter()
            .map(|t| teacher_status(run, t, now))
            .collect(),
        events: run
            .events()
            .map(|event| pb::Event {
                at_s: seconds(event.at),
                text: event.text.clone(),
                kind: event.kind.name().into(),
            })
            .collect(),
        term,
        started_s: started.map_or(0.0, seconds),
        alpha: run.retuned().alpha,
        temperature: run.retuned().temperature,
        reported: entry.reported,
        remaining_s: left.and_then(|all| all.into_iter().reduce(f64::max)),
    }
}

fn group_status(run: &Run, group: &Group, curves: bool, now: Millis) -> pb::GroupStatus {
    let name = &group.spec.name;
    let [available, leased, acked, committed, quarantined] = group.ledger.counts();
    let plan = group.plan();
    let of_group = |m: &&Member| m.session.role == Role::StudentWorker && m.part == *name;
    pb::GroupStatus {
        name: name.clone(),
        kind: group.spec.kind.name().into(),
        phase: group.phase().into(),
        epoch: group.ledger.epoch(),
        epochs: group.spec.epochs,
        round: plan.round,
        steps: group.steps,
        ledger: Some(pb::LedgerStatus {
            available,
            leased,
            acked,
            committed,
            quarantined,
            total_committed: group.ledger.total_committed(),
            total_quarantined: group.ledger.total_quarantined(),
            redelivered: group.ledger.redelivered(),
            rolled_back: group.ledger.rolled_back(),
        }),
        workers: run
            .members()
            .filter(of_group)
            .map(|m| pb::WorkerStatus {
                worker: m.session.worker.clone(),
                incarnation: m.session.incarnation,
                device: m.heartbeat.device.clone(),
                samples_per_s: m.heartbeat.rate,
                silent_ms: now.since(m.last_seen),
                leased: group.ledger.held_by(&m.session.worker),
                merged: group.brought(&m.session.worker),
                spent: group.spent(&m.session.worker).map_or_else(Vec::new, Vec::from),
                waited_for: group.waits_for(&m.session.worker),
            })
            .collect(),
        version: group.version(),
        alpha: plan.alpha,
        gate: plan.gate.map(Into::into),
        last: group.curve().next_back().map(point),
        curve: if curves {
            group.curve().map(point).collect()
        } else {
            Vec::new()
        },
        totals: Some((&group.totals).into()),
        teacher_use: teacher_use(&group.teacher_use),
        waiting_for: run.waiting_for(name).map(|r| r.to_string()).unwrap_or_default(),
        rejected_frames: run.rejected_frames(name),
        held_out: group.held_out.map(Into::into),
        remaining_s: group
            .seconds_left(now)
            .filter(|_| run.state().0 == State::Running),
    }
}

fn point(p: &Point) -> pb::CurvePoint {
    pb::CurvePoint {
        step: p.step,
        positions: p.positions,
        epoch: p.epoch,
        hard_loss: p.hard_loss,
        kl: p.kl,
        feature_loss: p.feature_loss,
        held_out_loss: p.held_out.map(|e| e.loss),
        held_out_accuracy: p.held_out.map(|e| e.accuracy),
        alpha: p.alpha,
        teacher_version: p.teacher_version,
        gradient_share: p.gradient_share,
        samples_per_s: p.samples_per_s,
        replicas: p.replicas,
        staleness: p.staleness,
    }
}

fn teacher_status(run: &Run, teacher: &Teacher, now: Millis) -> pb::TeacherStatus {
    let server = |m: &Member| {
        let s = teacher.servers.get(&m.session.worker)?;
        Some(pb::ServerStatus {
            worker: m.session.worker.clone(),
            address: s.address.clone(),
            device: m.heartbeat.device.clone(),
            samples_per_s: m.heartbeat.rate,
            queued_samples: m.heartbeat.queued,
            queue_wait_s: (m.heartbeat.rate > 0.0).then(|| m.heartbeat.queued as f64 / m.heartbeat.rate),
            active: s.active,
            staged: s.staged.iter().copied().collect(),
            silent_ms: now.since(m.last_seen),
            drained: s.drained.clone(),
            counters: m.heartbeat.counters.clone(),
        })
    };
    pb::TeacherStatus {
        name: teacher.spec.name.clone(),
        source: source(run, &teacher.spec.source).into(),
        published: teacher.newest(),
        active: teacher.active,
        activations: teacher.activations,
        held_out_loss: teacher.active.and_then(|v| teacher.held_out(v)).map(|e| e.loss),
        servers: run.members().filter_map(server).collect(),
    }
}

/// As a job calls it.
fn source(run: &Run, source: &Source) -> &'static str {
    match source {
        Source::Fixed => "checkpoint",
        Source::Average { .. } => "ema",
        Source::Group {
            of,
            which: Which::Every,
        } => {
            let groups = &run.spec.groups;
            let online = groups
                .iter()
                .any(|g| g.name == *of && g.kind == GroupKind::Teacher);
            if online { "trained" } else { "peers" }
        }
        Source::Group { .. } => "snapshot",
    }
}
