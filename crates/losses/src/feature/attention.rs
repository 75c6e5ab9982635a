//! Attention transfer: the student is to look where its teacher looks.

use burn::tensor::Tensor;

use super::unit;

/// Distance of attention maps: `mean over samples of ‖a_S - a_T‖²`, where a is the mean over channels of the squared features
/// at each position, at length 1 over the positions. It lies within 0..=2 whatever the number of positions, and the numbers
/// of channels may differ. A map that is 0 everywhere stays 0.
///
/// Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, <https://arxiv.org/abs/1612.03928>,
/// activation-based, of squares; their code takes the mean over positions where this takes the sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attention;

impl Attention {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels of its own, positions]`
    /// - output: `[1]`
    pub fn forward(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        self.forward_no_reduction(student, teacher).mean()
    }

    /// The loss of each sample.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels of its own, positions]`
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        let map = |features: Tensor<3>| {
            let squares: Tensor<2> = features.powi_scalar(2).mean_dim(1).squeeze_dim(1);
            unit(squares, 1)
        };
        let distance = map(student) - map(teacher);
        distance.powi_scalar(2).sum_dim(1).squeeze_dim(1)
    }
}
