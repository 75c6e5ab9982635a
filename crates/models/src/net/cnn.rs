//! Plain convolutional networks.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

use super::{Dropout, Init, Spec, global_average, window};

/// Convolutions 3 x 3 of `width`, 2 `width`, 4 `width`, ... channels with ReLU, 2 x 2 max pooling between them along each
/// dimension that still has extent, a global average and a linear classifier.
#[derive(Module, Debug)]
pub(crate) struct Cnn {
    convolutions: Vec<Conv2d>,
    pub(super) classifier: Linear,
}

impl Cnn {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        let kernel = window(3, spec.input.height, spec.input.width);
        let mut inputs = spec.input.channels;
        let mut outputs = spec.model.width.unwrap_or(1) as usize;
        let mut convolutions = Vec::new();
        for _ in 0..spec.model.depth() {
            convolutions.push(init.conv([inputs, outputs], kernel, [1, 1], true));
            (inputs, outputs) = (outputs, 2 * outputs);
        }
        Self {
            convolutions,
            classifier: init.linear(inputs, spec.classes),
        }
    }

    pub(super) fn forward(&self, inputs: Tensor<4>, mut dropout: Dropout<'_>) -> Tensor<2> {
        let mut x = inputs;
        for (layer, convolution) in self.convolutions.iter().enumerate() {
            if layer > 0 {
                let [_, _, height, width] = x.dims();
                x = max_pool2d(x, MaxPoolOptions::new(window(2, height, width)));
            }
            x = relu(convolution.forward(x));
        }
        self.classifier.forward(dropout.apply(global_average(x)))
    }
}
