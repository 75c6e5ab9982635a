//! Who takes part: registration, heartbeats, and how a session ends.

use retort_data::ranges::RangeSet;

use crate::ids::{Millis, Refusal, Role, Session};
use crate::record::Key;
use crate::round::Start;
use crate::run::{Admission, Command, Heartbeat, Kind, Member, Registration, Run, State};

/// Members of a run at a time. The control plane was simulated with a thousand workers; four times as many are a mistake,
/// or somebody who registers without end.
const MAX_MEMBERS: usize = 4_096;
/// Names that ever registered with a run, whose incarnations are counted as long as it lasts. A pod that is started again
/// may have a new name, so there can be many more than members.
const MAX_NAMES: usize = 65_536;

impl Run {
    /// Whether this process would get a part.
    pub fn wants(&self, role: Role, worker: &str) -> bool {
        let open = !self.state.ended() && self.state != State::Stopping;
        let known = self.members.get(worker).is_some_and(|m| m.session.role == role);
        open && !self.drained.contains(worker) && (known || self.vacant_part(role, "").is_some())
    }

    /// Takes a process in.
    pub fn register(&mut self, r: Registration, now: Millis) -> Result<Admission, Refusal> {
        self.check_registration(&r)?;
        self.check_room(&r.worker)?;
        let former = self.members.get(&r.worker).map(|m| m.part.clone());
        let claimed = r.claim.as_ref().map(|c| c.part.clone());
        let previous = former.clone().or(claimed).unwrap_or_default();
        self.wait_for_former(&r, &previous, now)?;
        if former.is_some() {
            let died = r.claim.is_none();
            self.remove(&r.worker, died, "it registered again", now);
        }
        let part = self
            .vacant_part(r.role, &previous)
            .ok_or_else(|| Refusal::NoPart {
                run: self.spec.id.clone(),
                role: r.role,
            })?;
        if r.role == Role::StudentWorker && part != previous {
            self.wait_for_former(&r, &part, now)?;
        }
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
            poison: Vec::new(),
            stage: Vec::new(),
            active: None,
        };
        let mut member = Member {
            session: session.clone(),
            part: part.clone(),
            last_seen: now,
            heartbeat: Heartbeat::default(),
            address: r.address,
            registered: (r.process, r.attempt),
            answered: None,
            void_until: 0,
            released: RangeSet::new(),
        };
        match r.role {
            Role::TeacherServer => {
                let max_staleness = self.spec.max_staleness;
                let teacher = self.teacher_mut(&part).expect("a vacant part exists");
                admission.stage = teacher.join(&r.worker, &member.address, max_staleness);
                admission.active = teacher.active;
            }
            Role::StudentWorker => {
                let group = self.group_mut(&part).expect("a vacant part exists");
                let who = (r.worker.as_str(), session.incarnation);
                let (start, plan) = group.admit(who, r.claim.as_ref(), now);
                admission.poison = group.poison().copied().collect();
                let teachers = group.spec.teachers.clone();
                admission.teachers = teachers.iter().filter_map(|t| self.endpoints(t)).collect();
                // What is resumed may hold older frames; whoever starts anew has none. A floor that
                // fell with lost versions is held no higher than it is.
                let resumes = matches!(start, Start::Resume(_));
                let floors = admission.teachers.iter().map(|e| {
                    let claimed = r.floors.get(&e.teacher).copied().unwrap_or(0);
                    let held = if resumes { claimed.min(e.floor) } else { e.floor };
                    (e.teacher.clone(), held)
                });
                member.heartbeat.floors = floors.collect();
                admission.start = Some((start, plan));
            }
        }
        self.add_member(member);
        self.dirty.insert(Key::Member(r.worker.clone()));
        self.event(
            now,
            Kind::Member,
            format!(
                "{} {} joined as {part} (incarnation {})",
                r.role, r.worker, session.incarnation
            ),
        );
        Ok(admission)
    }

    /// Whether one more process can be remembered, or it is known.
    fn check_room(&self, worker: &str) -> Result<(), Refusal> {
        let full = |limit, what| Refusal::Full {
            run: self.spec.id.clone(),
            limit,
            what,
        };
        if self.members.get(worker).is_none() && self.members.names().len() >= MAX_MEMBERS {
            return Err(full(MAX_MEMBERS, "members"));
        }
        if !self.incarnations.contains_key(worker) && self.incarnations.len() >= MAX_NAMES {
            return Err(full(MAX_NAMES, "names of members"));
        }
        Ok(())
    }

    fn check_registration(&self, r: &Registration) -> Result<(), Refusal> {
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
        let known = self.members.get(&r.worker).map(|m| m.registered);
        if known.is_some_and(|(process, attempt)| process == r.process && r.attempt <= attempt) {
            // Its process has registered since, and may be training: this copy must not fence it.
            return Err(Refusal::Gone(format!("{} has registered since", r.worker)));
        }
        if self.drained.contains(&r.worker) {
            return Err(Refusal::Gone(format!(
                "{} was asked to leave run {}",
                r.worker, self.spec.id
            )));
        }
        Ok(())
    }

    /// Refuses for now if former replicas of the part may still come back with its state.
    fn wait_for_former(&mut self, r: &Registration, part: &str, now: Millis) -> Result<(), Refusal> {
        let claim = r.claim.as_ref();
        let Some(group) = self.group_mut(part).filter(|_| r.role == Role::StudentWorker) else {
            return Ok(());
        };
        if !group.must_wait(&r.worker, claim) {
            return Ok(());
        }
        if let Some(member) = self.members.get_mut(&r.worker) {
            member.last_seen = now;
        }
        Err(Refusal::Wait {
            run: self.spec.id.clone(),
            part: part.to_owned(),
        })
    }

    pub(super) fn add_member(&mut self, member: Member) {
        let key = (member.session.role, member.part.clone());
        *self.taken.entry(key).or_default() += 1;
        if self.members.is_empty() {
            self.looked = member.last_seen;
        }
        let silent_at = member.last_seen.plus(self.spec.lease_ttl);
        self.quiet_until = self.quiet_until.min(silent_at);
        let worker = member.session.worker.clone();
        self.members.insert(&worker, member);
    }

    /// A sign of life; refused for any session but the current one.
    pub fn heartbeat(&mut self, session: &Session, heartbeat: Heartbeat, now: Millis) -> Result<(), Refusal> {
        let member = self.authorise_mut(session)?;
        // Signs of life may arrive out of order.
        member.last_seen = member.last_seen.max(now);
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

    pub(super) fn server_heartbeat(&mut self, part: &str, worker: &str, heartbeat: &Heartbeat, now: Millis) {
        let Some(server) = self.teacher_mut(part).and_then(|t| t.servers.get_mut(worker)) else {
            return;
        };
        let staged = server.staged != heartbeat.staged || server.active != heartbeat.active;
        server.staged = heartbeat.staged.clone();
        server.active = heartbeat.active;
        let drained = server.drained != heartbeat.unhealthy;
        if drained {
            server.drained = heartbeat.unhealthy.clone();
            let text = format!(
                "teacher {part}: server {worker} leaves the routing: {}",
                heartbeat.unhealthy
            );
            self.event(now, Kind::Member, text);
        }
        // A server that came back is of use once it has loaded the active version.
        if drained || staged {
            self.tell_students(part);
        }
    }

    /// A process's control stream begins, or broke: a teacher server that nobody can command holds
    /// back no version.
    pub fn set_attached(&mut self, worker: &str, attached: bool, now: Millis) {
        let Some(part) = self.members.get(worker).map(|m| m.part.clone()) else {
            return;
        };
        if let Some(server) = self.teacher_mut(&part).and_then(|t| t.servers.get_mut(worker)) {
            server.away = !attached;
            self.advance_teachers(now);
        }
    }

    /// The process left in order: its session ends at once.
    pub fn leave(&mut self, session: &Session, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        self.remove(&session.worker, false, "it left", now);
        Ok(())
    }

    pub(super) fn remove(&mut self, worker: &str, died: bool, why: &str, now: Millis) {
        let Some(member) = self.members.remove(worker) else {
            return;
        };
        self.departures += 1;
        self.dirty.insert(Key::Member(worker.to_owned()));
        let part = member.part;
        if let Some(count) = self.taken.get_mut(&(member.session.role, part.clone())) {
            *count -= 1;
        }
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
                self.remove_replica(worker, died, &part, now);
            }
        }
        self.event(
            now,
            Kind::Member,
            format!("{} {worker} ({part}) is gone: {why}", member.session.role),
        );
        // A fenced student no longer holds back a version.
        self.advance_teachers(now);
        self.stop_if_safe(now);
    }

    fn remove_replica(&mut self, worker: &str, died: bool, part: &str, now: Millis) {
        let Some(group) = self.group_mut(part) else {
            return;
        };
        let guilty = group.remove(worker, died);
        if group.is_orphaned() {
            let workers = group.drop_holders();
            self.commands.push_back(Command::AbortRound { workers });
        } else {
            self.close_round_if_ready(part, now);
        }
        self.quarantined(part, guilty, now);
    }

    /// The member whose session this is; refused for any but the current one.
    pub fn authorise(&self, session: &Session) -> Result<&Member, Refusal> {
        let member = self.members.get(&session.worker);
        match member.filter(|m| m.session == *session && session.term == self.term) {
            Some(member) => Ok(member),
            None => Err(self.fenced(session)),
        }
    }

    pub(super) fn authorise_mut(&mut self, session: &Session) -> Result<&mut Member, Refusal> {
        // Looked up twice only where it is refused.
        let fits = |m: &Member| m.session == *session && session.term == self.term;
        if !self.members.get(&session.worker).is_some_and(fits) {
            return Err(self.fenced(session));
        }
        Ok(self.members.get_mut(&session.worker).expect("looked up above"))
    }

    fn fenced(&self, session: &Session) -> Refusal {
        let detail = match self.members.get(&session.worker) {
            _ if session.term != self.term => {
                format!("term {} is not the current term {}", session.term, self.term)
            }
            None => "it has ended".into(),
            Some(m) => format!(
                "incarnation {} was followed by {}",
                session.incarnation, m.session.incarnation
            ),
        };
        Refusal::Fenced {
            worker: session.worker.clone(),
            detail,
        }
    }

    /// Ends the sessions of silent members, and takes the leases of overdue ones.
    pub fn handle_timeout(&mut self, now: Millis) {
        self.excuse_absence(now);
        if now >= self.quiet_until {
            let ttl = self.spec.lease_ttl;
            let silent: Vec<String> = self
                .members
                .values()
                .filter(|m| now.since(m.last_seen) >= ttl)
                .map(|m| m.session.worker.clone())
                .collect();
            for worker in silent {
                self.remove(&worker, true, "its lease ran out", now);
            }
            let next = self.members.values().map(|m| m.last_seen.plus(ttl)).min();
            self.quiet_until = next.unwrap_or(Millis(u64::MAX));
        }
        if self.overdue_check.is_some_and(|at| now >= at) {
            self.revoke_overdue(now);
        }
        let ttl = self.spec.lease_ttl;
        if self.teachers.iter().any(|t| t.waits_in_vain(now, ttl)) {
            self.advance_teachers(now);
        }
        self.compare_servers(now);
        self.attend(now);
    }

    /// If it was the coordinator that was stopped, nobody is silent for that: what they sent
    /// meanwhile has not been read yet.
    fn excuse_absence(&mut self, now: Millis) {
        let gap = now.since(self.looked);
        self.looked = now;
        if gap <= self.spec.lease_ttl / 2 || self.members.is_empty() {
            return;
        }
        for member in self.members.values_mut() {
            member.last_seen = member.last_seen.plus(gap).min(now);
        }
        self.quiet_until = self.quiet_until.plus(gap);
        self.event(
            now,
            Kind::Run,
            format!("the coordinator did nothing for {gap} ms: leases are extended"),
        );
    }

    fn revoke_overdue(&mut self, now: Millis) {
        let ttl = self.spec.lease_ttl;
        for i in 0..self.groups.len() {
            let part = self.groups[i].spec.name.clone();
            let late = self.groups[i].revoke_overdue(ttl, now);
            let revocation = self.groups[i].revocation();
            for worker in &late {
                if let Some(member) = self.members.get_mut(worker)
                    && let Some((at, _)) = member.answered.take()
                {
                    member.void_until = at;
                }
                self.send(worker, revocation.clone());
                self.event(
                    now,
                    Kind::Member,
                    format!("group {part}: {worker} is overdue, its leases are revoked"),
                );
            }
            if !late.is_empty() {
                self.close_round_if_ready(&part, now);
            }
        }
        let waits = self.groups.iter().any(|g| g.somebody_waits());
        self.overdue_check = waits.then(|| now.plus(self.spec.heartbeat));
    }

    /// When `handle_timeout` must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        if self.members.is_empty() {
            return None;
        }
        let look = self.looked.plus(self.spec.lease_ttl / 4);
        let quiet = [self.quiet_until, look];
        let averages = self.teachers.iter().filter_map(|t| t.average_after);
        // One that is due already is made at the next occasion, whatever that is.
        let averages = averages.filter(|at| *at > self.looked);
        let all = quiet.into_iter().chain(self.overdue_check).chain(averages);
        all.min()
    }
}
