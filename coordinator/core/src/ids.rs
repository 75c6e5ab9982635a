//! Names and counters of the fleet, as types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds of the coordinator's own monotonic clock, which goes on where it stood after a
/// restart. Always passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// `self` plus a duration in milliseconds.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since an earlier instant; 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a process does in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Serves versions of one teacher.
    TeacherServer,
    /// Trains a group.
    StudentWorker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TeacherServer => "teacher-server",
            Self::StudentWorker => "student-worker",
        })
    }
}

/// One life of one process within one run; every write names it (promise P3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Id of the run.
    pub run: String,
    /// What the process does.
    pub role: Role,
    /// Name of the process, unique in the fleet.
    pub worker: String,
    /// Registrations of this worker in this run, from 1.
    pub incarnation: u64,
    /// Term of the coordinator that granted it.
    pub term: u64,
}

/// Why an input was refused. The caller registers again after `Fenced` and `Gone`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another life of the worker, another term, or an expired session wrote.
    #[error("session of {worker} is not current: {detail}")]
    Fenced {
        /// Who wrote.
        worker: String,
        /// What is stale about it.
        detail: String,
    },
    /// The round or generation has moved on, or its state is lost.
    #[error("{0}")]
    Gone(String),
    /// Another data set, protocol or role than the run's.
    #[error("{0}")]
    Mismatch(String),
    /// Every part of the run is taken.
    #[error("no part of run {run} is vacant for a {role}")]
    NoPart {
        /// Id of the run.
        run: String,
        /// Who asked.
        role: Role,
    },
    /// As many processes as there can be have registered.
    #[error("run {run} has {limit} {what} already, as many as there can be: none more joins")]
    Full {
        /// Id of the run.
        run: String,
        /// How many.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// Former replicas may still come back with their state: ask again soon.
    #[error("run {run}: replicas of {part} may still come back with their state: ask again")]
    Wait {
        /// Id of the run.
        run: String,
        /// Group concerned.
        part: String,
    },
    /// What was asked for is being done: it is not done twice.
    #[error("{0}")]
    Busy(String),
    /// The input contradicts itself or names what does not exist.
    #[error("{0}")]
    Invalid(String),
}
