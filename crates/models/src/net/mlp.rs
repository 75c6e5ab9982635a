//! Perceptrons: linear layers with ReLU between them.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::layers::{Layer, Taps};
use super::{Dropout, Init, Spec};

/// Hidden layers, each with ReLU, and dropout between them.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    hidden: Vec<Linear>,
}

/// Inputs, then the units of each hidden layer.
fn sizes(inputs: usize, spec: &Spec) -> Vec<usize> {
    let hidden = spec.model.hidden.iter().flatten();
    std::iter::once(inputs)
        .chain(hidden.map(|&units| units as usize))
        .collect()
}

pub(super) fn layers(inputs: usize, spec: &Spec) -> Vec<Layer> {
    let units = sizes(inputs, spec).into_iter().enumerate().skip(1);
    units
        .map(|(i, units)| Layer::new(format!("hidden{i}"), units, 1))
        .collect()
}

/// Multiplications of one sample.
pub(super) fn products(inputs: usize, spec: &Spec) -> usize {
    sizes(inputs, spec).windows(2).map(|pair| pair[0] * pair[1]).sum()
}

impl Mlp {
    pub(super) fn new(inputs: usize, spec: &Spec, init: &mut Init<'_>) -> Self {
        let mut linear = |pair: &[usize]| init.linear(pair[0], pair[1]);
        Self {
            hidden: sizes(inputs, spec).windows(2).map(&mut linear).collect(),
        }
    }

    /// `first`: the number of the first hidden layer among all of the network.
    ///
    /// # Shapes
    ///
    /// - x: `[n, inputs]`
    /// - output: `[n, units, 1]`, the last layer's
    pub(super) fn forward(
        &self,
        mut x: Tensor<2>,
        first: usize,
        dropout: &mut Dropout<'_>,
        taps: &mut Taps,
    ) -> Tensor<3> {
        for (layer, linear) in self.hidden.iter().enumerate() {
            if layer > 0 {
                x = dropout.apply(x);
            }
            x = relu(linear.forward(x));
            taps.offer(first + layer, || x.clone().unsqueeze_dim(2));
        }
        x.unsqueeze_dim(2)
    }
}
