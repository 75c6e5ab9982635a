//! What an operator may ask of a run, and how it ends.

use crate::group::Group;
use crate::ids::{Millis, Refusal, Role};
use crate::record::{Key, Retuned, TEMPERATURES};
use crate::run::events::brief;
use crate::run::{Command, Kind, Message, Run, State};
use crate::spec::Source;

impl Run {
    /// No new work: replicas finish what they hold, and wait.
    pub fn pause(&mut self, now: Millis) -> Result<(), Refusal> {
        match self.state {
            State::Paused => Ok(()),
            State::Running => {
                self.set_state(State::Paused, "asked to pause", now);
                Ok(())
            }
            other => Err(self.cannot("pause", other)),
        }
    }

    /// Goes on after a pause or a stop, with everybody who was drained.
    pub fn resume(&mut self, now: Millis) -> Result<(), Refusal> {
        if !std::mem::take(&mut self.drained).is_empty() {
            self.dirty.insert(Key::Run);
        }
        match self.state {
            State::Running | State::Waiting => Ok(()),
            State::Paused | State::Stopping | State::Stopped => {
                let state = if self.is_provided() {
                    State::Running
                } else {
                    State::Waiting
                };
                self.set_state(state, "", now);
                self.groups.iter_mut().for_each(Group::forget_pace);
                // It may have been stopped just when nothing was left to do.
                self.end_if_done(now);
                Ok(())
            }
            other => Err(self.cannot("resume", other)),
        }
    }

    /// Ends the run in order; it can be resumed. One that stops already is left as it is.
    pub fn stop(&mut self, reason: &str, now: Millis) -> Result<(), Refusal> {
        match self.state {
            State::Stopping | State::Stopped => Ok(()),
            State::Done | State::Failed => Err(self.cannot("stop", self.state)),
            State::Waiting | State::Running | State::Paused => {
                self.set_state(State::Stopping, reason, now);
                self.stop_if_safe(now);
                Ok(())
            }
        }
    }

    /// Asks one worker to hand over what it has and to leave for good.
    pub fn drain(&mut self, worker: &str, now: Millis) -> Result<(), Refusal> {
        let Some(member) = self.members.get(worker) else {
            return Err(Refusal::Invalid(format!(
                "{worker} is no member of run {}",
                self.spec.id
            )));
        };
        let role = member.session.role;
        if self.drained.insert(worker.to_owned()) {
            self.dirty.insert(Key::Run);
            self.event(now, Kind::Member, format!("{role} {worker} is asked to leave"));
            if role == Role::TeacherServer {
                // It serves nobody new; what it is scoring still arrives.
                let reason = "drained".to_owned();
                self.send(worker, Message::Finish(reason));
            }
        }
        Ok(())
    }

    /// Another share of the soft loss from each group's next round on, another temperature from the next lease on, in place
    /// of the job's schedules.
    pub fn retune(&mut self, retuned: Retuned, now: Millis) -> Result<(), Refusal> {
        let Retuned { alpha, temperature } = retuned;
        if self.state.ended() {
            return Err(self.cannot("be tuned", self.state));
        }
        if self.groups.iter().all(|g| g.spec.teachers.is_empty()) {
            let id = &self.spec.id;
            return Err(Refusal::Invalid(format!(
                "no group of run {id} learns from a teacher"
            )));
        }
        if let Some(alpha) = alpha.filter(|a| !(0.0..=1.0).contains(a)) {
            return Err(Refusal::Invalid(format!(
                "alpha = {alpha}: a number within 0..=1"
            )));
        }
        if let Some(t) = temperature.filter(|t| !TEMPERATURES.contains(t)) {
            let (low, high) = (TEMPERATURES.start(), TEMPERATURES.end());
            return Err(Refusal::Invalid(format!(
                "temperature = {t}: a finite number, {low} <= T <= {high}"
            )));
        }
        self.retuned = retuned;
        self.dirty.insert(Key::Run);
        let told = |value: Option<f64>| value.map_or("the job's".to_owned(), |v| v.to_string());
        let (alpha, temperature) = (told(alpha), told(temperature));
        self.event(
            now,
            Kind::Order,
            format!(
                "alpha is {alpha} from the next round on, temperature {temperature} from the next lease on"
            ),
        );
        Ok(())
    }

    /// What holds instead of the job's schedules.
    pub fn retuned(&self) -> Retuned {
        self.retuned
    }

    /// Notes that somebody asked for something.
    pub fn asked(&mut self, who: &str, what: &str, now: Millis) {
        self.event(now, Kind::Order, format!("{who} asks: {what}"));
    }

    fn cannot(&self, verb: &str, state: State) -> Refusal {
        Refusal::Invalid(format!(
            "run {} is {}: it can't {verb}",
            self.spec.id,
            state.name()
        ))
    }

    pub(super) fn set_state(&mut self, state: State, reason: &str, now: Millis) {
        self.state = state;
        self.reason = brief(reason.to_owned());
        self.dirty.insert(Key::Run);
        let colon = if reason.is_empty() { "" } else { ": " };
        self.event(now, Kind::Run, format!("run is {}{colon}{reason}", state.name()));
    }

    /// Every fixed teacher was uploaded.
    pub(super) fn is_provided(&self) -> bool {
        self.teachers
            .iter()
            .all(|t| t.spec.source != Source::Fixed || t.newest().is_some())
    }

    pub(super) fn start_if_provided(&mut self, now: Millis) {
        if self.state == State::Waiting && self.is_provided() {
            self.set_state(State::Running, "", now);
        }
    }

    pub(super) fn stop_if_safe(&mut self, now: Millis) {
        // A group whose replicas are all gone can publish nothing more: what they merged since the
        // newest manifest is rolled back when the group goes on.
        let idle =
            |g: &Group| g.is_done() || g.replicas().len() == 0 && !g.is_reclaiming() && !g.is_committing();
        if self.state == State::Stopping && self.groups.iter().all(idle) {
            let reason = self.reason.clone();
            self.end(State::Stopped, reason, now);
        }
    }

    pub(super) fn end(&mut self, state: State, reason: String, now: Millis) {
        if self.state.ended() {
            return;
        }
        self.set_state(state, &reason, now);
        for worker in self.members.names() {
            self.commands.push_back(Command::Send {
                worker: worker.to_owned(),
                message: Message::Finish(reason.clone()),
            });
        }
        let parked: Vec<String> = self.groups.iter_mut().flat_map(Group::drop_holders).collect();
        if !parked.is_empty() {
            self.commands.push_back(Command::AbortRound { workers: parked });
        }
    }

    pub(super) fn send(&mut self, worker: &str, message: Message) {
        self.commands.push_back(Command::Send {
            worker: worker.to_owned(),
            message,
        });
    }
}
