//! Plain convolutional networks.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

use super::layers::{Layer, Taps};
use super::{Init, Spec, window};

/// Convolutions 3 x 3 of `width`, 2 `width`, 4 `width`, ... channels with ReLU, 2 x 2 max pooling between them along each
/// dimension that still has extent.
#[derive(Module, Debug)]
pub(super) struct Cnn {
    convolutions: Vec<Conv2d>,
}

/// A convolution by its sizes.
struct Plan {
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
}

fn plan(spec: &Spec) -> Vec<Plan> {
    let first = Plan {
        inputs: spec.channels(),
        outputs: spec.model.width.unwrap_or(1) as usize,
        height: spec.input.height,
        width: spec.input.width,
    };
    let next = |plan: &Plan| {
        let [vertical, horizontal] = window(2, plan.height, plan.width);
        Some(Plan {
            inputs: plan.outputs,
            outputs: 2 * plan.outputs,
            height: plan.height / vertical,
            width: plan.width / horizontal,
        })
    };
    let plans = std::iter::successors(Some(first), next);
    plans.take(spec.model.depth() as usize).collect()
}

fn kernel(spec: &Spec) -> [usize; 2] {
    window(3, spec.input.height, spec.input.width)
}

pub(super) fn layers(spec: &Spec) -> Vec<Layer> {
    let name = |(i, p): (usize, Plan)| Layer::new(format!("conv{}", i + 1), p.outputs, p.height * p.width);
    plan(spec).into_iter().enumerate().map(name).collect()
}

/// Multiplications of one sample.
pub(super) fn products(spec: &Spec) -> usize {
    let taps: usize = kernel(spec).iter().product();
    let of = |p: &Plan| taps * p.inputs * p.outputs * p.height * p.width;
    plan(spec).iter().map(of).sum()
}

impl Cnn {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let mut convolution = |p: &Plan| init.conv([p.inputs, p.outputs], kernel(spec), [1, 1], true);
        Self {
            convolutions: plan(spec).iter().map(&mut convolution).collect(),
        }
    }

    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - output: `[n, channels, positions]`, the last convolution's
    pub(super) fn forward(&self, inputs: Tensor<4>, taps: &mut Taps) -> Tensor<3> {
        let mut x = inputs;
        for (layer, convolution) in self.convolutions.iter().enumerate() {
            if layer > 0 {
                let [_, _, height, width] = x.dims();
                x = max_pool2d(x, MaxPoolOptions::new(window(2, height, width)));
            }
            x = relu(convolution.forward(x));
            taps.offer(layer, || x.clone().flatten(2, 3));
        }
        x.flatten(2, 3)
    }
}
