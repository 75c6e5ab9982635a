//! One run: members, groups and teachers, and every decision between them.
//!
//! Inputs are method calls with the time; what others must be told comes out of `poll_command`.

mod control;
mod durable;
mod events;
mod gray;
mod membership;
#[cfg(test)]
mod tests;
mod vacancies;
mod versions;
mod view;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use retort_data::ranges::RangeSet;

use crate::group::Group;
use serde::{Deserialize, Serialize};

use crate::ids::{Millis, Role, Session};
use crate::lease::{Answer, Reason};
use crate::names::ByName;
use crate::record::{Key, Retuned};
use crate::round::{Claim, ClosedRound, RoundPlan, Start};
use crate::spec::{RunSpec, Source};
use crate::teacher::Teacher;

use events::Events;
pub use events::{Event, Kind};
pub use versions::Average;

/// A coordinator that was started again counts changes from beyond what the former one counted.
const REVISIONS: u64 = 1 << 32;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Fixed teachers are still to be provided.
    Waiting,
    /// Groups train.
    Running,
    /// Replicas finish what they hold, and wait.
    Paused,
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
            Self::Paused => "paused",
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
    /// Student worker: its leases in this round were taken away; it joins the next merge with
    /// nothing.
    Revoke {
        /// Generation of the round.
        generation: u64,
        /// The round; a worker that is past it has joined already.
        round: u64,
    },
    /// Student worker: the sample at this place of the order can't be trained on.
    Poison {
        /// Epoch.
        epoch: u32,
        /// Position.
        position: u64,
    },
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
    /// Why a group's requests for work get none has changed; `None`: they get some.
    Waits {
        /// Group.
        group: String,
        /// Newest reason.
        reason: Option<Reason>,
    },
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
    /// Which process of that name asks; another number is another process.
    pub process: u64,
    /// Counts the process's requests to register, so that a late copy is known as one.
    pub attempt: u64,
    /// Student workers: what it still has of a former session.
    pub claim: Option<Claim>,
    /// Student workers: floors that hold in it.
    pub floors: BTreeMap<String, u64>,
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
    /// Student workers: epoch and position of samples that can't be trained on.
    pub poison: Vec<(u32, u64)>,
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
    /// What it computes on, for the status.
    pub device: String,
    /// Student workers: floors that hold there.
    pub floors: BTreeMap<String, u64>,
    /// Frames refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Student workers: samples per second that each teacher server answers while it has work for it,
    /// by address.
    pub answers: BTreeMap<String, f64>,
    /// Teacher servers: versions ready.
    pub staged: BTreeSet<u64>,
    /// Teacher servers: version that serves.
    pub active: Option<u64>,
    /// Teacher servers: samples waiting.
    pub queued: u64,
    /// Teacher servers: why answers are worthless; empty: they are fine.
    pub unhealthy: String,
    /// Teacher servers: what they counted, for the status.
    pub counters: BTreeMap<String, u64>,
}

/// A live process.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its session.
    pub session: Session,
    /// Group it trains or teacher it serves.
    pub part: String,
    /// Last sign of life.
    pub last_seen: Millis,
    /// Its newest heartbeat.
    pub heartbeat: Heartbeat,
    /// Teacher servers: where students reach it.
    pub address: String,
    /// The process and the newest of its requests to register.
    registered: (u64, u64),
    /// The newest grant and the request it answered, until the worker says that it has it.
    answered: Option<(u64, Answer)>,
    /// What requests up to this one were granted has been taken away.
    void_until: u64,
    /// Numbers of the releases that were carried out.
    released: RangeSet,
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
    members: ByName<Member>,
    incarnations: BTreeMap<String, u64>,
    groups: Vec<Group>,
    teachers: Vec<Teacher>,
    /// Live members by role and part.
    taken: BTreeMap<(Role, String), u32>,
    /// Workers that were asked to leave for good.
    drained: BTreeSet<String>,
    retuned: Retuned,
    /// No session ends before this.
    quiet_until: Millis,
    /// When time was last looked at.
    looked: Millis,
    /// When the servers of a teacher were last compared.
    compared: Millis,
    /// When to look for overdue replicas.
    overdue_check: Option<Millis>,
    /// Since when some group has nobody.
    unattended_since: Option<Millis>,
    waiting_for: BTreeMap<String, Reason>,
    lost_rejections: BTreeMap<String, BTreeMap<String, u64>>,
    commands: VecDeque<Command>,
    events: Events,
    revision: u64,
    /// Counts sessions that ended.
    departures: u64,
    /// Records that changed since they were last taken, the groups' own apart.
    dirty: BTreeSet<Key>,
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
        let state = if teachers.iter().all(|t| t.spec.source != Source::Fixed) {
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
            members: ByName::default(),
            incarnations: BTreeMap::new(),
            groups,
            teachers,
            taken: BTreeMap::new(),
            drained: BTreeSet::new(),
            retuned: Retuned::default(),
            quiet_until: Millis(u64::MAX),
            compared: Millis(0),
            looked: now,
            overdue_check: None,
            unattended_since: None,
            waiting_for: BTreeMap::new(),
            lost_rejections: BTreeMap::new(),
            commands: VecDeque::new(),
            events: Events::default(),
            revision: term * REVISIONS + 1,
            departures: 0,
            dirty: BTreeSet::from([Key::Run]),
        }
    }

    /// The term of the coordinator that runs it.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The next thing to carry out.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.spec.name == name)
    }

    #[cfg(test)]
    fn groups_mut(&mut self) -> &mut [Group] {
        &mut self.groups
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
