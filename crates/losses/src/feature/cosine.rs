//! Directions: the student's hidden states are to point where the teacher's do.

use burn::tensor::Tensor;

use super::unit;

/// Cosine distance of hidden states: `mean over samples and positions of 1 - cos(f_S, f_T)`, the vectors taken over channels.
/// It is computed as `½‖u_S - u_T‖²` of the vectors at length 1, which doesn't cancel where they agree; a vector of length 0
/// has no direction, stays 0 and gets no gradient.
///
/// Reference: Sanh, Debut, Chaumond and Wolf, DistilBERT, 2019, section 3, <https://arxiv.org/abs/1910.01108>.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cosine;

impl Cosine {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels, positions]`
    /// - output: `[1]`
    pub fn forward(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        self.forward_no_reduction(student, teacher).mean()
    }

    /// The loss of each sample, its mean over the positions.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels, positions]`
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        let distance = (unit(student, 1) - unit(teacher, 1)).powi_scalar(2).sum_dim(1);
        distance.mean_dim(2).reshape([-1]) * 0.5
    }
}
