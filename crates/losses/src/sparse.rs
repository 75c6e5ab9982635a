//! The soft loss where a teacher names its k most probable classes only.

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use crate::Distillation;
use crate::kd::divergence;

/// A teacher's distribution at temperature T as k classes and one bucket for all others.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// The k classes of each sample, none of them twice, `[n, k]`.
    pub ids: Tensor<2, Int>,
    /// Their log-probabilities, `[n, k]`.
    pub log_probs: Tensor<2>,
    /// Log-probability of all the other classes together, `[n]`; ignored where there are no others (k = classes).
    pub log_tail: Tensor<1>,
}

impl Sparse {
    pub(crate) fn select(self, rows: &Tensor<1, Int>) -> Self {
        Self {
            ids: self.ids.select(0, rows.clone()),
            log_probs: self.log_probs.select(0, rows.clone()),
            log_tail: self.log_tail.select(0, rows.clone()),
        }
    }

    pub(crate) fn without_autodiff(self) -> Self {
        Self {
            ids: self.ids.without_autodiff(),
            log_probs: self.log_probs.without_autodiff(),
            log_tail: self.log_tail.without_autodiff(),
        }
    }

    /// The distribution over all classes that leaves the buckets as they are and shares the tail out as the student
    /// does: p_j for a kept class, p_tail q_j / q_tail for any other. Student minus this is the gradient of the
    /// divergence at z / T.
    ///
    /// # Shapes
    ///
    /// - student: `[n, classes]`, log-probabilities
    /// - output: `[n, classes]`, probabilities
    pub(crate) fn expand(&self, student: Tensor<2>) -> Tensor<2> {
        let kept = student.zeros_like().scatter(
            1,
            self.ids.clone(),
            self.log_probs.clone().exp(),
            IndexingUpdateOp::Add,
        );
        match self.left_out(student) {
            Some(others) => {
                let share = self.log_tail.clone().unsqueeze_dim(1) - logsumexp(others.clone());
                kept + (others + share).exp()
            }
            None => kept,
        }
    }

    /// What teacher and student give to each bucket, the kept classes and, where any are left out, one for all others:
    /// log-probabilities, `[n, k]` or `[n, k + 1]` each.
    ///
    /// # Shapes
    ///
    /// - student: `[n, classes]`, log-probabilities
    pub(crate) fn buckets(&self, student: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let kept = student.clone().gather(1, self.ids.clone());
        match self.left_out(student) {
            Some(others) => (
                Tensor::cat(
                    vec![self.log_probs.clone(), self.log_tail.clone().unsqueeze_dim(1)],
                    1,
                ),
                Tensor::cat(vec![kept, logsumexp(others)], 1),
            ),
            None => (self.log_probs.clone(), kept),
        }
    }

    /// The student's log-probabilities with those of the kept classes at minus infinity, `[n, classes]`; `None` where
    /// no class is left out.
    fn left_out(&self, student: Tensor<2>) -> Option<Tensor<2>> {
        let ([samples, classes], [_, kept]) = (student.dims(), self.ids.dims());
        (kept < classes).then(|| {
            let count = Tensor::<2, Int>::zeros([samples, classes], &self.ids.device());
            let count = count.scatter(1, self.ids.clone(), self.ids.ones_like(), IndexingUpdateOp::Add);
            student.mask_fill(count.bool(), f32::NEG_INFINITY)
        })
    }
}

/// Forward Kullback-Leibler divergence over k + 1 buckets at temperature T, the classes that the teacher kept and one
/// tail for all others: `mean over samples of T² (Σ_kept p (log p - log q) + p_tail (log p_tail - log q_tail))`, with
/// `q = softmax(z / T)`. `log q_tail` is the logsumexp over the classes left out; 1 - Σ q would lose it to rounding.
///
/// Merging classes never adds divergence, so this lies between 0 and [`Distillation`], which it is where k = classes.
/// With P and Q the kept probability of teacher and student, its gradient is `T (q_j - p_j) / n` at a kept class and
/// `T q_j (P - Q) / (1 - Q) / n` at any other.
///
/// Reference: Cover and Thomas, Elements of Information Theory, section 2.7 (log sum inequality); as a distillation
/// loss <https://github.com/verl-project/verl/pull/7855>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseDistillation {
    /// T, greater than 0; the one that the teacher's distribution was softened with before it was cut.
    pub temperature: f64,
}

impl SparseDistillation {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: `[n, k]`, at temperature T
    /// - output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, teacher: &Sparse) -> Tensor<1> {
        self.forward_no_reduction(logits, teacher).mean()
    }

    /// The loss of each sample.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: `[n, k]`, at temperature T
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, logits: Tensor<2>, teacher: &Sparse) -> Tensor<1> {
        self.divergence(logits, teacher) * (self.temperature * self.temperature)
    }

    /// The divergence of each sample without the factor T²: what a report shows.
    ///
    /// # Shapes
    ///
    /// As [`SparseDistillation::forward_no_reduction`].
    pub fn divergence(&self, logits: Tensor<2>, teacher: &Sparse) -> Tensor<1> {
        let temperature = self.temperature;
        let (p, q) = teacher.buckets(Distillation { temperature }.soften(logits));
        divergence(p, q)
    }
}

/// Of each row, `[n, 1]`; at least one value of a row is finite. The maximum that is taken out cancels, so that it needs
/// no gradient.
pub(crate) fn logsumexp(values: Tensor<2>) -> Tensor<2> {
    let top = values.clone().detach().max_dim(1);
    (values - top.clone()).exp().sum_dim(1).log() + top
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar};

    /// Every case with every number of kept classes.
    fn cut(cases: Vec<Case>, temperature: f64) -> impl Iterator<Item = (Case, TopK)> {
        cases.into_iter().flat_map(move |case| {
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            (1..=case.classes).map(move |kept| (case.clone(), TopK::of(&teacher, case.classes, kept)))
        })
    }

    fn gradient(case: &Case, teacher: &TopK, temperature: f64) -> (f64, Option<Tensor<2>>) {
        let device = Device::flex().autodiff();
        let logits = matrix(&case.student, case.classes, &device).require_grad();
        let loss = SparseDistillation { temperature }.forward(logits.clone(), &teacher.on(&device));
        let grads = loss.backward();
        (scalar(loss), logits.grad(&grads))
    }

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        for temperature in [1.0, 4.0, 20.0] {
            for (case, teacher) in cut(Case::all(), temperature) {
                let (loss, gradient) = gradient(&case, &teacher, temperature);
                let expected =
                    reference::sparse_distillation(&case.student, &teacher, case.classes, temperature);
                assert_close(loss, expected, 2e-5, case.name);
                let gradient = gradient.unwrap().try_into_vec_as::<f32>().unwrap();
                assert!(gradient.iter().all(|g| g.is_finite()), "{}", case.name);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let temperature = 3.0;
        for (case, teacher) in cut(Case::smooth(), temperature) {
            let expected = reference::differences(&case.student, |z| {
                reference::sparse_distillation(z, &teacher, case.classes, temperature)
            });
            reference::assert_gradient(gradient(&case, &teacher, temperature).1, &expected, case.name);
        }
    }

    #[test]
    fn gradient_is_that_of_the_closed_form() {
        let temperature = 2.0;
        for (case, teacher) in cut(Case::smooth(), temperature) {
            let q = reference::log_softmax(&case.student, case.classes, temperature);
            let mut expected = Vec::new();
            for (row, q) in q.chunks(case.classes).enumerate() {
                let kept: Vec<(usize, f64)> = teacher.row(row).collect();
                let p_kept: f64 = kept.iter().map(|(_, p)| p.exp()).sum();
                let q_kept: f64 = kept.iter().map(|&(id, _)| q[id].exp()).sum();
                expected.extend((0..case.classes).map(|j| {
                    let of_logit = match kept.iter().find(|(id, _)| *id == j) {
                        Some((_, p)) => q[j].exp() - p.exp(),
                        None => q[j].exp() * (p_kept - q_kept) / (1.0 - q_kept),
                    };
                    temperature * of_logit / case.labels.len() as f64
                }));
            }
            reference::assert_gradient(gradient(&case, &teacher, temperature).1, &expected, case.name);
        }
    }

    #[test]
    fn more_classes_say_more_and_all_of_them_everything() {
        let device = Device::flex();
        for (case, temperature) in Case::all().into_iter().zip([1.0, 2.0, 4.0].into_iter().cycle()) {
            let student = matrix(&case.student, case.classes, &device);
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let dense = Distillation { temperature }
                .forward(student.clone(), matrix(&teacher, case.classes, &device));
            let losses: Vec<f64> = (1..=case.classes)
                .map(|kept| {
                    let teacher = TopK::of(&teacher, case.classes, kept).on(&device);
                    scalar(SparseDistillation { temperature }.forward(student.clone(), &teacher))
                })
                .collect();
            assert!(losses[0] >= -1e-6, "{}: {losses:?}", case.name);
            assert!(
                losses
                    .windows(2)
                    .all(|l| l[0] <= l[1] + 1e-6 * l[1].abs().max(1.0)),
                "{}: {losses:?}",
                case.name
            );
            assert_close(losses[case.classes - 1], scalar(dense), 1e-6, case.name);
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let temperature = 4.0;
        let same = Case::all().into_iter().map(|case| Case {
            teacher: case.student.clone(),
            ..case
        });
        for (case, teacher) in cut(same.collect(), temperature) {
            let (loss, gradient) = gradient(&case, &teacher, temperature);
            assert_close(loss, 0.0, 5e-6, case.name);
            reference::assert_gradient(gradient, &vec![0.0; case.student.len()], case.name);
        }
    }

    #[test]
    fn a_tail_of_probability_zero_contributes_nothing() {
        let case = Case {
            name: "no tail",
            classes: 3,
            student: vec![0.0; 3],
            teacher: vec![],
            labels: vec![None],
        };
        for log_tail in [f64::NEG_INFINITY, -1e30, -1e4] {
            let two = TopK {
                kept: 2,
                ids: vec![0, 2],
                log_probs: vec![0.25_f64.ln(), 0.75_f64.ln()],
                log_tail: vec![log_tail],
            };
            let (loss, found) = gradient(&case, &two, 1.0);
            assert_close(
                loss,
                0.25 * 0.75_f64.ln() + 0.75 * 2.25_f64.ln(),
                1e-6,
                "zero tail",
            );
            let third = 1.0 / 3.0;
            reference::assert_gradient(found, &[third - 0.25, third, third - 0.75], "zero tail");

            let all = TopK {
                kept: 3,
                ids: vec![0, 1, 2],
                log_probs: vec![0.25_f64.ln(), f64::NEG_INFINITY, 0.75_f64.ln()],
                log_tail: vec![log_tail],
            };
            let (loss, found) = gradient(&case, &all, 1.0);
            assert_close(loss, 0.25 * 0.75_f64.ln() + 0.75 * 2.25_f64.ln(), 1e-6, "no tail");
            reference::assert_gradient(found, &[third - 0.25, third, third - 0.75], "no tail");
        }
    }

    #[test]
    fn a_tail_far_below_one_is_not_lost_to_rounding() {
        // 1 - q_0 is 0 in f32; the exact tail is two classes of e^-40 each.
        let case = Case {
            name: "tiny tail",
            classes: 3,
            student: vec![40.0, 0.0, 0.0],
            teacher: vec![0.0; 3],
            labels: vec![None],
        };
        let teacher = TopK::of(&reference::log_softmax(&case.teacher, 3, 1.0), 3, 1);
        let (loss, found) = gradient(&case, &teacher, 1.0);
        let third: f64 = 1.0 / 3.0;
        let expected = third * third.ln() + 2.0 * third * ((2.0 * third).ln() - (2.0_f64.ln() - 40.0));
        assert_close(loss, expected, 1e-6, case.name);
        reference::assert_gradient(found, &[2.0 * third, -third, -third], case.name);
    }
}
