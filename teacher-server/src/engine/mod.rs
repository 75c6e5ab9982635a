//! The seam between the teacher server and tensors: logits of samples, in plain data.

mod burn;
mod replay;

pub use self::burn::BurnEngine;
pub use self::replay::Replay;

use retort_job::Architecture;
pub use retort_models::Layer;
use retort_models::foreign::{self, RemoteError};
use retort_models::{Classifier, ClassifierError, Device, Spec, device, onnx};
use thiserror::Error;

use crate::kserve;

/// Why an engine cannot be loaded or does not answer.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Choice(#[from] device::Error),
    #[error(transparent)]
    Classifier(ClassifierError),
    #[error(transparent)]
    Kserve(#[from] kserve::Error),
    /// A model on a server that does not answer: asking again later may help.
    #[error("{0}")]
    Away(String),
    /// Answers that are of no use, and will not be.
    #[error("{0}")]
    Worthless(String),
    #[error("nothing is recorded of this sample, and the model is not loaded")]
    NotRecorded,
    #[error("{0}")]
    Layer(String),
}

impl From<ClassifierError> for Error {
    fn from(error: ClassifierError) -> Self {
        match error {
            ClassifierError::Remote(RemoteError::Away(reason)) => Self::Away(reason),
            ClassifierError::Remote(RemoteError::Wrong(reason)) => Self::Worthless(reason),
            ClassifierError::Foreign(e @ foreign::Error::Sum { .. })
            | ClassifierError::Onnx(onnx::Error::Foreign(e @ foreign::Error::Sum { .. })) => {
                Self::Worthless(e.to_string())
            }
            other => Self::Classifier(other),
        }
    }
}

/// The classifier with these weights, or what stands for them: the one place that knows all kinds.
pub fn classifier(spec: &Spec, weights: &[u8], device: &Device) -> Result<Classifier, Error> {
    match spec.model.architecture {
        Architecture::Kserve => {
            spec.validate().map_err(ClassifierError::from)?;
            Ok(kserve::open(spec, weights)?)
        }
        _ => Ok(Classifier::from_parts(spec, weights, device)?),
    }
}

/// One version of a teacher, ready to answer.
pub trait TeacherEngine: Send {
    /// Numbers of one sample.
    fn input_len(&self) -> usize;

    /// Numbers of one row of logits.
    fn classes(&self) -> usize;

    /// Rows of logits for each sample.
    fn rows(&self) -> usize {
        1
    }

    /// Unsoftened logits of `samples` inputs (before preprocessing), row by row, those of a sample one after the other. A sample's logits do not depend on what
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
