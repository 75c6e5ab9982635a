//! Layers with initial weights.

use burn::module::{Param, ParamId};
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, GroupNorm, LayerNorm, LayerNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData};
use retort_data::rng::Rng;

/// Channels of one group of a norm, at least (the paper's comparison finds 16 and 8 alike).
const CHANNELS_PER_GROUP: usize = 8;

/// Added to a variance before its root is taken: the default of PyTorch and burn alike.
pub(super) const EPSILON: f64 = 1e-5;

/// Makes layers. Each weight is drawn from the seed and its own number, so that no draw depends on another one or on
/// the device. The number is also its identity for the optimizer, whose saved state then fits a network built anew.
pub struct Init<'a> {
    seed: u64,
    next: u64,
    device: &'a Device,
}

impl<'a> Init<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self {
            seed,
            next: 0,
            device,
        }
    }

    /// How many weights it made; they are numbered from 0 on.
    pub(super) fn made(&self) -> u64 {
        self.next
    }

    pub fn linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear {
            weight: self.uniform([inputs, outputs], inputs),
            bias: Some(self.uniform([outputs], inputs)),
        }
    }

    /// Vectors of the size that a linear layer over one-hot tokens of this width would be given.
    pub fn embedding(&mut self, vocabulary: usize, width: usize) -> Embedding {
        Embedding {
            weight: self.uniform([vocabulary, width], width),
        }
    }

    pub fn linear_without_bias(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear {
            weight: self.uniform([inputs, outputs], inputs),
            bias: None,
        }
    }

    /// A convolution that keeps the extent of its input, up to the stride.
    pub fn conv(
        &mut self,
        channels: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        bias: bool,
    ) -> Conv2d {
        let fan_in = channels[0] * kernel[0] * kernel[1];
        let weight = self.uniform([channels[1], channels[0], kernel[0], kernel[1]], fan_in);
        let bias = bias.then(|| self.uniform([channels[1]], fan_in));
        convolution(weight, bias, stride, 1)
    }

    /// Such a convolution of each channel by itself, without bias.
    pub(crate) fn depthwise(&mut self, channels: usize, kernel: [usize; 2], stride: [usize; 2]) -> Conv2d {
        let weight = self.uniform([channels, 1, kernel[0], kernel[1]], kernel[0] * kernel[1]);
        convolution(weight, None, stride, channels)
    }

    /// A group norm.
    pub fn norm(&mut self, channels: usize) -> GroupNorm {
        let most = (channels / CHANNELS_PER_GROUP).max(1);
        let groups = (1..=most).rev().find(|groups| channels.is_multiple_of(*groups));
        GroupNorm {
            gamma: Some(self.constant(channels, 1.0)),
            beta: Some(self.constant(channels, 0.0)),
            num_groups: groups.unwrap_or(1),
            num_channels: channels,
            epsilon: EPSILON,
            affine: true,
        }
    }

    pub fn layer_norm(&mut self, channels: usize) -> LayerNorm {
        self.layer_norm_with(channels, EPSILON)
    }

    pub(crate) fn layer_norm_with(&mut self, channels: usize, epsilon: f64) -> LayerNorm {
        let config = LayerNormConfig::new(channels).with_epsilon(epsilon);
        let mut norm = config.init(self.device);
        norm.gamma = self.constant(channels, 1.0);
        norm.beta = Some(self.constant(channels, 0.0));
        norm
    }

    /// Kaiming-uniform with a = sqrt(5), that is within 1 / sqrt(fan-in): the default of PyTorch and burn alike.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = (1.0 / (fan_in as f64).sqrt()) as f32;
        let mut rng = Rng::keyed(&[self.seed, self.next]);
        let values = (0..shape.iter().product())
            .map(|_| (2.0 * rng.uniform_f32() - 1.0) * bound)
            .collect();
        self.param(values, shape)
    }

    pub fn constant(&mut self, len: usize, value: f32) -> Param<Tensor<1>> {
        self.param(vec![value; len], [len])
    }

    fn param<const D: usize>(&mut self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        let id = ParamId::from(self.next);
        self.next += 1;
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Param::initialized(id, tensor.set_require_grad(self.device.is_autodiff()))
    }
}

/// One that keeps the extent of its input, up to the stride. `weight`: `[outputs, inputs / groups, rows, columns]`.
fn convolution(
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    stride: [usize; 2],
    groups: usize,
) -> Conv2d {
    let [_, _, rows, columns] = weight.shape().dims();
    let [vertical, horizontal] = [rows / 2, columns / 2];
    Conv2d {
        weight,
        bias,
        stride,
        kernel_size: [rows, columns],
        dilation: [1, 1],
        groups,
        padding: PaddingConfig2d::Explicit(vertical, horizontal, vertical, horizontal),
    }
}
