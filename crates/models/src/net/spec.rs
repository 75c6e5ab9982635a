//! What a network is but for its weights.

use burn::tensor::{Tensor, TensorData};
use retort_data::{Dataset, Shape, Tokens};
use retort_job::{Architecture, Features, Model};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Layer, custom};

/// What a network does to its inputs first: `(x - mean) / std`, by channel. It is part of the model, so that one view of
/// a sample means the same to every model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Preprocessing {
    /// Leaves inputs as they are.
    pub fn none(channels: usize) -> Self {
        Self {
            mean: vec![0.0; channels],
            std: vec![1.0; channels],
        }
    }

    pub(super) fn apply(&self, inputs: Tensor<4>) -> Tensor<4> {
        if self.mean.iter().all(|&m| m == 0.0) && self.std.iter().all(|&s| s == 1.0) {
            return inputs;
        }
        let device = inputs.device();
        let by_channel = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1]);
            Tensor::<4>::from_data(data, &device)
        };
        (inputs - by_channel(&self.mean)) / by_channel(&self.std)
    }
}

/// Everything about a network but its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub model: Model,
    pub input: Shape,
    pub classes: usize,
    pub preprocessing: Preprocessing,
    /// How a text becomes the ids that its inputs are; `None`: they are numbers.
    pub tokens: Option<Tokens>,
    /// Rows of logits for each sample. More than 1: one for each of its last positions, which say what follows there.
    pub rows: usize,
    /// For a loss that compares features with a wider or narrower teacher's; a model card never has one.
    pub projection: Option<Projection>,
}

/// A linear map over the channels of a layer's output. It is trained with the network and of no use afterwards:
/// [`Net::without_projection`](crate::Net::without_projection) and
/// [`Export::without_projection`](crate::Export::without_projection) leave it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Name of one of [`Spec::layers`].
    pub layer: String,
    /// Channels that it makes.
    pub channels: usize,
}

/// Why no network can be built from a [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error("model.{key} is {value}, expected {expected}")]
    Model {
        key: String,
        value: String,
        expected: String,
    },
    #[error("model.architecture is {found}, expected {expected} for inputs that are {inputs}")]
    Architecture {
        found: Architecture,
        expected: &'static str,
        inputs: &'static str,
    },
    #[error(
        "{rows} rows of logits of windows of {positions} tokens, expected 1 to {positions}, and 1 of tokens that do not \
             follow one another"
    )]
    Rows { rows: usize, positions: usize },
    #[error("inputs that are tokens have a shape of 1x1xL and no preprocessing, found {0}")]
    Tokens(Shape),
    #[error("an input of {channels} x {height} x {width} holds nothing")]
    Empty {
        channels: usize,
        height: usize,
        width: usize,
    },
    #[error("a classifier needs at least 1 class")]
    NoClasses,
    #[error("preprocessing has {mean} means and {std} deviations for {channels} channels")]
    Channels {
        mean: usize,
        std: usize,
        channels: usize,
    },
    #[error("preprocessing must be finite, with deviations greater than 0")]
    Preprocessing,
    #[error("no layer {name:?}: expected one of {known}")]
    Layer { name: String, known: String },
    #[error("a projection of layer {0:?} needs at least 1 channel")]
    NoChannels(String),
    #[error(
        "layer {student:?} has {found} positions and the teacher's layer {teacher:?} {expected}: this loss compares \
         position with position, \"relational\" does not"
    )]
    Positions {
        student: String,
        found: usize,
        teacher: String,
        expected: usize,
    },
    #[error(
        "an ONNX model, or one on a server, is no network of ours: it only evaluates, without layers, exits or training"
    )]
    Foreign,
    #[error("architecture {name:?}: {reason}")]
    Custom { name: String, reason: String },
    #[error("no exit {exit}: expected one of {known}")]
    Exit { exit: u32, known: String },
}

impl Spec {
    /// The network of a job's model for this data: its inputs, classes and tokens, and the mean and deviation of its
    /// training samples where they are numbers. Goes through all of them.
    pub fn of(dataset: &Dataset, model: Model) -> Self {
        let preprocessing = if dataset.tokens().is_some() {
            Preprocessing::none(dataset.shape().channels)
        } else {
            let (mean, std) = dataset.pixel_stats();
            Preprocessing { mean, std }
        };
        Self {
            model,
            input: dataset.shape(),
            classes: dataset.classes(),
            preprocessing,
            tokens: dataset.tokens().cloned(),
            rows: dataset.rows(),
            projection: None,
        }
    }

    /// Refuses what no network can be built from.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let Some((key, value, expected)) = self.model.problems().into_iter().next() {
            return Err(SpecError::Model { key, value, expected });
        }
        let Shape {
            channels,
            height,
            width,
        } = self.input;
        if channels * height * width == 0 {
            return Err(SpecError::Empty {
                channels,
                height,
                width,
            });
        }
        if self.classes == 0 {
            return Err(SpecError::NoClasses);
        }
        self.check_tokens()?;
        let Preprocessing { mean, std } = &self.preprocessing;
        if mean.len() != channels || std.len() != channels {
            return Err(SpecError::Channels {
                mean: mean.len(),
                std: std.len(),
                channels,
            });
        }
        let finite = mean.iter().chain(std).all(|v| v.is_finite());
        if !finite || std.iter().any(|&s| s <= 0.0) {
            return Err(SpecError::Preprocessing);
        }
        if self.model.architecture == Architecture::Custom {
            custom::output(self)?;
        }
        if let Some(Projection { layer, channels }) = &self.projection {
            self.layer(layer)?;
            if *channels == 0 {
                return Err(SpecError::NoChannels(layer.clone()));
            }
        }
        Ok(())
    }

    /// Ids are no quantities, and numbers are no ids.
    fn check_tokens(&self) -> Result<(), SpecError> {
        let found = self.model.architecture;
        let embeds = self.model.embedding.is_some();
        let misfit = match (found, &self.tokens) {
            (Architecture::Mlp | Architecture::Cnn, Some(_)) if !embeds => Some(("an embedding", "tokens")),
            (Architecture::Mlp | Architecture::Cnn, None) if embeds => Some(("no embedding", "numbers")),
            (Architecture::Resnet | Architecture::Mobilenet, Some(_)) => {
                Some(("mlp, cnn, embedding-bag or transformer", "tokens"))
            }
            (Architecture::EmbeddingBag | Architecture::Bert, None) => {
                Some(("mlp, cnn, resnet, mobilenet or transformer", "numbers"))
            }
            _ if self.rows > 1 && found != Architecture::Transformer => {
                Some(("transformer", "windows with several targets (text.next.targets)"))
            }
            _ => None,
        };
        if let Some((expected, inputs)) = misfit {
            return Err(SpecError::Architecture {
                found,
                expected,
                inputs,
            });
        }
        let plain =
            self.input.height * self.input.channels == 1 && self.preprocessing == Preprocessing::none(1);
        if self.tokens.is_some() && !plain {
            return Err(SpecError::Tokens(self.input));
        }
        let (rows, positions) = (self.rows, self.input.width);
        let sound = rows == 1 || self.border().is_some() && (2..=positions).contains(&rows);
        if !sound {
            return Err(SpecError::Rows { rows, positions });
        }
        Ok(())
    }

    /// Number of token ids; 0 where inputs are numbers.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokens.as_ref().map_or(0, Tokens::vocabulary)
    }

    /// The id that stands between documents.
    pub(super) fn border(&self) -> Option<u16> {
        self.tokens.as_ref().and_then(Tokens::border)
    }

    /// A student's specification for learning from a layer of its teacher's: with a projection where the loss compares
    /// channel with channel and the two layers have not as many.
    pub fn learning_from(self, features: &Features, teacher: &Layer) -> Result<Self, SpecError> {
        let (_, layer) = self.layer(&features.student_layer)?;
        if features.loss.by_position() && layer.positions != teacher.positions {
            return Err(SpecError::Positions {
                student: layer.name,
                found: layer.positions,
                teacher: teacher.name.clone(),
                expected: teacher.positions,
            });
        }
        let projects = features.loss.by_channel() && layer.channels != teacher.channels;
        let projection = projects.then_some(Projection {
            layer: layer.name,
            channels: teacher.channels,
        });
        Ok(Self { projection, ..self })
    }

    /// Channels of what the layers see: numbers of a token's vector, or those of the input.
    pub(super) fn channels(&self) -> usize {
        let numbers = self.signal_of_tokens().then_some(self.model.embedding).flatten();
        numbers.map_or(self.input.channels, |numbers| numbers as usize)
    }

    /// Whether tokens become a signal first, whose channels are the numbers of their vectors.
    pub(super) fn signal_of_tokens(&self) -> bool {
        let takes = matches!(self.model.architecture, Architecture::Mlp | Architecture::Cnn);
        takes && self.tokens.is_some()
    }

    /// Numbers of what the layers see.
    pub(super) fn signal_len(&self) -> usize {
        self.channels() * self.input.height * self.input.width
    }

    /// Numbers of one input sample.
    pub fn input_len(&self) -> usize {
        self.input.channels * self.input.height * self.input.width
    }
}
