//! Rounds: steps, contributions, snapshots.

use std::collections::BTreeSet;

use retort_coordinator_core::ids::Session;
use retort_coordinator_core::lease::Reason;
use retort_coordinator_core::round::{Evaluation, RoundPlan, Sums, Work};

use super::{Command, InFlight, OnMissing, Snapshot, TRAIN_AHEAD, Worker};
use crate::worker::StepDone;

impl<F: Clone> Worker<F> {
    /// The round's evaluation (and snapshot) is done; training may step.
    pub fn began(&mut self, held_out: Option<Evaluation>) {
        if self.void_begins > 0 {
            self.void_begins -= 1;
            return;
        }
        self.beginning = false;
        // An evaluation for a manifest's sake comes at a time of its own; only the planned ones may
        // decide alpha, or lockstep could not be repeated.
        if self.plan.evaluate {
            self.work.held_out = held_out;
        }
        if self.snapshot == Snapshot::Asked {
            self.snapshot = Snapshot::Held;
            self.publish_if_held();
        }
        self.advance();
    }

    /// The version that was asked for is durable.
    pub fn published(&mut self, session: &Session) {
        if self.session.as_ref() == Some(session) {
            self.snapshot = Snapshot::No;
            self.told_to_publish = false;
            self.advance();
        }
    }

    /// The version could not be written; the coordinator asks for a later one.
    pub fn publish_failed(&mut self, session: &Session) {
        self.published(session);
    }

    /// The oldest batch at the trainer is done.
    pub fn trained(&mut self, done: &StepDone) {
        if self.void_steps > 0 {
            self.void_steps -= 1;
            self.advance();
            return;
        }
        let Some(InFlight { batch, staleness }) = self.in_flight.pop_front() else {
            return;
        };
        let samples = batch.positions.end - batch.positions.start;
        self.work.epoch = batch.id.epoch;
        self.work.steps += 1;
        self.work.trained.insert(batch.positions);
        let taught = if done.kl.is_some() { samples } else { 0 };
        let hinted = if done.feature_loss.is_some() { samples } else { 0 };
        let frames = if batch.first_of_block {
            batch.frames.len() as u64
        } else {
            0
        };
        let mut by_staleness = [0; 5];
        by_staleness[staleness.min(4) as usize] = taught;
        self.work.sums.add(&Sums {
            samples,
            hard_loss: done.hard_loss * done.labelled as f64,
            labelled: done.labelled,
            kl: done.kl.unwrap_or(0.0) * taught as f64,
            taught,
            gradient_share: done.gradient_share.unwrap_or(0.0) * taught as f64,
            step_seconds: done.seconds,
            frames,
            frame_bytes: done.frame_bytes,
            max_staleness: staleness,
            staleness: by_staleness,
            feature_loss: done.feature_loss.unwrap_or(0.0) * hinted as f64,
            hinted,
            ..Sums::default()
        });
        for (teacher, version, _) in batch.frames {
            let versions = self.work.teacher_use.entry(teacher).or_default();
            *versions.entry(version).or_default() += samples;
        }
        self.advance();
    }

    /// The round closed; this is what comes next. False: it is of a former session, and the state
    /// that came with it must not be taken over.
    pub fn merged(&mut self, session: &Session, plan: RoundPlan) -> bool {
        let Some(work) = self.contributing.as_ref() else {
            return false;
        };
        // A second answer to an earlier contribution says nothing of this one.
        let answers = work.joining || (plan.generation, plan.round) == (work.generation, work.round + 1);
        if self.session.as_ref() != Some(session) || !answers {
            return false;
        }
        self.contributing = None;
        self.joining = false;
        self.idle = None;
        if plan.exchange {
            self.commands.push_back(Command::Adopt);
        }
        self.plan = plan;
        self.start_round();
        self.advance();
        true
    }

    /// Starts the plan's round with nothing done.
    pub(super) fn start_round(&mut self) {
        self.started = 0;
        self.work = Work {
            generation: self.plan.generation,
            round: self.plan.round,
            ..Work::default()
        };
        if self.plan.evaluate || self.plan.publish {
            self.begin_round(self.plan.publish);
        }
    }

    pub(super) fn begin_round(&mut self, snapshot: bool) {
        self.beginning = true;
        if snapshot {
            self.snapshot = Snapshot::Asked;
        }
        self.commands.push_back(Command::BeginRound {
            plan: self.plan.clone(),
            snapshot,
        });
    }

    pub(super) fn publish_if_held(&mut self) {
        if self.snapshot != Snapshot::Held {
            return;
        }
        // Without a session it is kept, and claimed with the next registration.
        if let Some(session) = self.session.clone() {
            self.commands.push_back(Command::Publish {
                session,
                generation: self.plan.generation,
                round: self.plan.round,
            });
        }
    }

    pub(super) fn train(&mut self) {
        while self.contributing.is_none()
            && !self.beginning
            && self.in_flight.len() < TRAIN_AHEAD
            && self.started < self.plan.steps
        {
            let spared = self.spared();
            let Some(batch) = self.queue.next(&self.setup.teachers, &spared) else {
                return;
            };
            self.started += 1;
            let behind = |(t, v): (&String, u64)| self.active.get(t).map_or(0, |a| a.saturating_sub(v));
            let staleness = batch.frames.iter().map(|(t, v, _)| behind((t, *v))).max();
            self.in_flight.push_back(InFlight {
                batch: batch.clone(),
                staleness: staleness.unwrap_or(0),
            });
            let alone = batch.frames.is_empty();
            let alpha = if alone { 0.0 } else { self.plan.alpha };
            self.commands.push_back(Command::Train { batch, alpha });
        }
    }

    /// Teachers that training goes on without.
    fn spared(&self) -> BTreeSet<String> {
        let all_missing = self.setup.teachers.iter().all(|t| self.missing.contains(t));
        match self.setup.on_missing {
            OnMissing::Wait => BTreeSet::new(),
            OnMissing::Renormalise if all_missing => BTreeSet::new(),
            OnMissing::Renormalise | OnMissing::Hard => self.missing.clone(),
        }
    }

    pub(super) fn contribute_if_due(&mut self) {
        let told = matches!(self.idle, Some(Reason::Contribute | Reason::Stopping))
            || self.idle == Some(Reason::Paused) && self.work.steps > 0;
        let due = self.work.steps >= self.plan.steps || told && self.queue.is_empty();
        let busy = !self.in_flight.is_empty() || self.beginning || self.snapshot != Snapshot::No;
        if due && !busy && self.contributing.is_none() {
            self.contributing = Some(std::mem::take(&mut self.work));
            self.send_contribution();
        }
    }

    /// Sends what waits for its round to close, again after a new session.
    pub(super) fn send_contribution(&mut self) {
        if let (Some(work), Some(session)) = (self.contributing.clone(), self.session.clone()) {
            let weights = self.plan.exchange && !work.joining;
            self.commands.push_back(Command::Contribute {
                session,
                work: Box::new(work),
                weights,
            });
        }
    }
}
