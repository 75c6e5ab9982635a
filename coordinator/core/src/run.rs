//! One run: members, groups and teachers, and every decision between them.
//!
//! Inputs are method calls with the time; what others must be told comes out of `poll_command`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use retort_data::ranges::RangeSet;

use crate::group::{Group, NextRound};
use crate::ids::{Millis, Refusal, Role, Session};
use crate::lease::{Answer, Reason};
use crate::pace::{self, Progress, Timetable};
use crate::round::{ClosedRound, Evaluation, Gate, RoundPlan, Start, Ticket, Work};
use crate::spec::{GroupKind, Pace, RunSpec};
use crate::teacher::{Step, Teacher};

/// Events kept for the status; the oldest go first.
const EVENT_LIMIT: usize = 256;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Fixed teachers are still to be provided.
    Waiting,
    /// Groups train.
    Running,
    /// Replicas contribute and publish, then leave.
    Stopping,
    /// Ended on request; the merged state is durable.
    Stopped,
    /// All groups ended.
    Done,
    /// A group could not go on.
    Failed,
}

impl State {
    /// As shown in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Nothing will change any more.
    pub fn ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Done | Self::Failed)
    }
}

/// Tells one worker something, over its control stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Teacher server: load this version.
    Stage(u64),
    /// Teacher server: serve it.
    Activate {
        /// Version to serve.
        version: u64,
        /// Older ones may go.
        keep_from: u64,
    },
    /// Student worker: train on nothing older.
    Floor {
        /// Teacher.
        teacher: String,
        /// Oldest version allowed.
        version: u64,
    },
    /// Student worker: servers or versions of a teacher changed.
    Endpoints(Endpoints),
    /// The run has ended.
    Finish(String),
}

/// One teacher as its students see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Teacher.
    pub teacher: String,
    /// Servers in the routing.
    pub addresses: Vec<String>,
    /// Version that serves.
    pub active: Option<u64>,
    /// Oldest version allowed.
    pub floor: u64,
}

/// What the shell carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Over the worker's control stream; lost if it has none (it learns at its next registration).
    Send {
        /// To whom.
        worker: String,
        /// What.
        message: Message,
    },
    /// Average the parked contributions and answer them.
    CloseRound(ClosedRound),
    /// Answer these parked contributions with ABORTED: their round has no state to join.
    AbortRound {
        /// Workers concerned.
        workers: Vec<String>,
    },
}

/// A request to join.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// What the process does.
    pub role: Role,
    /// Its name.
    pub worker: String,
    /// Digest of its data set.
    pub dataset_digest: String,
    /// Teacher servers: where students reach it.
    pub address: String,
    /// Device, for the status.
    pub device: String,
}

/// A granted registration.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// Names every later write.
    pub session: Session,
    /// Group to train or teacher to serve.
    pub part: String,
    /// Student workers: how to begin.
    pub start: Option<(Start, RoundPlan)>,
    /// Student workers: their teachers.
    pub teachers: Vec<Endpoints>,
    /// Teacher servers: versions to load, oldest first.
    pub stage: Vec<u64>,
    /// Teacher servers: version that serves.
    pub active: Option<u64>,
}

/// A heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heartbeat {
    /// Samples per second.
    pub rate: f64,
    /// Student workers: floors that hold there.
    pub floors: BTreeMap<String, u64>,
    /// Frames refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Teacher servers: versions ready.
    pub staged: BTreeSet<u64>,
    /// Teacher servers: version that serves.
    pub active: Option<u64>,
    /// Teacher servers: samples waiting.
    pub queued: u64,
    /// Teacher servers: why answers are worthless; empty: they are fine.
    pub unhealthy: String,
}

/// A live process.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its session.
    pub session: Session,
    /// Group it trains or teacher it serves.
    pub part: String,
    /// Device.
    pub device: String,
    /// Last sign of life.
    pub last_seen: Millis,
    /// Its newest heartbeat.
    pub heartbeat: Heartbeat,
}

/// State of one run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its plan.
    pub spec: RunSpec,
    term: u64,
    state: State,
    reason: String,
    accepted: Millis,
    started: Option<Millis>,
    members: BTreeMap<String, Member>,
    incarnations: BTreeMap<String, u64>,
    groups: Vec<Group>,
    teachers: Vec<Teacher>,
    waiting_for: BTreeMap<String, Reason>,
    lost_rejections: BTreeMap<String, BTreeMap<String, u64>>,
    commands: VecDeque<Command>,
    events: VecDeque<(Millis, String)>,
    revision: u64,
}

impl Run {
    /// A run before anybody joined.
    pub fn new(spec: RunSpec, term: u64, now: Millis) -> Self {
        let groups = spec
            .groups
            .iter()
            .map(|g| Group::new(g.clone(), spec.positions))
            .collect();
        let teachers: Vec<Teacher> = spec.teachers.iter().map(|t| Teacher::new(t.clone())).collect();
        let state = if teachers.iter().all(|t| t.spec.trained) {
            State::Running
        } else {
            State::Waiting
        };
        Self {
            spec,
            term,
            state,
            reason: String::new(),
            accepted: now,
            started: None,
            members: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            groups,
            teachers,
            waiting_for: BTreeMap::new(),
            lost_rejections: BTreeMap::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            revision: 1,
        }
    }

    /// The next thing to carry out.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When `handle_timeout` must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let oldest = self.members.values().map(|m| m.last_seen).min()?;
        Some(oldest.plus(self.spec.lease_ttl))
    }

    /// Ends the sessions of silent members.
    pub fn handle_timeout(&mut self, now: Millis) {
        let silent: Vec<String> = self
            .members
            .values()
            .filter(|m| now.since(m.last_seen) >= self.spec.lease_ttl)
            .map(|m| m.session.worker.clone())
            .collect();
        for worker in silent {
            self.remove(&worker, "its lease ran out", now);
        }
    }

    /// Whether a process of this role would get a part.
    pub fn wants(&self, role: Role) -> bool {
        !self.state.ended() && self.state != State::Stopping && self.vacant_part(role, "").is_some()
    }

    /// Takes a process in.
    pub fn register(&mut self, r: Registration, now: Millis) -> Result<Admission, Refusal> {
        if r.dataset_digest != self.spec.dataset_digest {
            return Err(Refusal::Mismatch(format!(
                "data set digest of {} is {:?}, the run's is {:?}: both must read the same data",
                r.worker, r.dataset_digest, self.spec.dataset_digest
            )));
        }
        if self.state.ended() {
            return Err(Refusal::Gone(format!(
                "run {} is {}",
                self.spec.id,
                self.state.name()
            )));
        }
        let previous = self
            .members
            .get(&r.worker)
            .map(|m| m.part.clone())
            .unwrap_or_default();
        if self.members.contains_key(&r.worker) {
            self.remove(&r.worker, "it registered again", now);
        }
        let part = self
            .vacant_part(r.role, &previous)
            .ok_or_else(|| Refusal::NoPart {
                run: self.spec.id.clone(),
                role: r.role,
            })?;
        let incarnation = self.incarnations.entry(r.worker.clone()).or_default();
        *incarnation += 1;
        let session = Session {
            run: self.spec.id.clone(),
            role: r.role,
            worker: r.worker.clone(),
            incarnation: *incarnation,
            term: self.term,
        };
        let mut admission = Admission {
            session: session.clone(),
            part: part.clone(),
            start: None,
            teachers: Vec::new(),
            stage: Vec::new(),
            active: None,
        };
        let mut member = Member {
            session: session.clone(),
            part: part.clone(),
            device: r.device,
            last_seen: now,
            heartbeat: Heartbeat::default(),
        };
        match r.role {
            Role::TeacherServer => {
                let max_staleness = self.spec.max_staleness;
                let teacher = self.teacher_mut(&part).expect("a vacant part exists");
                admission.stage = teacher.join(&r.worker, &r.address, max_staleness);
                admission.active = teacher.active;
            }
            Role::StudentWorker => {
                let group = self.group_mut(&part).expect("a vacant part exists");
                admission.start = Some(group.admit(&r.worker, session.incarnation, now));
                let teachers = group.spec.teachers.clone();
                admission.teachers = teachers.iter().filter_map(|t| self.endpoints(t)).collect();
                member.heartbeat.floors = admission
                    .teachers
                    .iter()
                    .map(|e| (e.teacher.clone(), e.floor))
                    .collect();
            }
        }
        self.members.insert(r.worker.clone(), member);
        self.event(
            now,
            format!(
                "{} {} joined as {part} (incarnation {})",
                r.role, r.worker, session.incarnation
            ),
        );
        Ok(admission)
    }

    /// A sign of life; refused for any session but the current one.
    pub fn heartbeat(&mut self, session: &Session, heartbeat: Heartbeat, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        let member = self.members.get_mut(&session.worker).expect("authorised");
        member.last_seen = now;
        let part = member.part.clone();
        let changed = member.heartbeat.floors != heartbeat.floors
            || member.heartbeat.staged != heartbeat.staged
            || member.heartbeat.unhealthy != heartbeat.unhealthy;
        member.heartbeat = heartbeat.clone();
        if session.role == Role::TeacherServer {
            self.server_heartbeat(&part, &session.worker, &heartbeat, now);
        }
        if changed {
            self.advance_teachers(now);
        }
        Ok(())
    }

    fn server_heartbeat(&mut self, part: &str, worker: &str, heartbeat: &Heartbeat, now: Millis) {
        let Some(server) = self.teacher_mut(part).and_then(|t| t.servers.get_mut(worker)) else {
            return;
        };
        server.staged = heartbeat.staged.clone();
        server.active = heartbeat.active;
        if server.drained != heartbeat.unhealthy {
            server.drained = heartbeat.unhealthy.clone();
            let text = format!(
                "teacher {part}: server {worker} leaves the routing: {}",
                heartbeat.unhealthy
            );
            self.event(now, text);
            self.tell_students(part);
        }
    }

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

    fn progress(&self, group: &Group) -> Progress {
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

    fn close_round_if_ready(&mut self, part: &str, now: Millis) {
        let Some(group) = self.group(part).filter(|g| g.ready()) else {
            return;
        };
        let next = self.next_round(group);
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

    /// What the version that this session uploads will contain.
    pub fn ticket(&self, session: &Session, generation: u64, round: u64) -> Result<Ticket, Refusal> {
        self.authorise(session)?;
        let part = &self.members[&session.worker].part;
        let group = self.group(part).expect("a member's part exists");
        group.ticket(&session.worker, generation, round)
    }

    /// The ticket's manifest is durable.
    pub fn published(&mut self, ticket: &Ticket, held_out: Option<Evaluation>, now: Millis) {
        let Some(group) = self.groups.iter_mut().find(|g| g.spec.name == ticket.group) else {
            return;
        };
        let closed = group.published(ticket, now);
        let (kind, done, epoch) = (group.spec.kind, group.is_done(), ticket.epoch);
        let name = ticket.group.clone();
        if kind == GroupKind::Teacher {
            let index = Timetable::new(&self.spec, &group.spec).index_at(ticket.positions);
            if let Some(teacher) = self.teacher_mut(&name) {
                teacher.publish(ticket.version, index, held_out);
            }
            self.advance_teachers(now);
        }
        if closed {
            self.event(
                now,
                format!(
                    "group {name}: epoch {epoch} is durable in version {}",
                    ticket.version
                ),
            );
        }
        if done && self.groups.iter().all(Group::is_done) {
            self.end(State::Done, "all groups are done".into(), now);
        }
        self.revision += 1;
        self.stop_if_safe(now);
    }

    /// A fixed teacher was provided.
    pub fn provided(
        &mut self,
        teacher: &str,
        held_out: Option<Evaluation>,
        now: Millis,
    ) -> Result<(), Refusal> {
        let fixed = self.teacher_mut(teacher).filter(|t| !t.spec.trained);
        let Some(fixed) = fixed else {
            return Err(Refusal::Invalid(format!(
                "{teacher} is no fixed teacher of this run"
            )));
        };
        if fixed.newest().is_some() {
            return Err(Refusal::Invalid(format!("teacher {teacher} was provided before")));
        }
        fixed.publish(0, 0, held_out);
        if self.state == State::Waiting
            && self
                .teachers
                .iter()
                .all(|t| t.spec.trained || t.newest().is_some())
        {
            self.state = State::Running;
        }
        self.event(now, format!("teacher {teacher} was provided"));
        self.advance_teachers(now);
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

    /// Ends the run in order.
    pub fn stop(&mut self, reason: &str, now: Millis) {
        if self.state.ended() || self.state == State::Stopping {
            return;
        }
        self.state = State::Stopping;
        self.reason = reason.to_owned();
        self.event(now, format!("stopping: {reason}"));
        self.stop_if_safe(now);
    }

    fn stop_if_safe(&mut self, now: Millis) {
        let idle = |g: &Group| g.is_done() || (g.is_safe() && g.replicas().count() == 0);
        if self.state == State::Stopping && self.groups.iter().all(idle) {
            let reason = self.reason.clone();
            self.end(State::Stopped, reason, now);
        }
    }

    /// The process left in order: its session ends at once.
    pub fn leave(&mut self, session: &Session, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        self.remove(&session.worker, "it left", now);
        Ok(())
    }

    fn end(&mut self, state: State, reason: String, now: Millis) {
        if self.state.ended() {
            return;
        }
        self.state = state;
        self.event(now, format!("run is {}: {reason}", state.name()));
        self.reason = reason.clone();
        for worker in self.members.keys() {
            self.commands.push_back(Command::Send {
                worker: worker.clone(),
                message: Message::Finish(reason.clone()),
            });
        }
        let parked: Vec<String> = self.groups.iter_mut().flat_map(Group::drop_holders).collect();
        if !parked.is_empty() {
            self.commands.push_back(Command::AbortRound { workers: parked });
        }
    }

    fn remove(&mut self, worker: &str, why: &str, now: Millis) {
        let Some(member) = self.members.remove(worker) else {
            return;
        };
        let part = member.part;
        match member.session.role {
            Role::TeacherServer => {
                if let Some(teacher) = self.teacher_mut(&part) {
                    teacher.servers.remove(worker);
                }
                self.tell_students(&part);
            }
            Role::StudentWorker => {
                let lost = self.lost_rejections.entry(part.clone()).or_default();
                for (reason, count) in &member.heartbeat.rejected {
                    *lost.entry(reason.clone()).or_default() += count;
                }
                self.remove_replica(worker, &part, now);
            }
        }
        self.event(
            now,
            format!("{} {worker} ({part}) is gone: {why}", member.session.role),
        );
        // A fenced student no longer holds back a version.
        self.advance_teachers(now);
        self.stop_if_safe(now);
    }

    fn remove_replica(&mut self, worker: &str, part: &str, now: Millis) {
        let Some(group) = self.group_mut(part) else {
            return;
        };
        let (_, orphans) = group.remove(worker);
        if orphans {
            let workers = group.drop_holders();
            self.commands.push_back(Command::AbortRound { workers });
        } else {
            self.close_round_if_ready(part, now);
        }
    }

    fn advance_teachers(&mut self, now: Millis) {
        for i in 0..self.teachers.len() {
            loop {
                let name = self.teachers[i].spec.name.clone();
                let students = self.students_of(&name);
                let floors: Vec<u64> = students
                    .iter()
                    .map(|w| self.members[w].heartbeat.floors.get(&name).copied().unwrap_or(0))
                    .collect();
                let in_turn = self.spec.pace == Pace::Lockstep;
                let Some(step) = self.teachers[i].next_step(&floors, self.spec.max_staleness, in_turn) else {
                    break;
                };
                self.carry_out(&name, &students, step, now);
            }
        }
    }

    fn carry_out(&mut self, teacher: &str, students: &[String], step: Step, now: Millis) {
        let mut send = |worker: &str, message: Message| {
            self.commands.push_back(Command::Send {
                worker: worker.to_owned(),
                message,
            });
        };
        match step {
            Step::Stage { servers, version } => {
                for server in servers {
                    send(&server, Message::Stage(version));
                }
            }
            Step::RaiseFloor(version) => {
                for student in students {
                    send(
                        student,
                        Message::Floor {
                            teacher: teacher.to_owned(),
                            version,
                        },
                    );
                }
            }
            Step::Activate { version, keep_from } => {
                let servers: Vec<String> = self
                    .teacher(teacher)
                    .map(|t| t.servers.keys().cloned().collect())
                    .unwrap_or_default();
                for server in servers {
                    self.commands.push_back(Command::Send {
                        worker: server,
                        message: Message::Activate { version, keep_from },
                    });
                }
                self.event(now, format!("teacher {teacher}: version {version} serves"));
                self.tell_students(teacher);
            }
        }
    }

    /// What a worker must know now, for a control stream that begins (again): nothing is lost with
    /// a broken one.
    pub fn resync(&self, worker: &str) -> Vec<Message> {
        if self.state.ended() {
            return vec![Message::Finish(self.reason.clone())];
        }
        let Some(member) = self.members.get(worker) else {
            return Vec::new();
        };
        let mut messages = Vec::new();
        if let Some(server) = self.teacher(&member.part).and_then(|t| t.servers.get(worker)) {
            messages.extend(server.to_stage().map(Message::Stage));
            if let Some(version) = self.teacher(&member.part).and_then(|t| t.active) {
                let keep_from = version.saturating_sub(self.spec.max_staleness);
                messages.push(Message::Activate { version, keep_from });
            }
        } else if let Some(group) = self.group(&member.part) {
            for endpoints in group.spec.teachers.iter().filter_map(|t| self.endpoints(t)) {
                let (teacher, version) = (endpoints.teacher.clone(), endpoints.floor);
                messages.push(Message::Endpoints(endpoints));
                messages.push(Message::Floor { teacher, version });
            }
        }
        messages
    }

    fn tell_students(&mut self, teacher: &str) {
        let Some(endpoints) = self.endpoints(teacher) else {
            return;
        };
        for worker in self.students_of(teacher) {
            self.commands.push_back(Command::Send {
                worker,
                message: Message::Endpoints(endpoints.clone()),
            });
        }
    }

    fn endpoints(&self, teacher: &str) -> Option<Endpoints> {
        let t = self.teacher(teacher)?;
        let addresses = t
            .routed()
            .filter(|(_, s)| t.active.is_none_or(|a| s.staged.contains(&a)))
            .map(|(_, s)| s.address.clone())
            .collect();
        Some(Endpoints {
            teacher: teacher.to_owned(),
            addresses,
            active: t.active,
            floor: t.floor,
        })
    }

    /// Live workers whose group learns from `teacher`.
    fn students_of(&self, teacher: &str) -> Vec<String> {
        let learns = |m: &Member| {
            m.session.role == Role::StudentWorker
                && self
                    .group(&m.part)
                    .is_some_and(|g| g.spec.teachers.iter().any(|t| t == teacher))
        };
        self.members
            .values()
            .filter(|m| learns(m))
            .map(|m| m.session.worker.clone())
            .collect()
    }

    fn vacant_part(&self, role: Role, previous: &str) -> Option<String> {
        let taken = |part: &str| {
            self.members
                .values()
                .filter(|m| m.session.role == role && m.part == part)
                .count()
        };
        let parts: Vec<(&str, u32)> = match role {
            Role::TeacherServer => self
                .teachers
                .iter()
                .map(|t| (t.spec.name.as_str(), t.spec.replicas))
                .collect(),
            Role::StudentWorker => self
                .groups
                .iter()
                .filter(|g| !g.is_done())
                .map(|g| (g.spec.name.as_str(), g.spec.replicas))
                .collect(),
        };
        let vacant: Vec<(&str, u32)> = parts
            .into_iter()
            .filter(|(p, n)| taken(p) < *n as usize)
            .collect();
        // Its former part first, then one that nobody works on, then any.
        let part = vacant
            .iter()
            .find(|(p, _)| *p == previous)
            .or_else(|| vacant.iter().find(|(p, _)| taken(p) == 0))
            .or_else(|| vacant.first())?;
        Some(part.0.to_owned())
    }

    fn authorise(&self, session: &Session) -> Result<(), Refusal> {
        let fenced = |detail: String| {
            Err(Refusal::Fenced {
                worker: session.worker.clone(),
                detail,
            })
        };
        if session.term != self.term {
            return fenced(format!(
                "term {} is not the current term {}",
                session.term, self.term
            ));
        }
        match self.members.get(&session.worker) {
            None => fenced("it has ended".into()),
            Some(m) if m.session != *session => fenced(format!(
                "incarnation {} was followed by {}",
                session.incarnation, m.session.incarnation
            )),
            Some(_) => Ok(()),
        }
    }

    fn event(&mut self, now: Millis, text: String) {
        if self.events.len() == EVENT_LIMIT {
            self.events.pop_front();
        }
        self.events.push_back((now, text));
        self.revision += 1;
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.spec.name == name)
    }

    fn group_mut(&mut self, name: &str) -> Option<&mut Group> {
        self.groups.iter_mut().find(|g| g.spec.name == name)
    }

    fn teacher(&self, name: &str) -> Option<&Teacher> {
        self.teachers.iter().find(|t| t.spec.name == name)
    }

    fn teacher_mut(&mut self, name: &str) -> Option<&mut Teacher> {
        self.teachers.iter_mut().find(|t| t.spec.name == name)
    }
}

/// Read-only views, for the status.
impl Run {
    /// Where the run stands, and why it ended.
    pub fn state(&self) -> (State, &str) {
        (self.state, &self.reason)
    }

    /// Counts changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When it was accepted, and when the first lease was granted.
    pub fn times(&self) -> (Millis, Option<Millis>) {
        (self.accepted, self.started)
    }

    /// All groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All teachers.
    pub fn teachers(&self) -> &[Teacher] {
        &self.teachers
    }

    /// Whether this very life of the worker takes part in a round.
    pub fn is_replica(&self, session: &Session) -> bool {
        self.authorise(session).is_ok()
            && self
                .groups
                .iter()
                .any(|g| g.replicas().any(|r| r == session.worker))
    }

    /// Live members.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Newest events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &(Millis, String)> {
        self.events.iter()
    }

    /// Why the group's last request for work got none.
    pub fn waiting_for(&self, group: &str) -> Option<Reason> {
        self.waiting_for.get(group).copied()
    }

    /// Frames that a group's workers refused, by reason, members that are gone included.
    pub fn rejected_frames(&self, group: &str) -> BTreeMap<String, u64> {
        let mut all = self.lost_rejections.get(group).cloned().unwrap_or_default();
        for member in self.members.values().filter(|m| m.part == group) {
            for (reason, count) in &member.heartbeat.rejected {
                *all.entry(reason.clone()).or_default() += count;
            }
        }
        all
    }
}

/// One position that can't be trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Epoch.
    pub epoch: u32,
    /// Position.
    pub position: u64,
    /// Sample there.
    pub sample: u32,
    /// What is wrong with it.
    pub reason: String,
}

/// How far a lease may reach.
struct Window {
    blocks: u32,
    exact: BTreeMap<String, u64>,
}
