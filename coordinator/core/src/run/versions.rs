//! What teachers serve: published versions on their way to students.

use crate::group::Group;
use crate::ids::{Millis, Refusal, Role, Session};
use crate::names::ByName;
use crate::pace::{self, Blocks, Timetable};
use crate::record::Key;
use crate::round::{Evaluation, Ticket};
use crate::run::{Command, Endpoints, Kind, Member, Message, Run, State};
use crate::spec::{Pace, Source, Which};
use crate::teacher::{Floors, Server, Step, Teacher};

/// Pause after an average that could not be made, ms.
const RETRY: u64 = 1_000;

/// An average to be made: `kept` times the one before, and the rest of the group's version.
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    /// Teacher whose version it becomes.
    pub teacher: String,
    /// Group that is averaged.
    pub of: String,
    /// Its newest version, and the number of the average.
    pub version: u64,
    /// See [`Average::kept`].
    pub decay: f64,
    /// The newest average so far; `None`: this is the first, a copy.
    pub before: Option<u64>,
}

impl Average {
    /// How much of the average over the first `from` steps is left after `to` steps: the product over the steps
    /// t between of `min(decay, t / (t + 1))`. The average so begins as the mean of all states, and forgets them once it
    /// has seen `decay / (1 - decay)`. Tarvainen and Valpola, Mean teachers are better role models, 2017,
    /// <https://arxiv.org/abs/1703.01780> (their ramp-up of the decay).
    pub fn kept(&self, from: u64, to: u64) -> f64 {
        // Up to here t / (t + 1) is the smaller one, afterwards the decay.
        let full = (self.decay / (1.0 - self.decay)).floor() as u64;
        let early = to.clamp(from, full.max(from));
        let rising = (from + 1) as f64 / (early + 1) as f64;
        let steps = i32::try_from(to.saturating_sub(early)).unwrap_or(i32::MAX);
        rising * self.decay.powi(steps)
    }
}

impl Run {
    /// What the version that this session uploaded contains. Once its manifest is durable, [`Run::published`] is called, or
    /// [`Run::commit_failed`]; until then nothing of it is taken back.
    pub fn ticket(&mut self, session: &Session, generation: u64, round: u64) -> Result<Ticket, Refusal> {
        let part = self.authorise(session)?.part.clone();
        let group = self.group_mut(&part).expect("a member's part exists");
        group.ticket(&session.worker, generation, round)
    }

    /// The ticket's manifest is durable.
    pub fn published(&mut self, ticket: &Ticket, held_out: Option<Evaluation>, now: Millis) {
        let Some(group) = self.groups.iter_mut().find(|g| g.spec.name == ticket.group) else {
            return;
        };
        let closed = group.published(ticket, now);
        let epoch = ticket.epoch;
        let name = ticket.group.clone();
        let in_epoch = ticket.committed.len() + ticket.quarantined.len();
        let place = u64::from(epoch) * self.spec.positions + in_epoch;
        self.note_version(&name, (ticket.version, place), held_out, now);
        // In lockstep a student's durable place holds its teacher's floor down.
        self.advance_teachers(now);
        if closed {
            self.event(
                now,
                Kind::Version,
                format!(
                    "group {name}: epoch {epoch} is durable in version {}",
                    ticket.version
                ),
            );
        }
        self.end_if_done(now);
        self.revision += 1;
        self.stop_if_safe(now);
    }

    /// The ticket's manifest could not be written; training goes on, and a later round tries again.
    pub fn commit_failed(&mut self, ticket: &Ticket, why: &str, now: Millis) {
        let part = &ticket.group;
        if let Some(group) = self.group_mut(part) {
            group.commit_failed(now);
            self.event(
                now,
                Kind::Run,
                format!("group {part}: no version could be written: {why}"),
            );
            self.stop_if_safe(now);
        }
    }

    /// The version's files could not be written; training goes on, and a later round tries again.
    pub fn publish_failed(&mut self, session: &Session, why: &str, now: Millis) {
        let Ok(part) = self.authorise(session).map(|m| m.part.clone()) else {
            return;
        };
        if let Some(group) = self.group_mut(&part) {
            group.publish_failed(&session.worker, now);
            self.event(
                now,
                Kind::Run,
                format!("group {part}: no version could be written: {why}"),
            );
        }
    }

    /// The version that a publisher made before, if its answer was lost.
    pub fn published_as(&self, session: &Session, generation: u64, round: u64) -> Option<u64> {
        let part = &self.authorise(session).ok()?.part;
        self.group(part)?.published_as(generation, round)
    }

    /// A group's version is one of its teacher's too, where it teaches. `place`: what of the order it
    /// contains.
    pub(super) fn note_version(
        &mut self,
        name: &str,
        (version, place): (u64, u64),
        held_out: Option<Evaluation>,
        now: Millis,
    ) {
        let Some(group) = self.group(name) else { return };
        let index = Timetable::new(&self.spec, &group.spec).index_at(place);
        let whole = place.is_multiple_of(self.spec.positions);
        let last = place == u64::from(group.spec.epochs) * self.spec.positions;
        let mut taught = false;
        for teacher in &mut self.teachers {
            let teaches = match &teacher.spec.source {
                Source::Group { of, which } if of == name => match which {
                    Which::Every => true,
                    Which::EpochEnds => whole,
                    Which::Last => last,
                },
                _ => false,
            };
            if teaches {
                teacher.publish(version, index, held_out);
                self.dirty
                    .insert(Key::Version(teacher.spec.name.clone(), version));
                taught = true;
            }
        }
        if taught {
            self.advance_teachers(now);
        }
    }

    /// An average that lacks the newest version of its group. It is to be made and kept like a version,
    /// then [`Run::averaged`] is called, or [`Run::average_failed`]; it is not asked for again before.
    pub fn average_due(&mut self, now: Millis) -> Option<Average> {
        let may = |t: &&Teacher| !t.averaging && t.average_after.is_none_or(|at| at <= now);
        let due = self.teachers.iter().filter(may).find_map(|t| {
            let Source::Average { of, decay } = &t.spec.source else {
                return None;
            };
            let version = self.group(of)?.version()?;
            (t.newest() < Some(version)).then(|| Average {
                teacher: t.spec.name.clone(),
                of: of.clone(),
                version,
                decay: *decay,
                before: t.newest(),
            })
        })?;
        self.teacher_mut(&due.teacher)?.averaging = true;
        Some(due)
    }

    /// The average of this number is durable.
    pub fn averaged(&mut self, teacher: &str, version: u64, now: Millis) {
        if let Some(t) = self.teacher_mut(teacher) {
            t.publish(version, version, None);
            (t.averaging, t.average_after) = (false, None);
            self.dirty.insert(Key::Version(teacher.to_owned(), version));
            self.advance_teachers(now);
            self.end_if_done(now);
        }
    }

    /// Some average lacks its group's newest version, and may have it soon.
    fn averages_lag(&self) -> bool {
        self.teachers.iter().any(|t| match &t.spec.source {
            Source::Average { of, .. } => {
                let newest = self.group(of).and_then(Group::version);
                t.averaging || t.average_after.is_none() && t.newest() < newest
            }
            _ => false,
        })
    }

    /// The average could not be made (a full disk, say): it is asked for again after a pause.
    pub fn average_failed(&mut self, teacher: &str, why: &str, now: Millis) {
        if let Some(t) = self.teacher_mut(teacher) {
            (t.averaging, t.average_after) = (false, Some(now.plus(RETRY)));
            self.event(
                now,
                Kind::Run,
                format!("teacher {teacher}: no average could be made: {why}"),
            );
            self.end_if_done(now);
        }
    }

    /// The oldest version of a group whose files some teacher may yet need.
    pub fn oldest_needed(&self, group: &str) -> Option<u64> {
        let follows = |t: &&Teacher| t.spec.source.files_of() == Some(group);
        let needed = self
            .teachers
            .iter()
            .filter(follows)
            .filter_map(Teacher::oldest_needed);
        needed.min()
    }

    pub(super) fn end_if_done(&mut self, now: Millis) {
        if !self.groups.is_empty() && self.groups.iter().all(Group::is_done) && !self.averages_lag() {
            self.end(State::Done, "all groups are done".into(), now);
        }
    }

    /// A fixed teacher was provided.
    pub fn provided(
        &mut self,
        teacher: &str,
        held_out: Option<Evaluation>,
        now: Millis,
    ) -> Result<(), Refusal> {
        let fixed = self
            .teacher_mut(teacher)
            .filter(|t| t.spec.source == Source::Fixed);
        let Some(fixed) = fixed else {
            return Err(Refusal::Invalid(format!(
                "{teacher} is no fixed teacher of this run"
            )));
        };
        if fixed.newest().is_some() {
            return Err(Refusal::Invalid(format!("teacher {teacher} was provided before")));
        }
        fixed.publish(0, 0, held_out);
        self.dirty.insert(Key::Version(teacher.to_owned(), 0));
        self.event(now, Kind::Run, format!("teacher {teacher} was provided"));
        self.start_if_provided(now);
        self.advance_teachers(now);
        Ok(())
    }

    pub(super) fn advance_teachers(&mut self, now: Millis) {
        let in_turn = self.spec.pace == Pace::Lockstep;
        for i in 0..self.teachers.len() {
            loop {
                let name = self.teachers[i].spec.name.clone();
                let needed = self.needed_version(&self.teachers[i]);
                let teacher = &mut self.teachers[i];
                let students = Students::new(&self.members, &self.groups, &name, needed);
                let times = (now, self.spec.lease_ttl);
                let Some(step) = teacher.next_step(&students, self.spec.max_staleness, in_turn, times) else {
                    break;
                };
                self.carry_out(&name, step, now);
            }
        }
    }

    /// Lockstep: the oldest version that a student group would need if it lost its state.
    fn needed_version(&self, teacher: &Teacher) -> Option<u64> {
        let name = &teacher.spec.name;
        let source = self
            .source_of(teacher)
            .filter(|_| self.spec.pace == Pace::Lockstep)?;
        let table = Timetable::new(&self.spec, &source.spec);
        let blocks = Blocks::new(&self.spec);
        let learns = |g: &&Group| g.spec.teachers.contains(name) && !g.is_done();
        let needed = self.groups.iter().filter(learns).filter_map(|g| {
            let (index, _) = pace::lockstep(&table, blocks, self.progress(g), g.ledger.settled());
            teacher.published_at(index)
        });
        needed.min()
    }

    /// The group whose versions a teacher follows.
    pub(super) fn source_of(&self, teacher: &Teacher) -> Option<&Group> {
        self.group(teacher.spec.source.of()?)
    }

    pub(super) fn carry_out(&mut self, teacher: &str, step: Step, now: Millis) {
        let students = match step {
            Step::RaiseFloor(_) => self.students_of(teacher),
            Step::Stage { .. } | Step::Activate { .. } => Vec::new(),
        };
        self.dirty.insert(Key::Teacher(teacher.to_owned()));
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
                for student in &students {
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
                self.event(
                    now,
                    Kind::Version,
                    format!("teacher {teacher}: version {version} serves"),
                );
                self.name_the_late(teacher, version, now);
                self.tell_students(teacher);
            }
        }
    }

    /// Says which servers could not load a version in time.
    fn name_the_late(&mut self, teacher: &str, version: u64, now: Millis) {
        let Some(t) = self.teacher(teacher) else { return };
        let late = t
            .routed()
            .filter(|(_, s)| !s.away && !s.staged.contains(&version));
        let say = |(worker, s): (&String, &Server)| {
            let has = s
                .active
                .map_or("no version".to_owned(), |a| format!("version {a}"));
            format!("teacher {teacher}: {worker} has not loaded version {version}, it serves {has}")
        };
        let said: Vec<String> = late.map(say).collect();
        for text in said {
            self.event(now, Kind::Version, text);
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
            if group.is_joining(worker) {
                messages.push(group.revocation());
            }
            for (epoch, position) in group.poison().copied() {
                messages.push(Message::Poison { epoch, position });
            }
        }
        if self.drained.contains(worker) && member.session.role == Role::TeacherServer {
            messages.push(Message::Finish("drained".into()));
        }
        messages
    }

    pub(super) fn tell_students(&mut self, teacher: &str) {
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

    pub(super) fn endpoints(&self, teacher: &str) -> Option<Endpoints> {
        let t = self.teacher(teacher)?;
        let exact = self.spec.pace == Pace::Lockstep;
        let addresses = t
            .routed()
            .filter(|(_, s)| t.is_usable(s, exact))
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
    pub(super) fn students_of(&self, teacher: &str) -> Vec<String> {
        let students = Students::new(&self.members, &self.groups, teacher, None);
        students.all().map(|m| m.session.worker.clone()).collect()
    }
}

/// Live workers whose group learns from a teacher.
struct Students<'a> {
    members: &'a ByName<Member>,
    groups: Vec<&'a str>,
    teacher: &'a str,
    needed: Option<u64>,
}

impl<'a> Students<'a> {
    fn new(members: &'a ByName<Member>, groups: &'a [Group], teacher: &'a str, needed: Option<u64>) -> Self {
        let learns = |g: &&Group| g.spec.teachers.iter().any(|t| t == teacher);
        Self {
            members,
            groups: groups
                .iter()
                .filter(learns)
                .map(|g| g.spec.name.as_str())
                .collect(),
            teacher,
            needed,
        }
    }

    fn is_one(&self, member: &Member) -> bool {
        member.session.role == Role::StudentWorker && self.groups.contains(&member.part.as_str())
    }

    fn all(&self) -> impl Iterator<Item = &'a Member> + '_ {
        self.members.values().filter(|m| self.is_one(m))
    }

    fn held_by(&self, member: &Member) -> u64 {
        member.heartbeat.floors.get(self.teacher).copied().unwrap_or(0)
    }
}

impl Floors for Students<'_> {
    fn needed(&self) -> Option<u64> {
        self.needed
    }

    fn of(&self, student: &str) -> Option<u64> {
        let member = self.members.get(student).filter(|m| self.is_one(m))?;
        Some(self.held_by(member))
    }

    fn below(&self, floor: u64) -> Option<String> {
        let member = self.all().find(|m| self.held_by(m) < floor)?;
        Some(member.session.worker.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn average(decay: f64) -> Average {
        Average {
            teacher: "mean".into(),
            of: "small".into(),
            version: 2,
            decay,
            before: Some(1),
        }
    }

    #[test]
    fn an_average_begins_as_a_mean_and_then_decays_by_the_step() {
        let a = average(0.9);
        assert_eq!(a.kept(0, 1), 0.5, "two states, half of each");
        assert!((a.kept(0, 3) - 0.25).abs() < 1e-12, "four states");
        assert!((a.kept(50, 60) - 0.9f64.powi(10)).abs() < 1e-12);
        assert_eq!((a.kept(7, 7), average(0.0).kept(3, 4)), (1.0, 0.0));
    }

    proptest! {
        /// How often versions are published does not change what a step weighs.
        #[test]
        fn what_is_kept_is_the_product_over_the_steps(
            decay in prop::sample::select(vec![0.0, 0.3, 0.5, 0.9, 0.95, 0.99, 0.999]),
            from in 0u64..400,
            first in 0u64..200,
            second in 0u64..200,
        ) {
            let a = average(decay);
            let (middle, to) = (from + first, from + first + second);
            let product: f64 = (from + 1..=to).map(|t| decay.min(t as f64 / (t + 1) as f64)).product();
            prop_assert!((a.kept(from, to) - product).abs() < 1e-9, "{} {product}", a.kept(from, to));
            prop_assert!((a.kept(from, middle) * a.kept(middle, to) - product).abs() < 1e-9);
        }
    }
}
