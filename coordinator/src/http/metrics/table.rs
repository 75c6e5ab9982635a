//! All metrics. Units are in the names; losses are in nats.

use retort_coordinator_core::round::Activity;
use retort_proto::pb;

use super::{Kind, Metric, Of};

const fn counter(name: &'static str, help: &'static str, of: Of) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        help,
        by: None,
        of,
    }
}

const fn gauge(name: &'static str, help: &'static str, of: Of) -> Metric {
    Metric {
        kind: Kind::Gauge,
        ..counter(name, help, of)
    }
}

impl Metric {
    const fn by(mut self, label: &'static str) -> Self {
        self.by = Some(label);
        self
    }
}

/// States of a run, all of them.
const STATES: [&str; 7] = [
    "waiting", "running", "paused", "stopping", "stopped", "done", "failed",
];
/// Versions behind the newest, as `TrainingSums.staleness` counts them.
const BEHIND: [&str; 5] = ["0", "1", "2", "3", "4+"];

fn ledger(group: &pb::GroupStatus) -> pb::LedgerStatus {
    group.ledger.unwrap_or_default()
}

fn totals(group: &pb::GroupStatus) -> pb::TrainingSums {
    group.totals.clone().unwrap_or_default()
}

fn last(group: &pb::GroupStatus) -> pb::CurvePoint {
    group.last.unwrap_or_default()
}

fn version(version: Option<u64>) -> Option<f64> {
    version.map(|v| v as f64)
}

pub(super) const TABLE: &[Metric] = &[
    gauge(
        "retort_coordinator_term",
        "Term of the coordinator; it rises at each start.",
        Of::Coordinator(|f, out| out.count(f.fleet.term)),
    ),
    gauge(
        "retort_coordinator_runs",
        "Runs that the coordinator knows, by state.",
        Of::Coordinator(|f, out| {
            for state in STATES {
                let here = f.fleet.states.iter().filter(|s| *s == state);
                out.count_by(state, here.count() as u64);
            }
        }),
    )
    .by("state"),
    gauge(
        "retort_coordinator_watchers",
        "Readers of live states, over gRPC and HTTP.",
        Of::Coordinator(|f, out| out.count(f.watchers as u64)),
    ),
    gauge(
        "retort_run_state",
        "1 for the state that the run is in, 0 for the others.",
        Of::Run(|r, out| {
            for state in STATES {
                out.count_by(state, u64::from(r.state == state));
            }
        }),
    )
    .by("state"),
    gauge(
        "retort_run_epoch_samples",
        "Samples of one epoch of a group.",
        Of::Run(|r, out| out.count(r.positions_per_epoch)),
    ),
    gauge(
        "retort_group_epochs",
        "Epochs that the group will train.",
        Of::Group(|g, out| out.count(g.epochs.into())),
    ),
    gauge(
        "retort_group_epoch",
        "Epoch that the group is in, from 0.",
        Of::Group(|g, out| out.count(g.epoch.into())),
    ),
    gauge(
        "retort_group_rounds",
        "Merges in the group's state; fewer after a rollback.",
        Of::Group(|g, out| out.count(g.round)),
    ),
    gauge(
        "retort_group_steps",
        "Optimizer steps in the group's state, of all replicas; fewer after a rollback.",
        Of::Group(|g, out| out.count(g.steps)),
    ),
    gauge(
        "retort_group_published_version",
        "Newest version that the group published.",
        Of::Group(|g, out| out.maybe(version(g.version))),
    ),
    gauge(
        "retort_ledger_samples",
        "Samples of the present epoch by place; they sum to the epoch's.",
        Of::Group(|g, out| {
            let l = ledger(g);
            out.count_by("available", l.available);
            out.count_by("leased", l.leased);
            out.count_by("acked", l.acked);
            out.count_by("committed", l.committed);
            out.count_by("quarantined", l.quarantined);
        }),
    )
    .by("place"),
    counter(
        "retort_ledger_committed_samples_total",
        "Samples in durable manifests, over all epochs.",
        Of::Group(|g, out| out.count(ledger(g).total_committed)),
    ),
    counter(
        "retort_ledger_quarantined_samples_total",
        "Samples taken out because they cannot be trained on, over all epochs.",
        Of::Group(|g, out| out.count(ledger(g).total_quarantined)),
    ),
    counter(
        "retort_ledger_redelivered_samples_total",
        "Samples that were leased again because their holder was lost.",
        Of::Group(|g, out| out.count(ledger(g).redelivered)),
    ),
    counter(
        "retort_ledger_rolled_back_samples_total",
        "Merged samples that were lost with every holder of the state.",
        Of::Group(|g, out| out.count(ledger(g).rolled_back)),
    ),
    gauge(
        "retort_group_goodput_ratio",
        "Durable samples among all that were leased: committed / (committed + redelivered + rolled back).",
        Of::Group(|g, out| {
            let l = ledger(g);
            let all = l.total_committed + l.redelivered + l.rolled_back;
            out.maybe((all > 0).then(|| l.total_committed as f64 / all as f64));
        }),
    ),
    gauge(
        "retort_group_remaining_seconds",
        "Time until the group has merged everything, at the pace of the last minute.",
        Of::Group(|g, out| out.maybe(g.remaining_s)),
    ),
    counter(
        "retort_group_trained_samples_total",
        "Samples trained in merged rounds, those rolled back later included.",
        Of::Group(|g, out| out.count(totals(g).samples)),
    ),
    counter(
        "retort_group_labelled_samples_total",
        "Trained samples that had a label.",
        Of::Group(|g, out| out.count(totals(g).labelled)),
    ),
    counter(
        "retort_group_taught_samples_total",
        "Trained samples that had soft targets, by versions behind the newest.",
        Of::Group(|g, out| {
            for (behind, samples) in BEHIND.iter().zip(totals(g).staleness) {
                out.count_by(behind, samples);
            }
        }),
    )
    .by("behind"),
    counter(
        "retort_group_teacher_samples_total",
        "Samples trained on soft targets, by teacher.",
        Of::Group(|g, out| {
            let mut teachers: Vec<&str> = g.teacher_use.iter().map(|u| u.teacher.as_str()).collect();
            teachers.dedup();
            for teacher in teachers {
                let used = g.teacher_use.iter().filter(|u| u.teacher == teacher);
                out.count_by(teacher, used.map(|u| u.samples).sum());
            }
        }),
    )
    .by("teacher"),
    counter(
        "retort_group_rejected_frames_total",
        "Soft-target frames that the group's workers refused, by reason.",
        Of::Group(|g, out| {
            for (reason, frames) in &g.rejected_frames {
                out.count_by(reason, *frames);
            }
        }),
    )
    .by("reason"),
    counter(
        "retort_group_soft_target_bytes_total",
        "Bytes of soft targets that reached the loss.",
        Of::Group(|g, out| out.count(totals(g).frame_bytes)),
    ),
    counter(
        "retort_group_exchanged_bytes_total",
        "Bytes of weights and states that replicas exchanged.",
        Of::Group(|g, out| out.count(totals(g).exchanged_bytes)),
    ),
    counter(
        "retort_group_spent_seconds_total",
        "Time of the group's replicas, by what they did or waited for.",
        Of::Group(|g, out| {
            for (activity, seconds) in Activity::ALL.iter().zip(totals(g).spent) {
                out.value_by(activity.name(), seconds);
            }
        }),
    )
    .by("activity"),
    gauge(
        "retort_group_max_staleness_versions",
        "Most versions that a trained frame was behind the newest.",
        Of::Group(|g, out| out.count(totals(g).max_staleness)),
    ),
    gauge(
        "retort_group_hard_loss_nats",
        "Mean cross-entropy with the labels over the newest round.",
        Of::Group(|g, out| out.maybe(last(g).hard_loss)),
    ),
    gauge(
        "retort_group_soft_loss_nats",
        "Mean KL divergence from the teachers at the distillation temperature over the newest round.",
        Of::Group(|g, out| out.maybe(last(g).kl)),
    ),
    gauge(
        "retort_group_feature_loss",
        "Mean loss between a layer of the student and one of its teacher over the newest round, unweighted.",
        Of::Group(|g, out| out.maybe(last(g).feature_loss)),
    ),
    gauge(
        "retort_group_held_out_loss_nats",
        "Negative log-likelihood on the held-out samples, newest evaluation.",
        Of::Group(|g, out| out.maybe(g.held_out.map(|e| e.loss))),
    ),
    gauge(
        "retort_group_held_out_accuracy_ratio",
        "Accuracy on the held-out samples, newest evaluation.",
        Of::Group(|g, out| out.maybe(g.held_out.map(|e| e.accuracy))),
    ),
    gauge(
        "retort_group_alpha_ratio",
        "Share of the soft loss after schedule and gate.",
        Of::Group(|g, out| out.value(g.alpha)),
    ),
    gauge(
        "retort_group_gradient_share_ratio",
        "Share of the gradient at the logits that came from the teachers, newest round.",
        Of::Group(|g, out| out.maybe(last(g).gradient_share)),
    ),
    gauge(
        "retort_group_samples_per_second",
        "Training rate over the newest round.",
        Of::Group(|g, out| out.maybe(last(g).samples_per_s)),
    ),
    gauge(
        "retort_group_workers",
        "Live workers of the group: working ones hold samples, idle ones do not.",
        Of::Group(|g, out| {
            let working = g.workers.iter().filter(|w| w.leased > 0).count();
            out.count_by("working", working as u64);
            out.count_by("idle", (g.workers.len() - working) as u64);
        }),
    )
    .by("state"),
    gauge(
        "retort_worker_samples_per_second",
        "Training rate that the worker measured.",
        Of::Worker(|w, out| out.value(w.samples_per_s)),
    ),
    gauge(
        "retort_worker_leased_samples",
        "Samples that the worker holds.",
        Of::Worker(|w, out| out.count(w.leased)),
    ),
    gauge(
        "retort_worker_silent_seconds",
        "Time since the worker's last heartbeat.",
        Of::Worker(|w, out| out.value(w.silent_ms as f64 / 1e3)),
    ),
    gauge(
        "retort_teacher_published_version",
        "Newest published version of the teacher.",
        Of::Teacher(|t, out| out.maybe(version(t.published))),
    ),
    gauge(
        "retort_teacher_active_version",
        "Version that serves.",
        Of::Teacher(|t, out| out.maybe(version(t.active))),
    ),
    counter(
        "retort_teacher_activations_total",
        "Versions activated so far.",
        Of::Teacher(|t, out| out.count(t.activations)),
    ),
    gauge(
        "retort_teacher_held_out_loss_nats",
        "Held-out loss of the active version.",
        Of::Teacher(|t, out| out.maybe(t.held_out_loss)),
    ),
    gauge(
        "retort_teacher_servers",
        "Live servers of the teacher, by whether they serve or left the routing.",
        Of::Teacher(|t, out| {
            let serving = t.servers.iter().filter(|s| s.drained.is_empty()).count();
            out.count_by("serving", serving as u64);
            out.count_by("drained", (t.servers.len() - serving) as u64);
        }),
    )
    .by("state"),
    gauge(
        "retort_server_samples_per_second",
        "Rate at which the server scores samples, as it measured.",
        Of::Server(|s, out| out.value(s.samples_per_s)),
    ),
    gauge(
        "retort_server_queued_samples",
        "Samples that wait to be scored.",
        Of::Server(|s, out| out.count(s.queued_samples)),
    ),
    gauge(
        "retort_server_queue_wait_seconds",
        "Time until a sample that comes now is scored, at the present rate; absent while nothing is scored.",
        Of::Server(|s, out| out.maybe(s.queue_wait_s)),
    ),
    gauge(
        "retort_server_silent_seconds",
        "Time since the server's last heartbeat.",
        Of::Server(|s, out| out.value(s.silent_ms as f64 / 1e3)),
    ),
    counter(
        "retort_server_events_total",
        "What the server counted since it took up the run: forwards (passes of the model); wants answered as hits (cache), \
         coalesced (another reader's pass), replayed (recorded) or misses; blocks evicted; wants overloaded or abandoned; \
         weights refetched.",
        Of::Server(|s, out| {
            for (event, count) in &s.counters {
                out.count_by(event, *count);
            }
        }),
    )
    .by("event"),
];
