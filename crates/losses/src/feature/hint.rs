//! Hints: the student's features are to be the teacher's.

use burn::tensor::Tensor;

/// Squared error over the mean square of the teacher's features: `mean (f_S - f_T)² / mean f_T²`, means over samples,
/// channels and positions. It is 1 for a student whose features are all 0, and the same whatever scale a teacher's layer has.
/// Features of a teacher that are all 0 have no scale and are compared as they are.
///
/// The student's features come projected to the teacher's channels: the projection has weights, which are the model's.
///
/// Reference: Romero et al., FitNets: Hints for Thin Deep Nets, 2015, <https://arxiv.org/abs/1412.6550>, whose ½‖·‖² is
/// neither divided by the number of features nor by their scale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint;

impl Hint {
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

    /// The loss of each sample; the scale is the batch's.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels, positions]`
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        let scale = teacher.clone().powi_scalar(2).mean();
        let dead = scale.clone().equal_scalar(0.0);
        let error = (student - teacher).powi_scalar(2).mean_dims(&[1, 2]);
        error.reshape([-1]) / scale.mask_fill(dead, 1.0)
    }
}
