//! Perceptrons: linear layers with ReLU between them.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::{Dropout, Init, Spec};

/// Hidden layers, each with ReLU and dropout after it, and a linear classifier.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    hidden: Vec<Linear>,
    pub(super) classifier: Linear,
}

impl Mlp {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let mut inputs = spec.input_len();
        let mut hidden = Vec::new();
        for &units in spec.model.hidden.iter().flatten() {
            hidden.push(init.linear(inputs, units as usize));
            inputs = units as usize;
        }
        Self {
            hidden,
            classifier: init.linear(inputs, spec.classes),
        }
    }

    pub(super) fn forward(&self, inputs: Tensor<4>, mut dropout: Dropout<'_>) -> Tensor<2> {
        let x = self.hidden.iter().fold(inputs.flatten::<2>(1, 3), |x, layer| {
            dropout.apply(relu(layer.forward(x)))
        });
        self.classifier.forward(x)
    }
}
