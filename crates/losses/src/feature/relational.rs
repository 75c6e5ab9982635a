//! Relations: samples are to lie to each other as they do for the teacher.

use burn::tensor::Tensor;

use super::lengths;

/// Weights of the distances and of the angles: the paper's one to two.
const DISTANCE: f64 = 1.0;
const ANGLE: f64 = 2.0;

/// Relational distillation of the samples of a batch, with f a sample's features averaged over positions:
///
/// - distances: `h(‖f_i - f_j‖_S / μ_S - ‖f_i - f_j‖_T / μ_T)`, mean over pairs i ≠ j, with μ the mean distance of all pairs;
/// - angles, twice: `h(cos_S(i, j, k) - cos_T(i, j, k))`, mean over triplets of three samples, with cos that of the angle at j
///   between f_i and f_k.
///
/// h is Huber's loss, `½x²` for |x| <= 1 and `|x| - ½` beyond. Neither part sees scale, place or rotation, so that channels and
/// positions of student and teacher may differ. A batch of one sample has no pairs and one of two no angles: 0. Equal samples
/// have the distance 0 and no direction. A batch of n takes n³ numbers.
///
/// Reference: Park, Kim, Lu and Cho, Relational Knowledge Distillation, 2019, <https://arxiv.org/abs/1904.05068>.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relational;

impl Relational {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels of its own, positions of its own]`
    /// - output: `[1]`
    pub fn forward(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        self.forward_no_reduction(student, teacher).mean()
    }

    /// The loss of each sample: its distances to the others, and the angles at it.
    ///
    /// # Shapes
    ///
    /// - student: `[n, channels, positions]`
    /// - teacher: `[n, channels of its own, positions of its own]`
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
        let others = student.dims()[0].saturating_sub(1) as f64;
        let (student, teacher) = (relations(student), relations(teacher));
        let distances = huber(student.distances - teacher.distances).sum_dim(1);
        let angles = huber(student.cosines - teacher.cosines).sum_dims(&[1, 2]);
        let pairs = others.max(1.0);
        let triplets = (others * (others - 1.0)).max(1.0);
        distances.reshape([-1]) * (DISTANCE / pairs) + angles.reshape([-1]) * (ANGLE / triplets)
    }
}

struct Relations {
    /// Over their mean, `[n, n]`.
    distances: Tensor<2>,
    /// At the first sample between the second and the third, 0 unless all are different, `[n, n, n]`.
    cosines: Tensor<3>,
}

fn relations(features: Tensor<3>) -> Relations {
    let points: Tensor<2> = features.mean_dim(2).squeeze_dim(2);
    let samples = points.dims()[0];
    let to_others = points.clone().unsqueeze_dim::<3>(0) - points.unsqueeze_dim::<3>(1);
    let (distances, inverse) = lengths(to_others.clone(), 2);
    let directions = to_others * inverse;
    let distances: Tensor<2> = distances.squeeze_dim(2);
    let pairs = (samples * samples.saturating_sub(1)).max(1);
    let mean = distances.clone().sum() / pairs as f64;
    let together = mean.clone().equal_scalar(0.0);
    let apart = Tensor::<2>::eye(samples, &distances.device()).neg() + 1.0;
    Relations {
        distances: distances / mean.mask_fill(together, 1.0).unsqueeze_dim::<2>(0),
        cosines: directions.clone().matmul(directions.swap_dims(1, 2)) * apart.unsqueeze_dim::<3>(0),
    }
}

fn huber<const D: usize>(difference: Tensor<D>) -> Tensor<D> {
    let size = difference.abs();
    let near = size.clone().clamp_max(1.0);
    near.clone() * (size - near * 0.5)
}
