//! Bags of token embeddings.

use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::Tensor;

use super::layers::{Layer, Taps};
use super::mlp::{self, Mlp};
use super::{Dropout, Init, Spec, tokens};

/// The mean of the vectors of a text's tokens, and hidden layers behind it, as in a perceptron. Which token stands where
/// does not matter, but for what n-grams tell of it. Joulin et al., Bag of Tricks for Efficient Text Classification, 2017,
/// <https://arxiv.org/abs/1607.01759>; Iyyer et al., Deep Unordered Composition Rivals Syntactic Methods for Text
/// Classification, 2015, <https://aclanthology.org/P15-1162>.
#[derive(Module, Debug)]
pub(super) struct EmbeddingBag {
    embedding: Embedding,
    perceptron: Mlp,
}

fn width(spec: &Spec) -> usize {
    spec.model.embedding.unwrap_or(1) as usize
}

pub(super) fn layers(spec: &Spec) -> Vec<Layer> {
    let mean = Layer::new("mean", width(spec), 1);
    std::iter::once(mean)
        .chain(mlp::layers(width(spec), spec))
        .collect()
}

/// Multiplications of one sample: those of the mean, which leaves padding out by a product, and of the hidden layers.
pub(super) fn products(spec: &Spec) -> usize {
    spec.input_len() * width(spec) + mlp::products(width(spec), spec)
}

impl EmbeddingBag {
    pub(super) fn new(spec: &Spec, init: &mut Init<'_>) -> Self {
        Self {
            embedding: init.embedding(spec.vocabulary(), width(spec)),
            perceptron: Mlp::new(width(spec), spec, init),
        }
    }

    /// # Shapes
    ///
    /// - inputs: `[n, 1, 1, tokens]`
    /// - output: `[n, units, 1]`, the last layer's
    pub(super) fn forward(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>, taps: &mut Taps) -> Tensor<3> {
        let mask = tokens::mask(&inputs);
        let mean = tokens::mean(tokens::embed(&self.embedding, inputs), mask);
        taps.offer(0, || mean.clone().unsqueeze_dim(2));
        self.perceptron.forward(mean, 1, dropout, taps)
    }
}
