//! The job file: what a user asks for, in the vocabulary of the field.
//!
//! A job names a data set, teachers, students and how to distil. This crate parses it, fills in
//! the defaults, and says everything that is wrong with it at once (file, key, value, bound).
//! It must never depend on a runtime, a wire format or a tensor library: every role reads jobs.

mod distillation;
mod features;
mod group;
mod loss;
mod mixup;
mod model;
mod parse;
mod sources;
mod stream;
mod validate;

pub use distillation::{Combine, Distillation, Encoding, Gate, Pace, Tail, Weights};
pub use features::{FeatureLoss, Features};
pub use group::{Group, GroupKind, Optimizer, OptimizerKind};
pub use loss::Loss;
pub use model::{Architecture, Exits, Foreign, Gives, Kserve, Layout, Model};
pub use parse::{Error, Problem, parse, read};
pub use retort_data::schedule::Schedule;
pub use retort_sync::{Outer, Wire};
pub use stream::{Stream, Versions};

use std::path::PathBuf;
use std::time::Duration;

use retort_data::DatasetConfig;
use serde::{Deserialize, Serialize};

/// One job, as written in `JOB.toml`. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub run: Run,
    pub dataset: DatasetConfig,
    #[serde(default)]
    pub teachers: Vec<Teacher>,
    #[serde(default)]
    pub students: Vec<Student>,
    #[serde(default)]
    pub distillation: Distillation,
    #[serde(default)]
    pub sync: Sync,
    #[serde(default)]
    pub fleet: Fleet,
}

impl Job {
    /// Alpha follows the lead of the teachers: where the job says so, or some teacher of a student is still learning
    /// from labels.
    pub fn is_gated(&self) -> bool {
        let trained = |t: &Teacher| matches!(t.source, Source::Trained { .. });
        match self.distillation.gate {
            Some(gate) => gate == Gate::Lead,
            None => !self.students.is_empty() && self.teachers.iter().any(trained),
        }
    }
}

/// What a run is called and how long it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub name: String,
    /// Everything random derives from it: order, views, initial weights, which samples are labelled.
    #[serde(default = "one")]
    pub seed: u64,
    /// Passes of every student over its positions (at least 1).
    pub epochs: u32,
    /// Samples of one optimizer step of one replica (1..=65536).
    #[serde(default = "Run::batch_size")]
    pub batch_size: u32,
    /// Also train each student alone: the same steps, drawn from the labelled samples.
    #[serde(default)]
    pub baseline: bool,
}

impl Run {
    fn batch_size() -> u32 {
        64
    }
}

fn one() -> u64 {
    1
}

/// A teacher: a name for a stream of weight versions, and who serves them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    pub name: String,
    /// Required unless the source brings its own (a checkpoint's model card does).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    pub source: Source,
    /// Teacher servers that answer for it (at least 1).
    #[serde(default = "Teacher::replicas")]
    pub replicas: u32,
    #[serde(default)]
    pub device: Device,
}

impl Teacher {
    fn replicas() -> u32 {
        1
    }
}

/// Where a teacher's weight versions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// One fixed version: a folder with `model.safetensors`, `model.onnx` or `kserve.json`, and `model.json` (offline
    /// distillation).
    Checkpoint {
        path: PathBuf,
        /// Folder of recorded soft targets, relative to the servers' data folder, or `s3://BUCKET/PREFIX`, which servers of several
        /// machines share: what is scored once is replayed in any order by later epochs and runs, without the teacher in
        /// memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<PathBuf>,
    },
    /// Trains on the labelled samples while it teaches, and publishes as it learns (online).
    Trained {
        #[serde(default = "default_learning_rate")]
        learning_rate: Schedule,
        #[serde(default)]
        optimizer: OptimizerKind,
        #[serde(default)]
        weight_decay: f64,
        /// As `students[].momentum`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        momentum: Option<f64>,
        /// As `students[].clip_norm`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip_norm: Option<f64>,
        /// Optimizer steps between two published versions (at least 1).
        #[serde(default = "default_publish_every")]
        publish_every: u32,
        /// The teacher's own epochs; the run's unless given. Afterwards its last version serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epochs: Option<u32>,
        /// Whom it learns from while it teaches, its own students for instance (mutual learning, knowledge distillation
        /// by collaboration); nobody unless given.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        teachers: Vec<Mixture>,
        /// Share of the soft loss where it has teachers of its own, within 0..=1.
        #[serde(
            default = "default_teacher_alpha",
            skip_serializing_if = "is_default_teacher_alpha"
        )]
        alpha: Schedule,
    },
    /// The moving average of a student's published versions (self-distillation by a mean teacher).
    Ema {
        /// The student.
        of: String,
        /// How much of the average one optimizer step of the student leaves as it was, 0 <= decay < 1. It begins as the
        /// mean of all states, which a decay near 1 would take long to forget.
        #[serde(default = "default_decay")]
        decay: f64,
        /// Optimizer steps of the student between two versions (at least 1).
        #[serde(default = "default_publish_every")]
        publish_every: u32,
    },
    /// Earlier states of a student: of another one (born-again networks) or of the learner itself (self-distillation from
    /// its own predictions of the epoch before).
    Snapshot {
        /// The student.
        of: String,
        at: SnapshotAt,
    },
    /// The newest versions of other students (deep mutual learning, codistillation): each of them teaches.
    Peers {
        /// The students; their weights in a mixture are equal.
        of: Vec<String>,
        /// Optimizer steps of each of them between two versions (at least 1): what their teaching is behind.
        #[serde(default = "default_publish_every")]
        publish_every: u32,
    },
}

/// Which states of a student teach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotAt {
    /// The last one: whoever learns from it begins when the student has ended.
    End,
    /// The initial state, then the one at the end of each epoch.
    Epoch,
}

fn default_decay() -> f64 {
    0.99
}

fn default_teacher_alpha() -> Schedule {
    Schedule::Constant(0.5)
}

fn is_default_teacher_alpha(alpha: &Schedule) -> bool {
    *alpha == default_teacher_alpha()
}

fn default_learning_rate() -> Schedule {
    Schedule::Constant(0.002)
}

fn default_publish_every() -> u32 {
    50
}

/// A student: one model, trained by one or more replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Student {
    pub name: String,
    pub model: Model,
    #[serde(default = "Student::replicas")]
    pub replicas: u32,
    /// Whom it learns from; how several are mixed is said by `distillation.combine` and `distillation.weights`.
    #[serde(default)]
    pub teachers: Vec<Mixture>,
    /// What it does while a teacher has no answer.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// Its own temperature, instead of `distillation.temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Schedule>,
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Greater than 0 but for the ends of a schedule, whose progress is the place of a batch in the order of all epochs.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: Schedule,
    /// The baseline's learning rate where it was tuned on its own; the student's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_learning_rate: Option<Schedule>,
    #[serde(default)]
    pub weight_decay: f64,
    /// Of `optimizer = "sgd"`, 0 <= momentum < 1 (0.9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Largest norm of a step's whole gradient; longer ones are scaled down to it (> 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    #[serde(default)]
    pub device: Device,
    /// Trains on one of several disjoint shares of the samples only; unset: on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// One of `of` disjoint shares of the samples, equal in size but for one sample. Whoever has it goes through it as many
/// times as makes the positions of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// 0..of.
    pub part: u32,
    /// 1..=1000.
    pub of: u32,
}

impl Student {
    fn replicas() -> u32 {
        1
    }
}

/// What a student does with positions that a teacher has no answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMissing {
    /// Waits until all its teachers have answered.
    #[default]
    Wait,
    /// Learns from the teachers that answered, their weights normalised over them (at least two teachers).
    Renormalise,
    /// Learns from the labels alone.
    Hard,
}

/// One teacher in a student's mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    pub name: String,
    /// Relative weight (> 0), for `distillation.weights = "static"` and `"confidence"`.
    #[serde(default = "Mixture::weight")]
    pub weight: f64,
}

impl Mixture {
    fn weight() -> f64 {
        1.0
    }
}

/// How the replicas of one student stay one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sync {
    pub strategy: Strategy,
    /// Optimizer steps of each replica between two rounds (at least 1); `step` has a round every step.
    pub every: u32,
    /// How numbers travel; unset: `bf16` for `diloco`, else `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
    /// The outer step of `diloco`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
}

impl Sync {
    /// How numbers travel.
    pub fn wire(&self) -> Wire {
        self.wire.unwrap_or(match self.strategy {
            Strategy::Diloco => Wire::Bf16,
            Strategy::Step | Strategy::LocalSgd | Strategy::None => Wire::F32,
        })
    }

    /// Batches of a replica's own in one global batch of `step`; 1 of the others.
    fn parts(&self, replicas: u32) -> u32 {
        if self.strategy == Strategy::Step {
            replicas.max(1)
        } else {
            1
        }
    }
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            strategy: Strategy::LocalSgd,
            every: 16,
            wire: None,
            outer: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Every step: the mean of the replicas' gradients by samples, each replica on its share of the batch.
    Step,
    /// Each replica steps on its own; every round averages weights by samples.
    LocalSgd,
    /// Each replica steps on its own; every round is a step with momentum along the mean of how far they came.
    Diloco,
    /// No exchange: allowed for one replica only.
    None,
}

/// Timing of the fleet; defaults suit a laptop and a cluster alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// A silent session keeps its leases this long ("5s"; 200ms..=10min).
    #[serde(with = "duration")]
    pub lease: Duration,
    /// Pause between two heartbeats (at most half of `lease`).
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// A student's merged state is made durable at least this often ("10s"; 100ms..=1h).
    #[serde(with = "duration")]
    pub checkpoint: Duration,
    /// Blocks whose soft targets a student asks for ahead of training (1..=1024).
    pub prefetch: u32,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            heartbeat: Duration::from_millis(500),
            checkpoint: Duration::from_secs(10),
            prefetch: 8,
        }
    }
}

/// `flex | libtorch | libtorch:cuda:N | cuda:N | wgpu | auto`, as text until a model is built on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Device(pub String);

impl Default for Device {
    fn default() -> Self {
        Self("auto".into())
    }
}

mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&humantime::format_duration(*value).to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(input)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("{text:?} is no duration like \"5s\" or \"500ms\": {e}")))
    }
}
