//! What the teachers of a step say, whole or cut.

use burn::tensor::{Int, Tensor};

use crate::kd::divergence;
use crate::{Distillation, Sparse};

/// Soft targets of a step, at temperature T.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each step")]
pub enum Targets {
    /// One distribution over all classes, of a teacher or of a mixture: log-probabilities, `[n, classes]`.
    Dense(Tensor<2>),
    /// Cut distributions, each with its weight, `[n]`; the weights of a sample sum to 1. Teachers keep different classes,
    /// so that there is no mixture to cut; the weighted sum of their divergences takes its place. For whole
    /// distributions it would be the mixture's divergence plus a constant: the same gradient, a larger number.
    Sparse(Vec<(Tensor<1>, Sparse)>),
}

impl Targets {
    /// The forward divergence of each sample without the factor T²: [`Distillation`] or
    /// [`SparseDistillation`](crate::SparseDistillation).
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - output: `[n]`
    pub fn divergence(&self, logits: Tensor<2>, temperature: f64) -> Tensor<1> {
        self.compare(logits, temperature, divergence)
    }

    /// What `rows` says of each sample: of teacher and student, log-probabilities `[n, buckets]`, where a bucket is a
    /// class or all that a teacher left out. Cut teachers are compared one by one and weighted.
    ///
    /// # Shapes
    ///
    /// As [`Targets::divergence`].
    pub(crate) fn compare(
        &self,
        logits: Tensor<2>,
        temperature: f64,
        rows: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<1>,
    ) -> Tensor<1> {
        let student = Distillation { temperature }.soften(logits);
        match self {
            Self::Dense(teacher) => rows(teacher.clone(), student),
            Self::Sparse(teachers) => {
                let zero = Tensor::zeros([student.dims()[0]], &student.device());
                teachers.iter().fold(zero, |sum, (weight, teacher)| {
                    let (p, q) = teacher.buckets(student.clone());
                    sum + rows(p, q) * weight.clone()
                })
            }
        }
    }

    /// The distribution whose difference from the student's is the gradient of the divergence at z / T.
    ///
    /// # Shapes
    ///
    /// - student: `[n, classes]`, log-probabilities at temperature T
    /// - output: `[n, classes]`, probabilities
    pub(crate) fn expand(&self, student: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(teacher) => teacher.clone().exp(),
            Self::Sparse(teachers) => teachers
                .iter()
                .fold(student.zeros_like(), |sum, (weight, teacher)| {
                    sum + teacher.expand(student.clone()) * weight.clone().unsqueeze_dim(1)
                }),
        }
    }

    /// Those of these rows.
    pub fn select(self, rows: &Tensor<1, Int>) -> Self {
        match self {
            Self::Dense(teacher) => Self::Dense(teacher.select(0, rows.clone())),
            Self::Sparse(teachers) => {
                let teachers = teachers.into_iter();
                let each =
                    teachers.map(|(weight, teacher)| (weight.select(0, rows.clone()), teacher.select(rows)));
                Self::Sparse(each.collect())
            }
        }
    }

    pub(crate) fn without_autodiff(self) -> Self {
        match self {
            Self::Dense(teacher) => Self::Dense(teacher.without_autodiff()),
            Self::Sparse(teachers) => Self::Sparse(
                teachers
                    .into_iter()
                    .map(|(weight, teacher)| (weight.without_autodiff(), teacher.without_autodiff()))
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar};

    const TEMPERATURE: f64 = 2.0;

    /// Two teachers, the second the first one's student, and the share of the second for each sample.
    fn mixture(case: &Case) -> ([Vec<f64>; 2], Vec<f64>) {
        let soften = |logits: &[f64]| reference::log_softmax(logits, case.classes, TEMPERATURE);
        let shares = (0..case.labels.len()).map(|i| 0.25 + 0.2 * i as f64);
        ([soften(&case.teacher), soften(&case.student)], shares.collect())
    }

    fn cut(case: &Case, kept: [usize; 2], device: &Device) -> Targets {
        let (teachers, shares) = mixture(case);
        let weights = [shares.iter().map(|s| 1.0 - s).collect(), shares];
        let each = teachers.iter().zip(kept).zip(weights);
        let each = each.map(|((teacher, kept), weights): (_, Vec<f64>)| {
            let weights = matrix(&weights, 1, device).squeeze_dim(1);
            (weights, TopK::of(teacher, case.classes, kept).on(device))
        });
        Targets::Sparse(each.collect())
    }

    fn gradient(case: &Case, targets: &Targets, device: &Device) -> (f64, Tensor<2>) {
        let logits = matrix(&case.student, case.classes, device).require_grad();
        let loss = targets.divergence(logits.clone(), TEMPERATURE).sum();
        let gradient = logits.grad(&loss.backward()).expect("logits have a gradient");
        (scalar(loss), gradient)
    }

    #[test]
    fn cut_teachers_are_weighted_sample_by_sample() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            let (teachers, shares) = mixture(&case);
            let expected: f64 = (0..case.labels.len())
                .map(|row| {
                    let range = row * case.classes..(row + 1) * case.classes;
                    let student = &case.student[range.clone()];
                    let one = |teacher: &[f64], kept| {
                        let teacher = TopK::of(&teacher[range.clone()], case.classes, kept);
                        reference::sparse_distillation(student, &teacher, case.classes, TEMPERATURE)
                    };
                    (1.0 - shares[row]) * one(&teachers[0], 1) + shares[row] * one(&teachers[1], 2)
                })
                .sum();
            let (found, _) = gradient(&case, &cut(&case, [1, 2], &device), &device);
            assert_close(TEMPERATURE.powi(2) * found, expected, 2e-5, case.name);
        }
    }

    #[test]
    fn the_gradient_is_the_students_distance_from_the_expanded_distribution() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            let targets = cut(&case, [1, 2], &device);
            let (_, found) = gradient(&case, &targets, &device);
            let student = Distillation {
                temperature: TEMPERATURE,
            }
            .soften(matrix(&case.student, case.classes, &device));
            let distance = (student.clone().exp() - targets.expand(student)) / TEMPERATURE;
            let expected = distance.try_into_vec_as::<f32>().unwrap();
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            reference::assert_gradient(Some(found), &expected, case.name);
        }
    }

    #[test]
    fn uncut_teachers_pull_like_their_mixture() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            let (teachers, shares) = mixture(&case);
            let mixed: Vec<f64> = (0..case.teacher.len())
                .map(|i| {
                    let share = shares[i / case.classes];
                    ((1.0 - share) * teachers[0][i].exp() + share * teachers[1][i].exp()).ln()
                })
                .collect();
            let dense = Targets::Dense(matrix(&mixed, case.classes, &device));
            let (of_mixture, expected) = gradient(&case, &dense, &device);
            let whole = cut(&case, [case.classes; 2], &device);
            let (summed, found) = gradient(&case, &whole, &device);
            assert!(
                summed >= of_mixture - 1e-4,
                "{}: {summed} < {of_mixture}",
                case.name
            );
            let expected = expected.try_into_vec_as::<f32>().unwrap();
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            reference::assert_gradient(Some(found), &expected, case.name);
        }
    }
}
