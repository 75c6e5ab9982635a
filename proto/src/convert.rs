//! Conversions between the wire and the domain.

use std::collections::BTreeMap;

use retort_coordinator_core::ids::{Role, Session};
use retort_coordinator_core::lease::{Answer, Reason};
use retort_coordinator_core::round::{Claim, Evaluation, Gate, RoundPlan, Start, Sums, Work};
use retort_coordinator_core::run::{Admission, Endpoints, Heartbeat, Message};
use retort_data::ranges::RangeSet;

use crate::{Error, pb};

/// Most ranges of one message: more means that a ledger is broken.
const MAX_RANGES: usize = 100_000;

impl From<Role> for pb::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::TeacherServer => Self::TeacherServer,
            Role::StudentWorker => Self::StudentWorker,
        }
    }
}

impl TryFrom<pb::Role> for Role {
    type Error = Error;

    fn try_from(role: pb::Role) -> Result<Self, Error> {
        match role {
            pb::Role::TeacherServer => Ok(Self::TeacherServer),
            pb::Role::StudentWorker => Ok(Self::StudentWorker),
            pb::Role::Unspecified => Err(Error::Missing("role")),
        }
    }
}

impl From<&Session> for pb::Session {
    fn from(s: &Session) -> Self {
        Self {
            run: s.run.clone(),
            role: pb::Role::from(s.role).into(),
            worker: s.worker.clone(),
            incarnation: s.incarnation,
            term: s.term,
        }
    }
}

/// A message field that must be there, converted.
pub fn required<T, U>(field: Option<T>, name: &'static str) -> Result<U, Error>
where
    U: TryFrom<T, Error = Error>,
{
    U::try_from(field.ok_or(Error::Missing(name))?)
}

impl TryFrom<pb::Session> for Session {
    type Error = Error;

    fn try_from(s: pb::Session) -> Result<Self, Error> {
        let role = pb::Role::try_from(s.role).map_err(|e| Error::invalid("session.role", e))?;
        if s.run.is_empty() {
            return Err(Error::Missing("session.run"));
        }
        if s.worker.is_empty() {
            return Err(Error::Missing("session.worker"));
        }
        Ok(Self {
            run: s.run,
            role: role.try_into()?,
            worker: s.worker,
            incarnation: s.incarnation,
            term: s.term,
        })
    }
}

/// Interval sets as messages.
pub fn ranges(set: &RangeSet) -> Vec<pb::Positions> {
    set.iter()
        .map(|r| pb::Positions {
            begin: r.start,
            end: r.end,
        })
        .collect()
}

/// Messages as an interval set; empty or overlapping ranges are refused.
pub fn ranges_from(positions: &[pb::Positions]) -> Result<RangeSet, Error> {
    if positions.len() > MAX_RANGES {
        return Err(Error::invalid("positions", format!("{} ranges", positions.len())));
    }
    let mut set = RangeSet::new();
    for p in positions {
        if p.begin >= p.end || set.insert(p.begin..p.end) != p.end - p.begin {
            return Err(Error::invalid("positions", format!("{}..{}", p.begin, p.end)));
        }
    }
    Ok(set)
}

impl From<Evaluation> for pb::Evaluation {
    fn from(e: Evaluation) -> Self {
        Self {
            loss: e.loss,
            accuracy: e.accuracy,
            samples: e.samples,
        }
    }
}

impl TryFrom<pb::Evaluation> for Evaluation {
    type Error = Error;

    /// The loss of a group that diverged is not finite.
    fn try_from(e: pb::Evaluation) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&e.accuracy) {
            return Err(Error::invalid("held_out.accuracy", e.accuracy));
        }
        Ok(Self {
            loss: e.loss,
            accuracy: e.accuracy,
            samples: e.samples,
        })
    }
}

impl From<Gate> for pb::Gate {
    fn from(g: Gate) -> Self {
        Self {
            teacher_version: g.teacher_version,
            teacher_loss: g.teacher_loss,
            student_loss: g.student_loss,
            lead: g.lead,
        }
    }
}

impl From<&RoundPlan> for pb::RoundPlan {
    fn from(p: &RoundPlan) -> Self {
        Self {
            generation: p.generation,
            round: p.round,
            steps: p.steps,
            alpha: p.alpha,
            gate: p.gate.map(Into::into),
            publish: p.publish,
            evaluate: p.evaluate,
            exchange: p.exchange,
            hand_over: p.hand_over,
            positions: p.positions,
        }
    }
}

impl TryFrom<pb::RoundPlan> for RoundPlan {
    type Error = Error;

    fn try_from(p: pb::RoundPlan) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&p.alpha) {
            return Err(Error::invalid("plan.alpha", p.alpha));
        }
        if p.steps == 0 {
            return Err(Error::invalid("plan.steps", 0));
        }
        Ok(Self {
            generation: p.generation,
            round: p.round,
            steps: p.steps,
            alpha: p.alpha,
            gate: p.gate.map(|g| Gate {
                teacher_version: g.teacher_version,
                teacher_loss: g.teacher_loss,
                student_loss: g.student_loss,
                lead: g.lead,
            }),
            publish: p.publish,
            evaluate: p.evaluate,
            exchange: p.exchange,
            hand_over: p.hand_over,
            positions: p.positions,
        })
    }
}

impl From<&(Start, RoundPlan)> for pb::StartState {
    fn from((start, plan): &(Start, RoundPlan)) -> Self {
        use pb::start_state::Kind;
        let (kind, version, held) = match start {
            Start::Init => (Kind::Init, None, Vec::new()),
            Start::Restore(version) => (Kind::Restore, Some(*version), Vec::new()),
            Start::Join(version) => (Kind::Join, *version, Vec::new()),
            Start::Resume(held) => (Kind::Resume, None, ranges(held)),
        };
        Self {
            kind: kind.into(),
            version,
            plan: Some(plan.into()),
            held,
        }
    }
}

impl TryFrom<pb::StartState> for (Start, RoundPlan) {
    type Error = Error;

    fn try_from(s: pb::StartState) -> Result<Self, Error> {
        use pb::start_state::Kind;
        let start = match s.kind() {
            Kind::Init => Start::Init,
            Kind::Restore => Start::Restore(s.version.ok_or(Error::Missing("start.version"))?),
            Kind::Join => Start::Join(s.version),
            Kind::Resume => Start::Resume(ranges_from(&s.held)?),
            Kind::Unspecified => return Err(Error::Missing("start.kind")),
        };
        Ok((start, required(s.plan, "plan")?))
    }
}

impl From<&Endpoints> for pb::TeacherEndpoints {
    fn from(e: &Endpoints) -> Self {
        Self {
            teacher: e.teacher.clone(),
            addresses: e.addresses.clone(),
            active: e.active,
            floor: e.floor,
        }
    }
}

impl From<pb::TeacherEndpoints> for Endpoints {
    fn from(e: pb::TeacherEndpoints) -> Self {
        Self {
            teacher: e.teacher,
            addresses: e.addresses,
            active: e.active,
            floor: e.floor,
        }
    }
}

impl From<&Admission> for pb::RegisterReply {
    fn from(a: &Admission) -> Self {
        Self {
            session: Some((&a.session).into()),
            part: a.part.clone(),
            lease_ttl_ms: 0,
            heartbeat_ms: 0,
            start: a.start.as_ref().map(Into::into),
            teachers: a.teachers.iter().map(Into::into).collect(),
            stage: a.stage.clone(),
            active: a.active,
            poison: a.poison.iter().map(|p| order_position(*p)).collect(),
        }
    }
}

fn order_position((epoch, position): (u32, u64)) -> pb::OrderPosition {
    pb::OrderPosition { epoch, position }
}

impl From<&Claim> for pb::Claim {
    fn from(c: &Claim) -> Self {
        Self {
            part: c.part.clone(),
            generation: c.generation,
            round: c.round,
            epoch: c.epoch,
            trained: ranges(&c.trained),
            held: ranges(&c.held),
            snapshot: c.snapshot,
        }
    }
}

impl TryFrom<pb::Claim> for Claim {
    type Error = Error;

    fn try_from(c: pb::Claim) -> Result<Self, Error> {
        Ok(Self {
            part: c.part,
            generation: c.generation,
            round: c.round,
            epoch: c.epoch,
            trained: ranges_from(&c.trained)?,
            held: ranges_from(&c.held)?,
            snapshot: c.snapshot,
        })
    }
}

impl From<&Message> for pb::ControlDown {
    fn from(message: &Message) -> Self {
        use pb::control_down::Command;
        let command = match message {
            Message::Stage(version) => Command::Stage(pb::Stage { version: *version }),
            Message::Activate { version, keep_from } => Command::Activate(pb::Activate {
                version: *version,
                keep_from: *keep_from,
            }),
            Message::Floor { teacher, version } => Command::Floor(pb::TeacherVersion {
                teacher: teacher.clone(),
                version: *version,
            }),
            Message::Endpoints(e) => Command::Teacher(e.into()),
            Message::Finish(reason) => Command::Finish(pb::Finish {
                reason: reason.clone(),
            }),
            Message::Revoke { generation, round } => Command::Revoke(pb::Revoke {
                generation: *generation,
                round: *round,
            }),
            Message::Poison { epoch, position } => Command::Poison(order_position((*epoch, *position))),
        };
        Self {
            command: Some(command),
        }
    }
}

/// Versions by teacher as messages.
pub fn versions(map: &BTreeMap<String, u64>) -> Vec<pb::TeacherVersion> {
    map.iter()
        .map(|(teacher, version)| pb::TeacherVersion {
            teacher: teacher.clone(),
            version: *version,
        })
        .collect()
}

/// Messages as versions by teacher.
pub fn versions_from(list: Vec<pb::TeacherVersion>) -> BTreeMap<String, u64> {
    list.into_iter().map(|v| (v.teacher, v.version)).collect()
}

impl From<(&Session, &Heartbeat)> for pb::ControlUp {
    fn from((session, h): (&Session, &Heartbeat)) -> Self {
        Self {
            session: Some(session.into()),
            samples_per_s: h.rate,
            floors: versions(&h.floors),
            rejected_frames: h.rejected.clone(),
            staged: h.staged.iter().copied().collect(),
            active: h.active,
            queued_samples: h.queued,
            unhealthy: h.unhealthy.clone(),
            counters: h.counters.clone(),
            answers: h.answers.iter().map(|(a, r)| (a.clone(), *r)).collect(),
            device: h.device.clone(),
        }
    }
}

impl TryFrom<pb::ControlUp> for (Session, Heartbeat) {
    type Error = Error;

    fn try_from(up: pb::ControlUp) -> Result<Self, Error> {
        if !up.samples_per_s.is_finite() || up.samples_per_s < 0.0 {
            return Err(Error::invalid("samples_per_s", up.samples_per_s));
        }
        if let Some(rate) = up.answers.values().find(|r| !r.is_finite() || **r < 0.0) {
            return Err(Error::invalid("answers", rate));
        }
        let heartbeat = Heartbeat {
            rate: up.samples_per_s,
            floors: versions_from(up.floors),
            rejected: up.rejected_frames,
            staged: up.staged.into_iter().collect(),
            active: up.active,
            queued: up.queued_samples,
            unhealthy: up.unhealthy,
            counters: up.counters,
            answers: up.answers.into_iter().collect(),
            device: up.device,
        };
        Ok((required(up.session, "session")?, heartbeat))
    }
}

impl From<&Answer> for pb::LeaseReply {
    fn from(answer: &Answer) -> Self {
        use pb::idle::Reason as Pb;
        use pb::lease_reply::Reply;
        let reply = match answer {
            Answer::Granted {
                epoch,
                positions,
                exact,
                temperature,
            } => Reply::Granted(pb::Granted {
                epoch: *epoch,
                positions: Some(pb::Positions {
                    begin: positions.start,
                    end: positions.end,
                }),
                exact: versions(exact),
                temperature: *temperature,
            }),
            Answer::Idle(reason) => Reply::Idle(pb::Idle {
                reason: match reason {
                    Reason::Contribute => Pb::Contribute,
                    Reason::Closing => Pb::Closing,
                    Reason::Pace => Pb::Pace,
                    Reason::Stopping => Pb::Stopping,
                    Reason::Paused => Pb::Paused,
                    Reason::Reclaim => Pb::Reclaim,
                }
                .into(),
            }),
            Answer::Publish => Reply::Publish(pb::PublishNow {}),
            Answer::Finish(reason) => Reply::Finish(pb::Finish {
                reason: reason.clone(),
            }),
        };
        Self { reply: Some(reply) }
    }
}

fn temperature(value: Option<f64>) -> Result<Option<f64>, Error> {
    match value.filter(|t| !(t.is_finite() && *t > 0.0)) {
        Some(t) => Err(Error::invalid("granted.temperature", t.to_string())),
        None => Ok(value),
    }
}

impl TryFrom<pb::LeaseReply> for Answer {
    type Error = Error;

    fn try_from(reply: pb::LeaseReply) -> Result<Self, Error> {
        use pb::idle::Reason as Pb;
        use pb::lease_reply::Reply;
        Ok(match reply.reply.ok_or(Error::Missing("reply"))? {
            Reply::Granted(g) => {
                let p = g.positions.ok_or(Error::Missing("granted.positions"))?;
                if p.begin >= p.end {
                    return Err(Error::invalid(
                        "granted.positions",
                        format!("{}..{}", p.begin, p.end),
                    ));
                }
                Self::Granted {
                    epoch: g.epoch,
                    positions: p.begin..p.end,
                    exact: versions_from(g.exact),
                    temperature: temperature(g.temperature)?,
                }
            }
            Reply::Idle(idle) => Self::Idle(match idle.reason() {
                Pb::Contribute => Reason::Contribute,
                Pb::Closing => Reason::Closing,
                Pb::Pace => Reason::Pace,
                Pb::Stopping => Reason::Stopping,
                Pb::Paused => Reason::Paused,
                Pb::Reclaim => Reason::Reclaim,
                Pb::Unspecified => return Err(Error::Missing("idle.reason")),
            }),
            Reply::Publish(_) => Self::Publish,
            Reply::Finish(finish) => Self::Finish(finish.reason),
        })
    }
}

impl From<&Sums> for pb::TrainingSums {
    fn from(s: &Sums) -> Self {
        Self {
            samples: s.samples,
            hard_loss: s.hard_loss,
            labelled: s.labelled,
            kl: s.kl,
            taught: s.taught,
            gradient_share: s.gradient_share,
            feature_loss: s.feature_loss,
            hinted: s.hinted,
            exchanged_bytes: s.exchanged_bytes,
            sync_seconds: s.sync_seconds,
            spent: s.spent.to_vec(),
            step_seconds: s.step_seconds,
            frames: s.frames,
            frame_bytes: s.frame_bytes,
            max_staleness: s.max_staleness,
            staleness: s.staleness.to_vec(),
        }
    }
}

impl TryFrom<pb::TrainingSums> for Sums {
    type Error = Error;

    /// Losses of a group that diverged are not finite; times always are.
    fn try_from(s: pb::TrainingSums) -> Result<Self, Error> {
        let times = [("step_seconds", s.step_seconds), ("sync_seconds", s.sync_seconds)];
        let spent = s.spent.iter().map(|seconds| ("spent", *seconds));
        let is_time = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
        if let Some((field, seconds)) = times.into_iter().chain(spent).find(|(_, s)| !is_time(*s)) {
            return Err(Error::invalid(field, seconds));
        }
        Ok(Self {
            samples: s.samples,
            hard_loss: s.hard_loss,
            labelled: s.labelled,
            kl: s.kl,
            taught: s.taught,
            gradient_share: s.gradient_share,
            feature_loss: s.feature_loss,
            hinted: s.hinted,
            exchanged_bytes: s.exchanged_bytes,
            sync_seconds: s.sync_seconds,
            spent: std::array::from_fn(|i| s.spent.get(i).copied().unwrap_or(0.0)),
            step_seconds: s.step_seconds,
            frames: s.frames,
            frame_bytes: s.frame_bytes,
            max_staleness: s.max_staleness,
            staleness: std::array::from_fn(|i| s.staleness.get(i).copied().unwrap_or(0)),
        })
    }
}

/// Samples by teacher and version as messages.
pub fn teacher_use(map: &BTreeMap<String, BTreeMap<u64, u64>>) -> Vec<pb::VersionUse> {
    map.iter()
        .flat_map(|(teacher, versions)| {
            versions.iter().map(|(version, samples)| pb::VersionUse {
                teacher: teacher.clone(),
                version: *version,
                samples: *samples,
            })
        })
        .collect()
}

impl From<(&Session, &Work)> for pb::Contribution {
    fn from((session, w): (&Session, &Work)) -> Self {
        Self {
            session: Some(session.into()),
            generation: w.generation,
            round: w.round,
            joining: w.joining,
            epoch: w.epoch,
            trained: ranges(&w.trained),
            steps: w.steps,
            sums: Some((&w.sums).into()),
            held_out: w.held_out.map(Into::into),
            teacher_use: teacher_use(&w.teacher_use),
            state_hash: String::new(),
        }
    }
}

impl TryFrom<pb::Contribution> for (Session, Work) {
    type Error = Error;

    fn try_from(c: pb::Contribution) -> Result<Self, Error> {
        let mut teacher_use: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
        for u in c.teacher_use {
            *teacher_use
                .entry(u.teacher)
                .or_default()
                .entry(u.version)
                .or_default() += u.samples;
        }
        let work = Work {
            generation: c.generation,
            round: c.round,
            joining: c.joining,
            epoch: c.epoch,
            trained: ranges_from(&c.trained)?,
            steps: c.steps,
            sums: c.sums.ok_or(Error::Missing("sums"))?.try_into()?,
            held_out: c.held_out.map(TryInto::try_into).transpose()?,
            teacher_use,
        };
        Ok((required(c.session, "session")?, work))
    }
}

#[cfg(test)]
mod tests;
