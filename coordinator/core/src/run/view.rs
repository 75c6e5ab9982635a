//! Read-only views, for the status.

use std::collections::BTreeMap;

use crate::group::Group;
use crate::ids::{Millis, Session};
use crate::lease::Reason;
use crate::run::{Event, Member, Run, State};
use crate::teacher::Teacher;

impl Run {
    /// Where the run stands, and why it ended.
    pub fn state(&self) -> (State, &str) {
        (self.state, &self.reason)
    }

    /// Counts changes, over restarts of the coordinator too.
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

    /// How many sessions have ended.
    pub fn departures(&self) -> u64 {
        self.departures
    }

    /// Whether this very life of the worker takes part in a round.
    pub fn is_replica(&self, session: &Session) -> bool {
        let member = self.authorise(session).ok();
        let group = member.and_then(|m| self.group(&m.part));
        group.is_some_and(|g| g.has_replica(&session.worker))
    }

    /// A live member.
    pub fn member(&self, worker: &str) -> Option<&Member> {
        self.members.get(worker)
    }

    /// Live members.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Newest events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
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
