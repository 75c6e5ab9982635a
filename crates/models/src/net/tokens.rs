//! Inputs that are ids of tokens, 0 being padding, which nothing may depend on.

use burn::nn::Embedding;
use burn::tensor::Tensor;

/// 1 where a token is, 0 where padding is.
///
/// # Shapes
///
/// - inputs: `[n, 1, 1, tokens]`
/// - output: `[n, 1, tokens]`
pub(super) fn mask(inputs: &Tensor<4>) -> Tensor<3> {
    inputs.clone().flatten::<3>(2, 3).not_equal_elem(0.0).float()
}

/// The vectors of tokens. An id beyond the vocabulary, which no data set has but a stranger may send, stands for the last
/// one.
///
/// # Shapes
///
/// - inputs: `[n, 1, 1, tokens]`
/// - output: `[n, tokens, width]`
pub(super) fn embed(embedding: &Embedding, inputs: Tensor<4>) -> Tensor<3> {
    let [vocabulary, _] = embedding.weight.val().dims();
    let ids = inputs.flatten::<2>(1, 3).clamp(0.0, (vocabulary - 1) as f64);
    embedding.forward(ids.int())
}

/// The vectors of tokens as a signal whose channels are their numbers. Padding is zeros, like what lies beyond a border.
///
/// # Shapes
///
/// - inputs: `[n, 1, 1, tokens]`
/// - output: `[n, width, 1, tokens]`
pub(super) fn signal(embedding: &Embedding, inputs: Tensor<4>) -> Tensor<4> {
    let there = mask(&inputs);
    let vectors = embed(embedding, inputs).swap_dims(1, 2);
    (vectors * there).unsqueeze_dim(2)
}

/// The mean over what is no padding; 0 where all is padding.
///
/// # Shapes
///
/// - x: `[n, tokens, width]`
/// - mask: `[n, 1, tokens]`
/// - output: `[n, width]`
pub(super) fn mean(x: Tensor<3>, mask: Tensor<3>) -> Tensor<2> {
    let count = mask.clone().sum_dim(2).clamp_min(1.0);
    (mask.matmul(x) / count).squeeze_dim(1)
}
