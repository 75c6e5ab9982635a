//! How the groups of a run learned, step by step.

use serde::{Deserialize, Serialize};

/// Everything that was measured while a run trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    pub groups: Vec<GroupCurve>,
}

/// One group of one seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupCurve {
    /// The seed's label.
    pub run: String,
    pub group: String,
    /// `"teacher"`, `"student"` or `"baseline"`.
    pub kind: String,
    /// By growing step.
    pub points: Vec<Point>,
}

/// What was known at one step; not every point has every value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    pub positions: u64,
    pub epoch: u32,
    /// Mean cross-entropy of the step's labelled samples, in nats.
    pub hard_loss: Option<f64>,
    /// Mean KL(teacher || student) of the step's samples.
    pub kl: Option<f64>,
    /// Mean loss between a layer of the student and one of its teacher, unweighted.
    #[serde(default)]
    pub feature_loss: Option<f64>,
    pub held_out_loss: Option<f64>,
    pub held_out_accuracy: Option<f64>,
    /// The effective weight of the soft loss, gate and schedule included.
    pub alpha: Option<f64>,
    /// The version that the step's soft targets came from.
    pub teacher_version: Option<u64>,
    /// Share of the gradient that came from the teacher.
    pub gradient_share: Option<f64>,
    pub samples_per_s: Option<f64>,
    /// Replicas that brought something to the round.
    #[serde(default)]
    pub replicas: u32,
    /// Versions that the soft targets were behind the newest, in the mean of the samples.
    #[serde(default)]
    pub staleness: Option<f64>,
}
