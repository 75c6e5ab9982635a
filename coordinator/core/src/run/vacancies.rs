//! Which part a process gets, and who moves when a group has nobody.

use crate::group::Group;
use crate::ids::{Millis, Role};
use crate::run::{Kind, Message, Run, State};
use crate::teacher::Teacher;

impl Run {
    /// A part with room. Its former one comes first, unless that has others and some part has nobody. Servers beyond what
    /// the job wants go where the fewest are.
    pub(super) fn vacant_part(&self, role: Role, previous: &str) -> Option<String> {
        let taken = |part: &str| self.taken.get(&(role, part.to_owned())).copied().unwrap_or(0);
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
        let vacant = || parts.iter().filter(|(p, n)| taken(p) < *n);
        let former = vacant().find(|(p, _)| *p == previous);
        let part = former
            .filter(|(p, _)| taken(p) == 0)
            .or_else(|| vacant().find(|(p, _)| taken(p) == 0))
            .or(former)
            .or_else(|| vacant().next());
        let fewest = || parts.iter().min_by_key(|(p, _)| taken(p));
        let spare = || fewest().filter(|_| role == Role::TeacherServer);
        Some(part.or_else(spare)?.0.to_owned())
    }

    /// A group that is not done and has nobody, for which all the others may have to wait.
    pub(super) fn unattended(&self) -> Option<&str> {
        let alone = |g: &&Group| !g.is_done() && g.replicas().len() == 0 && !g.is_reclaiming();
        self.groups.iter().find(alone).map(|g| g.spec.name.as_str())
    }

    /// Where a part has had nobody for the time of a lease, somebody whom others can replace is asked to leave and registers
    /// again, for that part. A replica's session does not end before it has left: it may be training on a version that
    /// others have done with.
    pub(super) fn attend(&mut self, now: Millis) {
        let running = self.state == State::Running;
        let Some((part, spare)) = self.lacking().filter(|_| running) else {
            return self.unattended_since = None;
        };
        let since = *self.unattended_since.get_or_insert(now);
        if now.since(since) < self.spec.lease_ttl {
            return;
        }
        if let Some(worker) = spare {
            self.unattended_since = None;
            self.event(
                now,
                Kind::Member,
                format!("{worker} is asked to leave: {part} has nobody"),
            );
            self.send(&worker, Message::Finish(format!("{part} has nobody")));
        }
    }

    /// A part that has nobody, and who could go there.
    fn lacking(&self) -> Option<(String, Option<String>)> {
        let group = self
            .unattended()
            .map(|name| (format!("group {name}"), self.spare_replica()));
        match &group {
            Some((_, Some(_))) => group,
            _ => self.unserved().or(group),
        }
    }

    fn unserved(&self) -> Option<(String, Option<String>)> {
        let unserved = self.teachers.iter().find(|t| t.servers.is_empty())?;
        let more_than_wanted = |t: &&Teacher| t.servers.len() > t.spec.replicas as usize;
        let others = self.teachers.iter().find(more_than_wanted)?;
        let server = others.servers.keys().next().cloned();
        Some((format!("teacher {}", unserved.spec.name), server))
    }

    fn spare_replica(&self) -> Option<String> {
        let replaceable = |g: &&Group| !g.is_reclaiming();
        self.groups.iter().filter(replaceable).find_map(|g| {
            let mut others = g.replicas().filter(|w| g.has_other_keeper(w));
            let joining = others.clone().find(|w| g.is_joining(w));
            joining.or(others.next()).map(str::to_owned)
        })
    }
}
