//! What follows the layers: the classifier, and those on the way to it.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;

use super::layers::Layer;
use super::{Dropout, Init, Spec, tokens};

/// A mean over positions, or several of them each by itself, and a linear classifier, with a norm before them where the layers
/// leave that out.
#[derive(Module, Debug)]
pub(super) struct Head {
    norm: Option<LayerNorm>,
    pub(super) classifier: Linear,
    #[module(skip)]
    rows: usize,
}

impl Head {
    pub(super) fn new(spec: &Spec, features: usize, init: &mut Init<'_>) -> Self {
        let normed = spec.model.architecture == retort_job::Architecture::Transformer;
        Self {
            norm: normed.then(|| init.layer_norm(features)),
            classifier: init.linear(features, spec.classes),
            rows: spec.rows,
        }
    }

    /// # Shapes
    ///
    /// - features: `[n, channels, positions]`
    /// - mask: `[n, 1, positions]`, of the positions that count where not all do
    /// - output: `[n * rows, channels]`: of more than one the last positions
    pub(super) fn pool(&self, features: Tensor<3>, mask: Option<&Tensor<3>>) -> Tensor<2> {
        if self.rows > 1 {
            return self.last(features);
        }
        let features = match &self.norm {
            Some(norm) => norm.forward(features.swap_dims(1, 2)).swap_dims(1, 2),
            None => features,
        };
        match mask {
            Some(mask) => tokens::mean(features.swap_dims(1, 2), mask.clone()),
            None => features.mean_dim(2).squeeze_dim(2),
        }
    }

    fn last(&self, features: Tensor<3>) -> Tensor<2> {
        let [_, _, positions] = features.dims();
        let last = features
            .swap_dims(1, 2)
            .narrow(1, positions - self.rows, self.rows);
        let last = last.flatten::<2>(0, 1);
        match &self.norm {
            Some(norm) => norm.forward(last),
            None => last,
        }
    }

    /// # Shapes
    ///
    /// - pooled: `[n * rows, channels]`
    /// - output: `[n * rows, classes]`
    pub(super) fn classify(&self, pooled: Tensor<2>, dropout: &mut Dropout<'_>) -> Tensor<2> {
        self.classifier.forward(dropout.apply(pooled))
    }
}

/// A classifier on the way: what its layers would have at their end, so that they can be cut there and stand alone.
#[derive(Module, Debug)]
pub(super) struct Exit {
    pub(super) head: Head,
    /// Brings its pooled features to the width of the last ones, only to compare them in training.
    pub(super) hint: Option<Linear>,
}

impl Exit {
    pub(super) fn new(spec: &Spec, layer: &Layer, init: &mut Init<'_>) -> Self {
        let weight = spec
            .model
            .exits
            .as_ref()
            .map_or(0.0, |exits| exits.feature_weight);
        Self {
            head: Head::new(spec, layer.channels, init),
            hint: (weight > 0.0).then(|| init.linear(layer.channels, spec.features())),
        }
    }
}
