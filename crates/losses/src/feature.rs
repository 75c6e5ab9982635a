//! Losses on what a layer of the student and one of its teacher hold, rather than on what they answer.
//!
//! Features are `[n, channels, positions]`: of an image the positions are its pixels, of a sequence its tokens. Each loss
//! is normalised by what it compares, so that a weight that suits one pair of models is of the right size for another, and
//! is 0 where student and teacher agree. Features count whole: who wants another layer's size projects them first.

mod attention;
mod cosine;
mod hint;
mod relational;

use burn::tensor::Tensor;

pub use attention::Attention;
pub use cosine::Cosine;
pub use hint::Hint;
pub use relational::Relational;

/// Which loss compares the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureLoss {
    /// [`Hint`]; channels and positions must be the teacher's.
    Hint,
    /// [`Attention`]; positions must be the teacher's.
    Attention,
    /// [`Cosine`]; channels and positions must be the teacher's.
    Cosine,
    /// [`Relational`]; of any sizes.
    Relational,
}

impl FeatureLoss {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels, positions]`, equal to the student's where the loss asks for it
    /// - output: `[1]`
    pub fn forward(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        match self {
            Self::Hint => Hint.forward(student, teacher),
            Self::Attention => Attention.forward(student, teacher),
            Self::Cosine => Cosine.forward(student, teacher),
            Self::Relational => Relational.forward(student, teacher),
        }
    }
}

/// Squared length below which a vector has no direction: that of PyTorch's `normalize`, 1e-12, squared.
const SHORT: f32 = 1e-24;

/// The vectors along a dimension at length 1; at length 0, without a gradient, where they are too short to have a
/// direction.
fn unit<const D: usize>(vectors: Tensor<D>, dim: usize) -> Tensor<D> {
    let (_, inverse) = lengths(vectors.clone(), dim);
    vectors * inverse
}

/// Lengths of the vectors along a dimension and their inverses, with that dimension at size 1; both 0, without a gradient,
/// where a vector is too short to have a direction.
fn lengths<const D: usize>(vectors: Tensor<D>, dim: usize) -> (Tensor<D>, Tensor<D>) {
    let square = vectors.powi_scalar(2).sum_dim(dim);
    let short = square.clone().lower_scalar(SHORT);
    // The root of 0 has no gradient that could be masked afterwards.
    let length = square.mask_fill(short.clone(), 1.0).sqrt();
    let inverse = length.clone().recip().mask_fill(short.clone(), 0.0);
    (length.mask_fill(short, 0.0), inverse)
}

#[cfg(test)]
mod tests;
