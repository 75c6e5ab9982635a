//! The seam between the teacher server and tensors: logits of samples, in plain data.

mod burn;
mod replay;

pub use self::burn::BurnEngine;
pub use self::replay::Replay;

pub use retort_models::Layer;
use retort_models::{ClassifierError, device};
use thiserror::Error;

/// Why an engine cannot be loaded or does not answer.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Choice(#[from] device::Error),
    #[error(transparent)]
    Classifier(#[from] ClassifierError),
    #[error("nothing is recorded of this sample, and the model is not loaded")]
    NotRecorded,
    #[error("{0}")]
    Layer(String),
}

/// One version of a teacher, ready to answer.
pub trait TeacherEngine: Send {
    /// Numbers of one sample.
    fn input_len(&self) -> usize;

    /// Numbers of one row of logits.
    fn classes(&self) -> usize;

    /// Unsoftened logits of `samples` inputs (before preprocessing), row by row. A sample's logits do not depend on what
    /// else is asked with it.
    fn logits(&mut self, inputs: &[f32], samples: usize) -> Result<Vec<f32>, Error>;

    /// The layers whose output it can show, and what they put out for one sample.
    fn layers(&self) -> Vec<Layer> {
        Vec::new()
    }

    /// Logits as [`TeacherEngine::logits`] gives them, and the output of one of its layers for each sample, channel by
    /// channel.
    fn features(&mut self, _: &[f32], _: usize, layer: &str) -> Result<(Vec<f32>, Vec<f32>), Error> {
        Err(Error::Layer(format!(
            "no layer {layer:?}: this teacher shows none"
        )))
    }
}
