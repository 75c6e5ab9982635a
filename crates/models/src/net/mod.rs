//! Networks: from a configuration, a shape and a seed to logits.

mod cnn;
mod init;
mod mlp;
mod resnet;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::fixture;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use retort_data::Shape;
use retort_data::rng::Rng;
use retort_job::{Architecture, Model};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::cnn::Cnn;
use self::init::Init;
use self::mlp::Mlp;
use self::resnet::Resnet;

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

    fn apply(&self, inputs: Tensor<4>) -> Tensor<4> {
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
}

impl Spec {
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
        Ok(())
    }

    /// Numbers of one input sample.
    pub fn input_len(&self) -> usize {
        self.input.channels * self.input.height * self.input.width
    }
}

/// A classifier network.
#[derive(Module, Debug)]
pub struct Net {
    pub(crate) body: Body,
    #[module(skip)]
    spec: Spec,
}

#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it for each model")]
pub(crate) enum Body {
    Mlp(Mlp),
    Cnn(Cnn),
    Resnet(Resnet),
}

impl Net {
    /// A network with initial weights from `seed`: the same ones on every machine and device, bit for bit.
    ///
    /// On a device with autodiff its weights track gradients.
    pub fn new(spec: &Spec, seed: u64, device: &Device) -> Result<Self, SpecError> {
        spec.validate()?;
        let mut init = Init::new(seed, device);
        let body = match spec.model.architecture {
            Architecture::Mlp => Body::Mlp(Mlp::new(spec, &mut init)),
            Architecture::Cnn => Body::Cnn(Cnn::new(spec, &mut init)),
            Architecture::Resnet => Body::Resnet(Resnet::new(spec, &mut init)),
        };
        Ok(Self {
            body,
            spec: spec.clone(),
        })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Logits of inputs before preprocessing. `noise` draws the dropout masks of a training step; without it nothing is
    /// dropped.
    ///
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - output: `[n, classes]`
    pub fn forward(&self, inputs: Tensor<4>, noise: Option<&mut Rng>) -> Tensor<2> {
        let inputs = self.spec.preprocessing.apply(inputs);
        let dropout = Dropout {
            rate: self.spec.model.dropout,
            noise,
        };
        match &self.body {
            Body::Mlp(net) => net.forward(inputs, dropout),
            Body::Cnn(net) => net.forward(inputs, dropout),
            Body::Resnet(net) => net.forward(inputs, dropout),
        }
    }

    /// Where its weights are.
    pub(crate) fn device(&self) -> Device {
        match &self.body {
            Body::Mlp(net) => net.classifier.weight.val().device(),
            Body::Cnn(net) => net.classifier.weight.val().device(),
            Body::Resnet(net) => net.classifier.weight.val().device(),
        }
    }
}

/// Dropout whose masks come from a generator of ours: burn's own would draw from a state that the whole process shares,
/// so that a resumed trainer could not go on as if it had never stopped.
pub(crate) struct Dropout<'a> {
    rate: f64,
    noise: Option<&'a mut Rng>,
}

impl Dropout<'_> {
    pub(crate) fn apply(&mut self, x: Tensor<2>) -> Tensor<2> {
        let Some(noise) = self.noise.as_deref_mut().filter(|_| self.rate > 0.0) else {
            return x;
        };
        let scale = (1.0 / (1.0 - self.rate)) as f32;
        let rate = self.rate as f32;
        let [rows, columns] = x.dims();
        let mask = (0..rows * columns).map(|_| if noise.uniform_f32() < rate { 0.0 } else { scale });
        let mask = TensorData::new(mask.collect::<Vec<f32>>(), [rows, columns]);
        let device = x.device();
        x * Tensor::from_data(mask, &device)
    }
}

/// 1 along a dimension of size 1, where there is nothing to convolve with or to pool, else `size`: signals are images of
/// height 1.
pub(crate) fn window(size: usize, height: usize, width: usize) -> [usize; 2] {
    [height, width].map(|extent| if extent > 1 { size } else { 1 })
}

/// Mean over the spatial dimensions.
///
/// # Shapes
///
/// - x: `[n, channels, height, width]`
/// - output: `[n, channels]`
pub(crate) fn global_average(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}
