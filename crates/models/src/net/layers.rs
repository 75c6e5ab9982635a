//! Layers by name, and what a forward pass costs.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use retort_job::Architecture;

use super::{Spec, SpecError, bag, cnn, custom, mlp, mobilenet, resnet, transformer};

/// A layer whose output can be asked for: `hidden1`, ... of an `mlp`, `conv1`, ... of a `cnn`, `stem`, `stage1`, ... of a
/// `resnet`, `stem`, `block1`, ... of a `mobilenet`, `block1`, ... of a `transformer` or a `bert`, `mean`, `hidden1`, ... of an
/// `embedding-bag`, `output` of a `custom` one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub name: String,
    pub channels: usize,
    /// Places that each have all the channels: pixels, samples of a signal, tokens (padding included); 1 of an `mlp` and an
    /// `embedding-bag`.
    pub positions: usize,
}

impl Layer {
    pub(super) fn new(name: impl Into<String>, channels: usize, positions: usize) -> Self {
        Self {
            name: name.into(),
            channels,
            positions,
        }
    }
}

impl Spec {
    /// The layers of a sound specification, in the order of a forward pass.
    pub fn layers(&self) -> Vec<Layer> {
        match self.model.architecture {
            Architecture::Mlp => mlp::layers(self.signal_len(), self),
            Architecture::Cnn => cnn::layers(self),
            Architecture::Resnet => resnet::layers(self),
            Architecture::Mobilenet => mobilenet::layers(self),
            Architecture::Transformer | Architecture::Bert => transformer::layers(self),
            Architecture::EmbeddingBag => bag::layers(self),
            Architecture::Custom => custom::output(self).into_iter().collect(),
            Architecture::Onnx | Architecture::Kserve => Vec::new(),
        }
    }

    /// Number and description of the layer with this name.
    pub fn layer(&self, name: &str) -> Result<(usize, Layer), SpecError> {
        if self.model.architecture.is_foreign() {
            return Err(SpecError::Foreign);
        }
        let layers = self.layers();
        let known: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let known = if known.is_empty() {
            "none, the model has no layers before its classifier".into()
        } else {
            known.join(", ")
        };
        let found = layers
            .into_iter()
            .enumerate()
            .find(|(_, layer)| layer.name == name);
        found.ok_or_else(|| SpecError::Layer {
            name: name.into(),
            known,
        })
    }

    /// Floating-point operations of one sample's forward pass: twice the multiplications of all products with weights and
    /// of attention, and of the mean of an `embedding-bag`. Looking up embeddings costs none. Biases, norms, activations, pooling, softmax and preprocessing, which are of a lower order, are not
    /// counted, padding counts like what it surrounds, and neither exits nor a projection run in [`Net::forward`](crate::Net::forward).
    /// `None` of a `custom` model and of one from elsewhere, which nobody counts.
    pub fn flops(&self) -> Option<u64> {
        let body = match self.model.architecture {
            Architecture::Mlp => mlp::products(self.signal_len(), self),
            Architecture::Cnn => cnn::products(self),
            Architecture::Resnet => resnet::products(self),
            Architecture::Mobilenet => mobilenet::products(self),
            Architecture::Transformer | Architecture::Bert => transformer::products(self),
            Architecture::EmbeddingBag => bag::products(self),
            Architecture::Onnx | Architecture::Kserve | Architecture::Custom => return None,
        };
        Some(2 * (body + self.rows * self.features() * self.classes) as u64)
    }

    /// Numbers that the classifier sees.
    pub(super) fn features(&self) -> usize {
        let last = self.layers().pop();
        last.map_or(self.input_len(), |layer| layer.channels)
    }

    /// Numbers of the layer with this name's projection, weights and biases; 0 without one.
    pub(crate) fn projection_parameters(&self) -> usize {
        let parameters = self.projection.as_ref().and_then(|projection| {
            let (_, layer) = self.layer(&projection.layer).ok()?;
            Some((layer.channels + 1) * projection.channels)
        });
        parameters.unwrap_or(0)
    }

    /// Number and description of the layer in front of each exit.
    pub(super) fn exit_layers(&self) -> Vec<(usize, Layer)> {
        let exits = self.model.exits_at();
        if exits.is_empty() {
            return Vec::new();
        }
        let layers: Vec<(usize, Layer)> = self.layers().into_iter().enumerate().collect();
        // A stem lies before the segments.
        let segments = &layers[layers.len() - self.model.segments() as usize..];
        exits
            .iter()
            .map(|&at| segments[at as usize - 1].clone())
            .collect()
    }
}

/// Outputs of layers that somebody asked for, by number. A forward pass offers every layer's; one that nobody asked for
/// costs nothing.
pub(super) struct Taps(BTreeMap<usize, Option<Tensor<3>>>);

impl Taps {
    pub(super) fn new(layers: impl IntoIterator<Item = usize>) -> Self {
        Self(layers.into_iter().map(|layer| (layer, None)).collect())
    }

    /// # Shapes
    ///
    /// - output: `[n, channels, positions]`
    pub(super) fn offer(&mut self, layer: usize, output: impl FnOnce() -> Tensor<3>) {
        if let Some(slot) = self.0.get_mut(&layer) {
            *slot = Some(output());
        }
    }

    /// What the layer put out, if it was asked for and has run.
    pub(super) fn output(&self, layer: usize) -> Option<Tensor<3>> {
        self.0.get(&layer).cloned().flatten()
    }
}
