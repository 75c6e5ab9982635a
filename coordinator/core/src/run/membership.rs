//! Who takes part: registration, heartbeats, and how a session ends.

use crate::ids::{Millis, Refusal, Role, Session};
use crate::run::{Admission, Command, Heartbeat, Member, Registration, Run, State};

impl Run {
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

    pub(super) fn server_heartbeat(&mut self, part: &str, worker: &str, heartbeat: &Heartbeat, now: Millis) {
        let Some(server) = self.teacher_mut(part).and_then(|t| t.servers.get_mut(worker)) else {
            return;
        };
        let staged = server.staged != heartbeat.staged;
        server.staged = heartbeat.staged.clone();
        server.active = heartbeat.active;
        let drained = server.drained != heartbeat.unhealthy;
        if drained {
            server.drained = heartbeat.unhealthy.clone();
            let text = format!(
                "teacher {part}: server {worker} leaves the routing: {}",
                heartbeat.unhealthy
            );
            self.event(now, text);
        }
        // A server that came back is of use once it has loaded the active version.
        if drained || staged {
            self.tell_students(part);
        }
    }

    /// The process left in order: its session ends at once.
    pub fn leave(&mut self, session: &Session, now: Millis) -> Result<(), Refusal> {
        self.authorise(session)?;
        self.remove(&session.worker, "it left", now);
        Ok(())
    }

    pub(super) fn remove(&mut self, worker: &str, why: &str, now: Millis) {
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

    pub(super) fn remove_replica(&mut self, worker: &str, part: &str, now: Millis) {
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

    pub(super) fn vacant_part(&self, role: Role, previous: &str) -> Option<String> {
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

    pub(super) fn authorise(&self, session: &Session) -> Result<(), Refusal> {
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

    /// When `handle_timeout` must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let oldest = self.members.values().map(|m| m.last_seen).min()?;
        Some(oldest.plus(self.spec.lease_ttl))
    }
}
