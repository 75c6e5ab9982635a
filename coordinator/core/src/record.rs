//! What of a run survives the coordinator. Each record is written whole whenever it changed, under a
//! key of its own, before anybody hears of the change; a restart reads them all. There is nothing to
//! replay and nothing to compact.
//!
//! Leases and heartbeats are not here: their holders come back and claim them.

use serde::{Deserialize, Serialize};

use crate::group;
use crate::ids::{Millis, Role};
use crate::manifest::Merge;
use crate::round::{Evaluation, Point};
use crate::run::{Event, State};

/// One durable fact, with the names that its key is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// The run as a whole.
    Run(Run),
    /// A worker, live or gone: its incarnations never repeat.
    Member(Member),
    /// A teacher.
    Teacher(Teacher),
    /// A published version of a teacher.
    Version(Version),
    /// A group.
    Group(Box<group::Record>),
    /// A merge that no manifest contains yet.
    Merge {
        /// Group.
        group: String,
        /// What was merged.
        merge: Merge,
    },
    /// Samples trained on one version.
    Use {
        /// Group.
        group: String,
        /// Teacher.
        teacher: String,
        /// Its version.
        version: u64,
        /// Count.
        samples: u64,
    },
    /// Something that happened.
    Event(Event),
    /// A point of a group's curve.
    Point {
        /// Group.
        group: String,
        /// Round it belongs to.
        round: u64,
        /// Means of the round.
        point: Point,
    },
}

/// The run as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where it stands.
    pub state: State,
    /// Why.
    pub reason: String,
    /// When it was accepted.
    pub accepted: Millis,
    /// First lease.
    pub started: Option<Millis>,
    /// Workers that were asked to leave for good.
    pub drained: Vec<String>,
    /// What an operator changed of the job.
    #[serde(default)]
    pub retuned: Retuned,
}

/// What holds instead of the job's schedules; `None`: they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Retuned {
    /// Share of the soft loss, before the gate, within 0..=1.
    pub alpha: Option<f64>,
    /// Temperature of soft targets, within [`TEMPERATURES`].
    pub temperature: Option<f64>,
}

/// Temperatures that a run may have.
pub const TEMPERATURES: std::ops::RangeInclusive<f64> = 1e-3..=1e4;

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub worker: String,
    /// Registrations so far.
    pub incarnation: u64,
    /// The live session, if there is one.
    pub live: Option<Live>,
}

/// A live session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// What the process does.
    pub role: Role,
    /// Group or teacher.
    pub part: String,
    /// Term that granted it.
    pub term: u64,
    /// Teacher servers: where students reach it.
    pub address: String,
    /// Student workers: it holds the group's state.
    pub keeper: bool,
    /// The process and the newest of its requests to register.
    pub registered: (u64, u64),
}

/// A teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Teacher {
    /// Its name.
    pub name: String,
    /// Version that serves.
    pub active: Option<u64>,
    /// Oldest version students may train on.
    pub floor: u64,
    /// Versions activated so far.
    pub activations: u64,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its teacher.
    pub teacher: String,
    /// Its number.
    pub version: u64,
    /// Its place in the timetable.
    pub index: u64,
    /// Its held-out result.
    pub held_out: Option<Evaluation>,
}

/// Names one record within a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// [`Record::Run`].
    Run,
    /// [`Record::Member`] by worker.
    Member(String),
    /// [`Record::Teacher`] by name.
    Teacher(String),
    /// [`Record::Version`] by teacher and number.
    Version(String, u64),
    /// [`Record::Group`] by name.
    Group(String),
    /// [`Record::Merge`] by group and round.
    Merge(String, u64),
    /// [`Record::Use`] by group, teacher and version.
    Use(String, String, u64),
    /// [`Record::Event`] by number.
    Event(u64),
    /// [`Record::Point`] by group and round.
    Point(String, u64),
}

impl Key {
    /// The key in a store; unique within the run.
    pub fn path(&self) -> String {
        match self {
            Self::Run => "run".into(),
            Self::Member(worker) => format!("member/{worker}"),
            Self::Teacher(name) => format!("teacher/{name}"),
            Self::Version(teacher, version) => format!("version/{teacher}/{version:020}"),
            Self::Group(name) => format!("group/{name}"),
            Self::Merge(group, round) => format!("merge/{group}/{round:020}"),
            Self::Use(group, teacher, version) => format!("use/{group}/{teacher}/{version:020}"),
            Self::Event(number) => format!("event/{number:020}"),
            Self::Point(group, round) => format!("point/{group}/{round:020}"),
        }
    }
}

/// A change of one record; `None` deletes it.
pub type Write = (Key, Option<Record>);
