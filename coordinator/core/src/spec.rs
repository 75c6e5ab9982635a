//! What a run consists of, as the deciding code sees it: names and numbers only.

use retort_data::schedule::Schedule;

/// A run's plan. Derived from the job file by the coordinator's shell.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// Id of the run.
    pub id: String,
    /// Digest that every role's data set must have.
    pub dataset_digest: String,
    /// Positions (samples) of one epoch.
    pub positions: u64,
    /// Positions of one block of the lease grid.
    pub block: u32,
    /// Positions of one optimizer step.
    pub batch: u32,
    /// Everything that trains: online teachers, students, baselines, in this order of preference.
    pub groups: Vec<GroupSpec>,
    /// Everything that serves.
    pub teachers: Vec<TeacherSpec>,
    /// A silent session lives this long, ms.
    pub lease_ttl: u64,
    /// Pause between heartbeats, ms.
    pub heartbeat: u64,
    /// A student's state is published at least this often, ms.
    pub checkpoint_every: u64,
    /// Whether alpha is multiplied by the teacher's measured lead.
    pub gate: bool,
    /// Oldest version a student may train on, in versions behind the active one.
    pub max_staleness: u64,
    /// How teachers and students wait for each other.
    pub pace: Pace,
}

/// How a teacher group's progress is tied to its students'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Within one publishing interval of each other's share of the work.
    Students,
    /// Version v teaches exactly the positions assigned to it.
    Lockstep,
    /// Nobody waits.
    Free,
}

/// What kind of model a group trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// An online teacher.
    Teacher,
    /// A student with teachers.
    Student,
    /// A student alone.
    Baseline,
}

impl GroupKind {
    /// As written in manifests and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Teacher => "teacher",
            Self::Student => "student",
            Self::Baseline => "baseline",
        }
    }
}

/// One group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSpec {
    /// Unique in the run; an online teacher's group has the teacher's name.
    pub name: String,
    /// What it trains.
    pub kind: GroupKind,
    /// Replicas wanted.
    pub replicas: u32,
    /// Epochs over the run's positions.
    pub epochs: u32,
    /// Teachers it learns from.
    pub teachers: Vec<String>,
    /// Share of the soft loss by progress, within 0..=1.
    pub alpha: Schedule,
    /// Optimizer steps of each replica per round.
    pub round_steps: u32,
    /// Whether contributions carry weights.
    pub exchange: bool,
    /// Whether a merge is no state by itself, so that a replica that joins must be handed one by another.
    pub hands_over: bool,
    /// What all replicas that take part share in a round; `None`: each has `round_steps`, or fewer if it is slower than
    /// others.
    pub shared: Option<Shared>,
    /// Steps between published versions; 0: epoch ends and `checkpoint_every` only.
    pub publish_every: u32,
    /// Steps of the group between two held-out evaluations.
    pub evaluate_every: u64,
}

/// One batch of several replicas together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Parts that it has.
    pub batches: u32,
    /// Samples of a part.
    pub samples: u32,
}

/// One teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherSpec {
    /// Unique among teachers. An online teacher, and a student that teaches others, has its group's name.
    pub name: String,
    /// Where its versions come from.
    pub source: Source,
    /// Servers wanted.
    pub replicas: u32,
}

/// Where a teacher's versions come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// One checkpoint, provided before the run starts.
    Fixed,
    /// A group's own versions, by their numbers.
    Group {
        /// The group.
        of: String,
        /// Which of its versions.
        which: Which,
    },
    /// A moving average of a group's versions, made anew with each of them under the same number.
    Average {
        /// The group.
        of: String,
        /// How much of the average a step of the group leaves as it was, within 0..1.
        decay: f64,
    },
}

/// Which versions of a group teach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    Every,
    /// The initial state and the state at the end of each epoch.
    EpochEnds,
    /// The state at the end of its last epoch.
    Last,
}

impl Source {
    /// The group whose versions it follows; `None`: it is fixed.
    pub fn of(&self) -> Option<&str> {
        match self {
            Self::Fixed => None,
            Self::Group { of, .. } | Self::Average { of, .. } => Some(of),
        }
    }

    /// The group whose files its versions are; `None`: it has files of its own.
    pub fn files_of(&self) -> Option<&str> {
        match self {
            Self::Group { of, .. } => Some(of),
            Self::Fixed | Self::Average { .. } => None,
        }
    }
}
