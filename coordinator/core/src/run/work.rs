//! What replicas do: leases, contributions, rounds.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;

use crate::group::{Group, NextRound};
use crate::ids::{Millis, Refusal, Session};
use crate::lease::{Answer, Reason};
use crate::pace::{self, Progress, Timetable};
use crate::round::{Gate, Work};
use crate::run::{Command, Rejected, Run, State};
use crate::spec::{GroupKind, Pace};
use crate::teacher::Teacher;

impl Run {
    /// Work for a replica, or why there is none.
    pub fn lease(&mut self, session: &Session, now: Millis) -> Result<Answer, Refusal> {
        self.authorise(session)?;
        let worker = &session.worker;
        let part = self.members[worker].part.clone();
        let answer = self.decide_lease(worker, &part);
        match &answer {
            Answer::Idle(reason) => {
                self.waiting_for.insert(part, *reason);
            }
            Answer::Granted { .. } => {
                self.waiting_for.remove(&part);
                self.started.get_or_insert(now);
                self.revision += 1;
            }
            Answer::Publish | Answer::Finish(_) => {}
        }
        Ok(answer)
    }

    fn decide_lease(&mut self, worker: &str, part: &str) -> Answer {
        let rate = self.members[worker].heartbeat.rate;
        let state = self.state;
        let reason = self.reason.clone();
        let group = self.group_mut(part).expect("a member's part exists");
        match state {
            State::Waiting => return Answer::Idle(Reason::Pace),
            State::Stopping if group.is_safe() => return Answer::Finish(reason),
            State::Stopping if group.plan().publish || !group.holds_state(worker) => {
                return Answer::Idle(Reason::Closing);
            }
            State::Stopping => return Answer::Idle(Reason::Stopping),
            State::Stopped | State::Done | State::Failed => return Answer::Finish(reason),
            State::Running => {}
        }
        if group.is_done() {
            return Answer::Finish(format!("group {part} is done"));
        }
        if !group.holds_state(worker) {
            return Answer::Idle(Reason::Contribute);
        }
        if group.ledger.all_merged() {
            return if group.take_over_publishing(worker) {
                Answer::Publish
            } else {
                Answer::Idle(Reason::Closing)
            };
        }
        if group.ledger.first_available().is_none() {
            return Answer::Idle(Reason::Contribute);
        }
        let Some(window) = self.window(part) else {
            return Answer::Idle(Reason::Pace);
        };
        let (block, exact) = (self.spec.block, window.exact);
        let group = self.group_mut(part).expect("a member's part exists");
        let replicas = group.replicas().count() as u64;
        let available = group.ledger.counts()[0];
        let blocks = crate::lease::size(rate, block, available, replicas).min(window.blocks);
        let positions = group.ledger.lease(worker, block, blocks).expect("checked above");
        Answer::Granted {
            epoch: group.ledger.epoch(),
            positions,
            exact,
        }
    }

    /// How many blocks the pace allows from the group's next position; `None`: none at present.
    fn window(&self, part: &str) -> Option<Window> {
        let group = self.group(part)?;
        let first = u64::from(group.ledger.epoch()) * self.spec.positions + group.ledger.first_available()?;
        let me = self.progress(group);
        let mut limit = u64::MAX;
        let mut exact = BTreeMap::new();
        if group.spec.kind == GroupKind::Teacher {
            let table = Timetable::new(&self.spec, &group.spec);
            let students: Vec<Progress> = self
                .groups
                .iter()
                .filter(|g| g.spec.teachers.contains(&group.spec.name))
                .map(|g| self.progress(g))
                .collect();
            limit = pace::teacher_limit(self.spec.pace, &table, &students);
        }
        for name in &group.spec.teachers {
            let Some(source) = self.group(name) else {
                continue;
            };
            let table = Timetable::new(&self.spec, &source.spec);
            limit = limit.min(pace::student_limit(
                self.spec.pace,
                &table,
                me,
                self.progress(source),
            ));
            if self.spec.pace == Pace::Lockstep {
                let (index, positions) = pace::lockstep(&table, me, first);
                exact.insert(name.clone(), self.teacher(name)?.at_index(index)?);
                limit = limit.min(positions.end);
            }
        }
        (first < limit).then(|| Window {
            blocks: u32::try_from((limit - first).div_ceil(u64::from(self.spec.block))).unwrap_or(u32::MAX),
            exact,
        })
    }

    pub(super) fn progress(&self, group: &Group) -> Progress {
        Progress {
            granted: group.ledger.granted(),
            total: u64::from(group.spec.epochs) * self.spec.positions,
            done: group.is_done(),
        }
    }

    /// Keeps a contribution; when it was the last one, the round closes.
    pub fn contribute(&mut self, session: &Session, work: Work, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        let part = self.members[&session.worker].part.clone();
        self.members
            .get_mut(&session.worker)
            .expect("authorised")
            .last_seen = now;
        self.group_mut(&part)
            .expect("a member's part exists")
            .contribute(&session.worker, work)?;
        self.close_round_if_ready(&part, now);
        Ok(())
    }

    pub(super) fn close_round_if_ready(&mut self, part: &str, now: Millis) {
        let Some(group) = self.group_mut(part).filter(|g| g.ready()) else {
            return;
        };
        // First, so that alpha follows the newest measurement.
        group.take_evaluation();
        let next = self
            .group(part)
            .map(|g| self.next_round(g))
            .expect("looked up above");
        let group = self.group_mut(part).expect("looked up above");
        let closed = group.close_round(next, now);
        self.revision += 1;
        self.commands.push_back(Command::CloseRound(closed));
    }

    fn next_round(&self, group: &Group) -> NextRound {
        let progress = self.progress(group);
        let base = self
            .spec
            .alpha
            .at(group.positions as f64 / progress.total.max(1) as f64);
        let student = group.kind_is(GroupKind::Student);
        let gate = (self.spec.gate && student).then(|| self.gate(group)).flatten();
        let alpha = match (student, self.spec.gate) {
            (false, _) => 0.0,
            (true, false) => base,
            // Before both are measured there is no lead to trust.
            (true, true) => base * gate.map_or(0.0, |g| g.lead),
        };
        NextRound {
            alpha,
            gate,
            checkpoint_every: (!group.kind_is(GroupKind::Teacher)).then_some(self.spec.checkpoint_every),
            stopping: self.state == State::Stopping,
        }
    }

    /// The lead of the group's teachers (the mean of their losses) over its newest evaluation.
    fn gate(&self, group: &Group) -> Option<Gate> {
        let student = group.held_out?;
        let measured: Vec<(u64, f64)> = group
            .spec
            .teachers
            .iter()
            .filter_map(|t| self.teacher(t))
            .filter_map(|t| {
                let version = self.measured_version(group, t)?;
                Some((version, t.held_out(version)?.loss))
            })
            .collect();
        let version = measured.first()?.0;
        let mean = measured.iter().map(|(_, loss)| loss).sum::<f64>() / measured.len() as f64;
        Some(Gate::new(version, mean, student.loss))
    }

    /// The version whose loss gates the group: the active one; in lockstep, so that a run can be
    /// repeated, the one that taught the newest merged position.
    fn measured_version(&self, group: &Group, teacher: &Teacher) -> Option<u64> {
        let source = self
            .group(&teacher.spec.name)
            .filter(|_| self.spec.pace == Pace::Lockstep);
        let Some(source) = source else {
            return teacher.active;
        };
        let table = Timetable::new(&self.spec, &source.spec);
        let newest = group.positions.saturating_sub(1);
        teacher.at_index(pace::lockstep(&table, self.progress(group), newest).0)
    }

    /// Gives leased positions back.
    pub fn release(&mut self, session: &Session, epoch: u32, positions: &RangeSet) -> Result<(), Refusal> {
        self.authorise(session)?;
        let part = self.members[&session.worker].part.clone();
        let group = self.group_mut(&part).expect("a member's part exists");
        group
            .ledger
            .release(&session.worker, epoch, positions)
            .map_err(|e| Refusal::Gone(e.to_string()))
    }

    /// Quarantines one position that can't be read or computed.
    pub fn reject(&mut self, session: &Session, rejected: &Rejected, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        let part = self.members[&session.worker].part.clone();
        let group = self.group_mut(&part).expect("a member's part exists");
        group
            .ledger
            .quarantine(&session.worker, rejected.epoch, rejected.position)
            .map_err(|e| Refusal::Gone(e.to_string()))?;
        let text = format!(
            "group {part}: sample {} (epoch {}, position {}) is quarantined: {}",
            rejected.sample, rejected.epoch, rejected.position, rejected.reason
        );
        self.event(now, text);
        Ok(())
    }

    /// A group can't go on.
    pub fn fail(&mut self, session: &Session, reason: &str, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        let part = self.members[&session.worker].part.clone();
        self.end(
            State::Failed,
            format!("{part} on {}: {reason}", session.worker),
            now,
        );
        Ok(())
    }
}

/// How far a lease may reach.
struct Window {
    blocks: u32,
    exact: BTreeMap<String, u64>,
}
