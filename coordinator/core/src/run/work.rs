//! What replicas do: leases, contributions, rounds.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;

use crate::group::{Contributed, Group, NextRound};
use crate::ids::{Millis, Refusal, Session};
use crate::lease::{Answer, Reason};
use crate::pace::{self, Blocks, Progress, Timetable};
use crate::record::Key;
use crate::round::{Gate, Work};
use crate::run::{Command, Kind, Message, Rejected, Run, State};
use crate::spec::{GroupKind, Pace, Source, Which};
use crate::teacher::Teacher;

impl Run {
    /// Work for a replica, or why there is none. The replica numbers its requests and says which
    /// grant it `received` last (0: none): one that got lost on the way is given again, not leaked.
    pub fn lease(
        &mut self,
        session: &Session,
        (sequence, received): (u64, u64),
        now: Millis,
    ) -> Result<Answer, Refusal> {
        let member = self.authorise_mut(session)?;
        if sequence <= member.void_until {
            // A late copy: whoever sent it has gone on.
            return Ok(Answer::Idle(Reason::Contribute));
        }
        if let Some((at, answer)) = member.answered.as_mut().filter(|(at, _)| *at > received) {
            *at = sequence.max(*at);
            return Ok(answer.clone());
        }
        let worker = &session.worker;
        let (part, rate) = (member.part.clone(), member.heartbeat.rate);
        let answer = self.decide_lease((worker, rate), &part, now);
        let granted = matches!(answer, Answer::Granted { .. });
        if let Some(group) = self.group_mut(&part) {
            group.set_idle(worker, matches!(answer, Answer::Idle(_)));
        }
        match &answer {
            Answer::Idle(reason) => self.set_waiting(&part, Some(*reason)),
            Answer::Granted { .. } => {
                self.set_waiting(&part, None);
                if self.started.is_none() {
                    self.started = Some(now);
                    self.dirty.insert(Key::Run);
                }
                self.revision += 1;
            }
            Answer::Publish | Answer::Finish(_) => {}
        }
        if granted && let Some(member) = self.members.get_mut(worker) {
            member.answered = Some((sequence, answer.clone()));
        }
        Ok(answer)
    }

    fn set_waiting(&mut self, part: &str, reason: Option<Reason>) {
        if self.waiting_for(part) == reason {
            return;
        }
        match reason {
            Some(reason) => self.waiting_for.insert(part.to_owned(), reason),
            None => self.waiting_for.remove(part),
        };
        self.commands.push_back(Command::Waits {
            group: part.to_owned(),
            reason,
        });
    }

    fn decide_lease(&mut self, (worker, rate): (&str, f64), part: &str, now: Millis) -> Answer {
        let state = self.state;
        let reason = self.reason.clone();
        let drained = self.drained.contains(worker);
        let group = self.group_mut(part).expect("a member's part exists");
        if group.is_reclaiming() {
            return Answer::Idle(Reason::Reclaim);
        }
        match state {
            State::Waiting => return Answer::Idle(Reason::Pace),
            State::Stopping if group.is_safe() => return Answer::Finish(reason),
            State::Stopping if group.plan().publish || !group.holds_state(worker) => {
                return Answer::Idle(Reason::Closing);
            }
            State::Stopping => return Answer::Idle(Reason::Stopping),
            State::Stopped | State::Done | State::Failed => return Answer::Finish(reason),
            State::Running | State::Paused => {}
        }
        if group.is_done() {
            return Answer::Finish(format!("group {part} is done"));
        }
        if drained {
            // Its state stays with the others, or with the manifest that it writes first.
            return if group.can_spare(worker) {
                Answer::Finish("drained".into())
            } else if group.ledger.held_by(worker) == 0 && group.take_over_publishing(worker, now) {
                Answer::Publish
            } else {
                Answer::Idle(Reason::Stopping)
            };
        }
        if !group.holds_state(worker) {
            return Answer::Idle(Reason::Contribute);
        }
        if group.ledger.all_merged() {
            return if group.take_over_publishing(worker, now) {
                Answer::Publish
            } else {
                Answer::Idle(Reason::Closing)
            };
        }
        if group.ledger.first_available().is_none() {
            return Answer::Idle(Reason::Contribute);
        }
        if state == State::Paused {
            return Answer::Idle(Reason::Paused);
        }
        if self.waits_for_itself(part) {
            let group = self.group_mut(part).expect("a member's part exists");
            return if group.take_over_publishing(worker, now) {
                Answer::Publish
            } else {
                Answer::Idle(Reason::Closing)
            };
        }
        if self.must_publish_first(part) {
            let group = self.group_mut(part).expect("a member's part exists");
            return if group.ledger.held_by(worker) > 0 || group.somebody_waits() {
                Answer::Idle(Reason::Contribute)
            } else if group.take_over_publishing(worker, now) {
                Answer::Publish
            } else {
                Answer::Idle(Reason::Closing)
            };
        }
        let Some(window) = self.window(part) else {
            return self.beyond_pace(worker, part, now);
        };
        let (block, exact) = (self.spec.block, window.exact);
        let temperature = self.retuned.temperature;
        let group = self.group_mut(part).expect("a member's part exists");
        let replicas = group.replicas().len() as u64;
        let available = group.ledger.counts()[0];
        let blocks = crate::lease::size(rate, block, available, replicas).min(window.blocks);
        let Some(positions) = group.lease(worker, block, blocks) else {
            return Answer::Idle(Reason::Contribute);
        };
        Answer::Granted {
            epoch: group.ledger.epoch(),
            positions,
            exact,
            temperature,
        }
    }

    /// The pace allows nothing more to this group at present.
    fn beyond_pace(&self, worker: &str, part: &str, now: Millis) -> Answer {
        let group = self.group(part).expect("a member's part exists");
        let spare = group.has_other_keeper(worker) && group.can_spare(worker);
        match self.unattended() {
            Some(other) if spare => Answer::Finish(format!("group {other} has nobody")),
            // Nobody shall wait in a round for one who waits for others.
            _ if group.somebody_waits() || group.lacks_version(now) => Answer::Idle(Reason::Contribute),
            _ => Answer::Idle(Reason::Pace),
        }
    }

    /// Lockstep: the place from which the next version teaches, or is made, after what is durable of
    /// the group.
    fn next_boundary(&self, group: &Group) -> Option<u64> {
        if self.spec.pace != Pace::Lockstep {
            return None;
        }
        let durable = group.ledger.settled();
        if group.kind_is(GroupKind::Teacher) {
            return Timetable::new(&self.spec, &group.spec).next_boundary(durable);
        }
        let mut teachers = group.spec.teachers.iter().filter_map(|t| self.teacher(t));
        let source = teachers.find_map(|t| self.source_of(t))?;
        let table = Timetable::new(&self.spec, &source.spec);
        let (_, end) = pace::lockstep(&table, Blocks::new(&self.spec), self.progress(group), durable);
        Some(end).filter(|end| *end < u64::MAX)
    }

    /// Lockstep: all up to the next boundary is with somebody, and must be durable before anything
    /// beyond it is trained. A replica that loses its state needs no older version then than those
    /// that are kept.
    fn must_publish_first(&self, part: &str) -> bool {
        let Some(group) = self.group(part) else {
            return false;
        };
        let epoch = u64::from(group.ledger.epoch()) * self.spec.positions;
        let next = group.ledger.first_available().map(|r| epoch + r.start);
        let boundary = self.next_boundary(group);
        next.zip(boundary)
            .is_some_and(|(next, boundary)| next >= boundary)
    }

    /// How many blocks the pace allows from the group's next position; `None`: none at present.
    fn window(&self, part: &str) -> Option<Window> {
        let group = self.group(part)?;
        if self.waits_for_last(group) {
            return None;
        }
        let first =
            u64::from(group.ledger.epoch()) * self.spec.positions + group.ledger.first_available()?.start;
        let me = self.progress(group);
        // Leases end at a boundary, so that rounds do too, whoever is fast.
        let mut limit = self.next_boundary(group).unwrap_or(u64::MAX);
        let mut exact = BTreeMap::new();
        if group.spec.kind == GroupKind::Teacher {
            let table = Timetable::new(&self.spec, &group.spec);
            let students: Vec<Progress> = self
                .groups
                .iter()
                .filter(|g| g.spec.teachers.contains(&group.spec.name) && !self.waits_for_last(g))
                .map(|g| self.progress(g))
                .collect();
            limit = pace::teacher_limit(self.spec.pace, &table, &students);
        }
        for name in &group.spec.teachers {
            let teacher = self.teacher(name)?;
            if follows_last(teacher) {
                continue;
            }
            let Some(source) = self.source_of(teacher).filter(|g| g.spec.name != part) else {
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
                let (index, end) = pace::lockstep(&table, Blocks::new(&self.spec), me, first);
                exact.insert(name.clone(), teacher.at_index(index)?);
                limit = limit.min(end);
            }
        }
        (first < limit).then(|| Window {
            blocks: u32::try_from((limit - first).div_ceil(u64::from(self.spec.block))).unwrap_or(u32::MAX),
            exact,
        })
    }

    /// The group has no version yet, learns, and teaches: those that it learns from may be waiting for what it
    /// teaches, itself among them.
    fn waits_for_itself(&self, part: &str) -> bool {
        let teaches = || self.teachers.iter().any(|t| t.spec.source.of() == Some(part));
        self.group(part)
            .is_some_and(|g| g.version().is_none() && !g.spec.teachers.is_empty() && teaches())
    }

    /// A teacher of the group is the last version of another, which has not come yet: until then the group
    /// can do nothing, and nobody waits for it.
    fn waits_for_last(&self, group: &Group) -> bool {
        let mut teachers = group.spec.teachers.iter().filter_map(|t| self.teacher(t));
        teachers.any(|t| follows_last(t) && t.active.is_none())
    }

    pub(super) fn progress(&self, group: &Group) -> Progress {
        Progress {
            granted: group.ledger.granted(),
            total: u64::from(group.spec.epochs) * self.spec.positions,
            done: group.is_done(),
        }
    }

    /// Keeps a contribution; when it was the last one, the round closes.
    pub fn contribute(&mut self, session: &Session, work: Work, now: Millis) -> Result<Contributed, Refusal> {
        let member = self.authorise_mut(session)?;
        member.last_seen = now;
        let part = member.part.clone();
        let group = self.group_mut(&part).expect("a member's part exists");
        let contributed = group.contribute(&session.worker, work, now)?;
        self.revision += 1;
        self.close_round_if_ready(&part, now);
        if self.group(&part).is_some_and(|g| g.somebody_waits()) {
            self.overdue_check.get_or_insert(now.plus(self.spec.heartbeat));
        }
        Ok(contributed)
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
        let place = group.positions as f64 / progress.total.max(1) as f64;
        let base = self.retuned.alpha.unwrap_or_else(|| group.spec.alpha.at(place));
        let gated = self.spec.gate && group.kind_is(GroupKind::Student);
        let gate = gated.then(|| self.gate(group)).flatten();
        let alpha = match (group.spec.teachers.is_empty(), gated) {
            (true, _) => 0.0,
            (false, false) => base,
            // Before both are measured there is no lead to trust.
            (false, true) => base * gate.map_or(0.0, |g| g.lead),
        };
        NextRound {
            alpha,
            gate,
            publish_from: self.next_boundary(group),
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
            .source_of(teacher)
            .filter(|_| self.spec.pace == Pace::Lockstep);
        let Some(source) = source else {
            return teacher.active;
        };
        let table = Timetable::new(&self.spec, &source.spec);
        let newest = group.positions.saturating_sub(1);
        let (index, _) = pace::lockstep(&table, Blocks::new(&self.spec), self.progress(group), newest);
        teacher.published_at(index)
    }

    /// Gives leased positions back. The replica numbers its releases from 1: a late copy of one
    /// would take away what was leased again since. Those numbered 0 are not told apart.
    pub fn release(
        &mut self,
        session: &Session,
        number: u64,
        (epoch, positions): (u32, &RangeSet),
    ) -> Result<(), Refusal> {
        let member = self.authorise_mut(session)?;
        if number > 0 && member.released.insert(number..number + 1) == 0 {
            return Ok(());
        }
        let part = member.part.clone();
        self.revision += 1;
        let group = self.group_mut(&part).expect("a member's part exists");
        group
            .ledger
            .release(&session.worker, epoch, positions)
            .map_err(|e| Refusal::Gone(e.to_string()))
    }

    /// Quarantines one position that can't be read or computed.
    pub fn reject(&mut self, session: &Session, rejected: &Rejected, now: Millis) -> Result<(), Refusal> {
        let part = self.authorise(session)?.part.clone();
        let group = self.group_mut(&part).expect("a member's part exists");
        let place = (rejected.epoch, rejected.position);
        let news = group
            .quarantine(&session.worker, place, rejected.sample)
            .map_err(|e| Refusal::Gone(e.to_string()))?;
        let text = format!(
            "group {part}: sample {} (epoch {}, position {}) is quarantined: {}",
            rejected.sample, rejected.epoch, rejected.position, rejected.reason
        );
        self.event(now, Kind::Data, text);
        if news {
            self.tell_poison(&part, place);
        }
        Ok(())
    }

    /// Positions that killed whoever computed them.
    pub(super) fn quarantined(&mut self, part: &str, positions: Vec<u64>, now: Millis) {
        let Some(epoch) = self.group(part).map(|g| g.ledger.epoch()) else {
            return;
        };
        for position in positions {
            self.event(
                now,
                Kind::Data,
                format!(
                    "group {part}: the sample at position {position} of epoch {epoch} is quarantined: \
                     two processes died computing it alone"
                ),
            );
            self.tell_poison(part, (epoch, position));
        }
    }

    fn tell_poison(&mut self, part: &str, (epoch, position): (u32, u64)) {
        let replicas: Vec<String> = self
            .group(part)
            .map(|g| g.replicas().map(str::to_owned).collect())
            .unwrap_or_default();
        for worker in replicas {
            self.send(&worker, Message::Poison { epoch, position });
        }
    }

    /// A group can't go on.
    pub fn fail(&mut self, session: &Session, reason: &str, now: Millis) -> Result<(), Refusal> {
        let part = self.authorise(session)?.part.clone();
        self.end(
            State::Failed,
            format!("{part} on {}: {reason}", session.worker),
            now,
        );
        Ok(())
    }
}

fn follows_last(teacher: &Teacher) -> bool {
    matches!(
        teacher.spec.source,
        Source::Group {
            which: Which::Last,
            ..
        }
    )
}

/// How far a lease may reach.
struct Window {
    blocks: u32,
    exact: BTreeMap<String, u64>,
}
