//! The soft loss in two parts: how sure of the right class, and how the others compare.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

use crate::Labels;
use crate::kd::divergence;
use crate::sparse::logsumexp;

/// Log-probabilities below this are raised to it before others are taken from them: far below all that a float type can
/// exponentiate, and finite.
const LOWEST: f32 = -1e30;

/// Decoupled distillation at temperature T: `mean over labelled samples of T² (α TCKD + β NCKD)`. With y the label,
/// `TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))` compares how sure teacher and student are of it, and
/// `NCKD = KL(p̂ || q̂)` what they make of all other classes, with p̂ and q̂ the distributions over those, normalised.
///
/// Plain distillation is `TCKD + (1 - p_y) NCKD`: a teacher that is sure silences what it says of the other classes. Here β
/// takes the place of `1 - p_y`. `log(1 - p_y)` is the logsumexp over the other classes and p̂ a softmax over them; nothing
/// is subtracted from 1.
///
/// It needs whole distributions, and the label: a sample without one contributes nothing. Over classes that a teacher gives
/// probability 0 altogether p̂ is uniform.
///
/// Reference: Zhao, Cui, Song, Qiu and Liang, Decoupled Knowledge Distillation, 2022, <https://arxiv.org/abs/2203.08679>,
/// whose usual weights are α = 1 and β = 8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dkd {
    /// T, greater than 0; the one that the teacher's distribution was softened with.
    pub temperature: f64,
    /// α, of the part about the label's class, at least 0.
    pub alpha: f64,
    /// β, of the part about the other classes, at least 0.
    pub beta: f64,
}

impl Dkd {
    /// The mean over the labelled samples, 0 where nothing is labelled.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - labels: `[n]`
    /// - teacher: `[n, classes]`, log-probabilities at temperature T
    /// - output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, labels: &Labels, teacher: Tensor<2>) -> Tensor<1> {
        self.forward_no_reduction(logits, labels, teacher).sum() / labels.divisor()
    }

    /// The loss of each sample, 0 for one without a label.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - labels: `[n]`
    /// - teacher: `[n, classes]`, log-probabilities at temperature T
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, logits: Tensor<2>, labels: &Labels, teacher: Tensor<2>) -> Tensor<1> {
        let others = others(&labels.classes, logits.dims()[1]);
        let label = labels.classes.clone().unsqueeze_dim(1);
        let parts = |rows: Tensor<2>| {
            let rest = rows.clone().gather(1, others.clone());
            let target = vec![rows.gather(1, label.clone()), logsumexp(rest.clone())];
            (Tensor::cat(target, 1), log_softmax(rest, 1))
        };
        let (p, p_others) = parts(teacher.clamp_min(LOWEST));
        let (q, q_others) = parts(log_softmax(logits / self.temperature, 1));
        let loss = divergence(p, q) * self.alpha + divergence(p_others, q_others) * self.beta;
        loss * (self.temperature * self.temperature) * labels.mask.clone()
    }
}

/// The classes of each sample but its own, ascending, `[n, classes - 1]`.
fn others(own: &Tensor<1, Int>, classes: usize) -> Tensor<2, Int> {
    let rank = Tensor::<1, Int>::arange(0..classes as i64 - 1, &own.device());
    let (samples, shape) = (own.dims()[0], [own.dims()[0], classes - 1]);
    let rank = rank.unsqueeze_dim::<2>(0).expand(shape);
    let own = own.clone().reshape([samples, 1]).expand(shape);
    let passed = rank.clone().greater_equal(own).int();
    rank + passed
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Distillation;
    use crate::reference::{self, Case, assert_close, matrix, scalar, soft};

    fn expected(case: &Case, logits: &[f64], teacher: &[f64], dkd: Dkd) -> f64 {
        let rows = soft::rows(logits, teacher, case.classes, dkd.temperature);
        let labelled = rows.iter().zip(&case.labels).filter_map(|((p, q), label)| {
            let (target, others) = soft::dkd(p, q, (*label)? as usize);
            Some(dkd.alpha * target + dkd.beta * others)
        });
        let losses: Vec<f64> = labelled.collect();
        dkd.temperature.powi(2) * losses.iter().sum::<f64>() / losses.len().max(1) as f64
    }

    fn gradient(case: &Case, teacher: &[f64], dkd: Dkd) -> (f64, Tensor<2>) {
        let device = Device::flex().autodiff();
        let logits = matrix(&case.student, case.classes, &device).require_grad();
        let labels = Labels::new(&case.labels, &device);
        let loss = dkd.forward(logits.clone(), &labels, matrix(teacher, case.classes, &device));
        let gradient = logits.grad(&loss.backward()).unwrap();
        (scalar(loss), gradient)
    }

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        for case in Case::all() {
            for (temperature, alpha, beta) in [(1.0, 1.0, 8.0), (4.0, 1.0, 0.0), (20.0, 0.0, 2.0)] {
                let dkd = Dkd {
                    temperature,
                    alpha,
                    beta,
                };
                let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
                let (loss, gradient) = gradient(&case, &teacher, dkd);
                assert_close(
                    loss,
                    expected(&case, &case.student, &teacher, dkd),
                    2e-5,
                    case.name,
                );
                let gradient = gradient.try_into_vec_as::<f32>().unwrap();
                assert!(gradient.iter().all(|g| g.is_finite()), "{}", case.name);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let dkd = Dkd {
            temperature: 3.0,
            alpha: 1.5,
            beta: 4.0,
        };
        for case in Case::smooth() {
            let teacher = reference::log_softmax(&case.teacher, case.classes, dkd.temperature);
            let differences = reference::differences(&case.student, |z| expected(&case, z, &teacher, dkd));
            let (_, found) = gradient(&case, &teacher, dkd);
            reference::assert_gradient(Some(found), &differences, case.name);
        }
    }

    #[test]
    fn with_the_weights_of_plain_distillation_it_is_that() {
        let device = Device::flex();
        let temperature = 2.0;
        let row = Case::smooth().remove(0);
        for (sample, label) in [(0, 3), (1, 0), (2, 1)] {
            let range = sample * row.classes..(sample + 1) * row.classes;
            let student = matrix(&row.student[range.clone()], row.classes, &device);
            let teacher = reference::log_softmax(&row.teacher[range], row.classes, temperature);
            let dkd = Dkd {
                temperature,
                alpha: 1.0,
                beta: 1.0 - teacher[label as usize].exp(),
            };
            let teacher = matrix(&teacher, row.classes, &device);
            let labels = Labels::new(&[Some(label)], &device);
            let found = dkd.forward(student.clone(), &labels, teacher.clone());
            let plain = Distillation { temperature }.forward(student, teacher);
            assert_close(scalar(found), scalar(plain), 1e-5, "identity");
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let dkd = Dkd {
            temperature: 4.0,
            alpha: 1.0,
            beta: 8.0,
        };
        for case in Case::all() {
            let teacher = reference::log_softmax(&case.student, case.classes, dkd.temperature);
            let (loss, gradient) = gradient(&case, &teacher, dkd);
            assert_close(loss, 0.0, 2e-5, case.name);
            let gradient = gradient.try_into_vec_as::<f32>().unwrap();
            assert!(
                gradient.iter().all(|g| g.abs() < 2e-5),
                "{}: {gradient:?}",
                case.name
            );
        }
    }

    #[test]
    fn what_is_ruled_out_says_nothing_and_counts_alike_where_all_others_are() {
        let dkd = Dkd {
            temperature: 1.0,
            alpha: 1.0,
            beta: 1.0,
        };
        let case = Case {
            name: "zero",
            classes: 3,
            student: vec![0.0, 1.0, -1.0],
            teacher: vec![],
            labels: vec![Some(0)],
        };
        let q = reference::log_softmax(&case.student, 3, 1.0);
        let rest = reference::logsumexp(q[1..].iter().copied());
        for zero in [f64::NEG_INFINITY, -1e30] {
            let (loss, _) = gradient(&case, &[0.5_f64.ln(), 0.5_f64.ln(), zero], dkd);
            let target = 0.5 * (0.5_f64.ln() - q[0]) + 0.5 * (0.5_f64.ln() - rest);
            assert_close(loss, target + (rest - q[1]), 1e-6, "one class at zero");

            let (loss, found) = gradient(&case, &[0.0, zero, zero], dkd);
            let uniform = 0.5_f64.ln() - 0.5 * (q[1] + q[2]) + rest;
            assert_close(loss, -q[0] + uniform, 1e-6, "all others at zero");
            let p = [q[0].exp() - 1.0, q[1].exp(), q[2].exp()];
            let expected = [
                p[0],
                p[1] + (q[1] - rest).exp() - 0.5,
                p[2] + (q[2] - rest).exp() - 0.5,
            ];
            reference::assert_gradient(Some(found), &expected, "all others at zero");
        }
    }

    #[test]
    fn a_sample_without_a_label_does_not_count() {
        let dkd = Dkd {
            temperature: 2.0,
            alpha: 1.0,
            beta: 8.0,
        };
        let case = Case::smooth().remove(0);
        let teacher = reference::log_softmax(&case.teacher, case.classes, dkd.temperature);
        let (_, found) = gradient(&case, &teacher, dkd);
        let found = found.try_into_vec_as::<f32>().unwrap();
        assert_eq!(case.labels[1], None);
        assert_eq!(found[case.classes..2 * case.classes], [0.0; 4]);
        let (loss, found) = gradient(
            &Case {
                labels: vec![None; 3],
                ..case
            },
            &teacher,
            dkd,
        );
        assert_eq!(loss, 0.0);
        reference::assert_gradient(Some(found), &[0.0; 12], "unlabelled");
    }
}
