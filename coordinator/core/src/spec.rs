//! What a run consists of, as the deciding code sees it: names and numbers only.

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
    /// Alpha by progress.
    pub alpha: Alpha,
    /// Whether alpha is multiplied by the teacher's measured lead.
    pub gate: bool,
    /// Oldest version a student may train on, in versions behind the active one.
    pub max_staleness: u64,
    /// How teachers and students wait for each other.
    pub pace: Pace,
}

/// Linear from `from` to `to` over the first `over` share of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alpha {
    /// At the start.
    pub from: f64,
    /// From `over` on.
    pub to: f64,
    /// Share of the run, > 0; a constant has `from == to`.
    pub over: f64,
}

impl Alpha {
    /// Value after `progress` (0..=1) of the run.
    pub fn at(&self, progress: f64) -> f64 {
        self.from + (self.to - self.from) * (progress / self.over).clamp(0.0, 1.0)
    }
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
    /// Optimizer steps of each replica per round.
    pub round_steps: u32,
    /// Whether contributions carry weights.
    pub exchange: bool,
    /// Steps between published versions; 0: epoch ends and `checkpoint_every` only.
    pub publish_every: u32,
    /// Steps of the group between two held-out evaluations.
    pub evaluate_every: u64,
}

/// One teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherSpec {
    /// Unique in the run.
    pub name: String,
    /// True: the group of the same name makes its versions; false: a provided checkpoint.
    pub trained: bool,
    /// Servers wanted.
    pub replicas: u32,
}
