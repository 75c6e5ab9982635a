//! The seam between the worker and tensors: what it takes to train a model, in plain data.

mod adam;
mod burn;
mod check;
mod exits;
mod gradient;
mod optimizer;
#[cfg(test)]
mod tests;

pub use self::burn::BurnTrainer;
pub use retort_models::Evaluation;

use retort_codec::{Features, TopK};
use retort_data::HeldOut;
use retort_job::{FeatureLoss, Loss};
use retort_models::{ClassifierError, SpecError, WeightsError, device};
use thiserror::Error;

/// What one optimizer step learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `samples` inputs, row by row, before preprocessing.
    pub inputs: Vec<f32>,
    pub samples: usize,
    /// One for each row of logits; `None` is unlabelled.
    pub labels: Vec<Option<u32>>,
    /// Of mixed views, a second label for each sample and how much of the sample it is the label of; both mean nothing where
    /// there is no first one. Empty: no view is mixed.
    pub mixed: Vec<(u32, f32)>,
    /// Which rows of logits the losses are means over, ascending; `None`: all. The others have no target.
    pub counted: Option<Vec<usize>>,
    /// What the teachers say; `None` for a group without teachers.
    pub soft: Option<SoftTargets>,
    /// Share of the soft loss, within 0..=1; 0 for a group without teachers.
    pub alpha: f64,
    /// At least 0.
    pub learning_rate: f64,
}

impl Batch {
    /// Samples that have a label; they have all of theirs.
    pub(crate) fn labelled_samples(&self) -> usize {
        let samples = self
            .labels
            .chunks(self.labels.len().div_ceil(self.samples.max(1)).max(1));
        samples
            .filter(|labels| labels.iter().any(Option::is_some))
            .count()
    }

    /// Rows that the losses are means over.
    fn counted_rows(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match &self.counted {
            Some(rows) => Box::new(rows.iter().copied()),
            None => Box::new(0..self.labels.len()),
        }
    }
}

/// What the teachers say of every sample of a batch, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTargets {
    pub targets: Targets,
    /// T, greater than 0.
    pub temperature: f32,
    /// How the student is compared with them.
    pub loss: Loss,
    /// What a layer of one of them holds; `None`: only what they answer counts.
    pub hint: Option<Hint>,
}

/// What a layer of the student learns from one of a teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    /// Of the student, projected if its specification has a projection of it.
    pub layer: String,
    pub loss: FeatureLoss,
    /// Relative to the soft loss.
    pub weight: f64,
    /// The teacher's, of every sample of the batch.
    pub features: Features,
}

/// Distributions softmax(z / T), of one teacher or of several.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Log-probabilities, rows of one number for each class.
    Dense(Vec<f32>),
    /// What each teacher said, at least one; the step minimises the weighted sum of the divergences from them.
    Sparse(Vec<Sparse>),
}

/// One teacher's most probable classes, and how much it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparse {
    /// One for each row; those of a row sum to 1 over the teachers.
    pub weights: Vec<f32>,
    pub top: TopK,
}

/// What a step found out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The loss that was minimised, with what the exits add to it.
    pub loss: f64,
    /// The soft part of it, before alpha; present exactly if soft targets were.
    pub soft_loss: Option<f64>,
    /// Mean cross entropy over the labelled rows; `None` if there were none.
    pub hard_loss: Option<f64>,
    /// Forward divergence from the teacher at its temperature, without the factor T², whatever the soft loss is; present
    /// exactly if soft targets were.
    pub kl: Option<f64>,
    /// Labelled rows that count.
    pub labelled: usize,
    /// What share of the gradient at the logits the teacher had; present exactly if soft targets were.
    pub gradient_share: Option<f64>,
    /// Loss between the layers, before its weight; present exactly if a hint was.
    pub feature_loss: Option<f64>,
}

/// Why a step or a state was refused. The trainer is as it was before the call.
#[derive(Debug, Error)]
pub enum Error {
    #[error("{what}: {found} values, expected {expected}")]
    Size {
        what: &'static str,
        found: usize,
        expected: usize,
    },
    #[error("{what} is {value}, expected {expected}")]
    Range {
        what: &'static str,
        value: f64,
        expected: &'static str,
    },
    #[error("label {label} of a model with {classes} classes")]
    Label { label: u32, classes: usize },
    #[error("kept classes {ids:?} of row {row}, expected ascending numbers below {classes}")]
    Kept {
        row: usize,
        ids: Vec<u32>,
        classes: usize,
    },
    /// Distillation would silently not take place.
    #[error("step {step} has alpha {alpha} and no soft targets")]
    MissingSoftTargets { step: u64, alpha: f64 },
    /// The soft loss compares with the label's class.
    #[error("step {step} has loss {loss:?} and no label of row {row}")]
    MissingLabel {
        step: u64,
        row: usize,
        loss: &'static str,
    },
    #[error("{what} of step {step} is {value}")]
    NonFinite {
        what: &'static str,
        step: u64,
        value: f64,
    },
    #[error("not the optimizer state of this model and optimizer")]
    OptimizerState,
    #[error("a group with one replica exchanges nothing")]
    Alone,
    #[error(transparent)]
    Wire(#[from] retort_sync::WireError),
    #[error(transparent)]
    CutTargets(#[from] retort_losses::CutTargets),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Evaluate(#[from] ClassifierError),
    #[error(transparent)]
    Choice(#[from] device::Error),
    #[error("{action} on the device")]
    Device {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A model in training. Its state is weights, optimizer state and steps; a trainer that is given all three goes on bit for
/// bit like the one they came from.
pub trait Trainer: Send {
    /// One optimizer step. With soft targets the report has a finite divergence, whatever alpha is, or the step fails.
    fn step(&mut self, batch: &Batch) -> Result<StepReport, Error>;

    /// The gradient of a batch, added to those since the last [`Trainer::apply`]; no step is taken.
    fn accumulate(&mut self, batch: &Batch) -> Result<StepReport, Error>;

    /// The mean of the accumulated gradients by samples, in the order of [`Trainer::flat`]; 0 if there are none.
    fn gradient(&self) -> Vec<f32>;

    /// Begins to accumulate anew.
    fn forget_gradient(&mut self);

    /// One optimizer step with a gradient in the order of [`Trainer::flat`]; what was accumulated is forgotten.
    fn apply(&mut self, gradient: &[f32], learning_rate: f64) -> Result<(), Error>;

    /// Loss and accuracy of the present weights, without dropout.
    fn evaluate(&mut self, samples: &HeldOut) -> Result<Evaluation, Error>;

    /// All weights in one vector, in the order of their names.
    fn flat(&self) -> Vec<f32>;

    /// Replaces all weights; the optimizer keeps its state.
    fn set_flat(&mut self, flat: &[f32]) -> Result<(), Error>;

    /// All weights as a safetensors file.
    fn weights(&self) -> Vec<u8>;

    /// Replaces all weights; the optimizer keeps its state.
    fn load_weights(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// The optimizer's state, for [`Trainer::load_optimizer_state`]. Equal states may differ in their bytes.
    fn optimizer_state(&self) -> Result<Vec<u8>, Error>;

    /// Replaces the optimizer's state by one of the same model and optimizer.
    fn load_optimizer_state(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// Steps taken so far: the number of the next one. Dropout depends on it.
    fn steps(&self) -> u64;

    fn set_steps(&mut self, steps: u64);
}
