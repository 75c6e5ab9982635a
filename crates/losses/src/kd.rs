//! The soft loss: how far the student's softened distribution is from its teacher's.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// Log-probability below which a teacher's probability counts as 0. Its exponential is 0 in every float type, and unlike
/// minus infinity it can be multiplied by that 0.
pub(crate) const LOG_ZERO: f32 = -1e4;

/// Forward Kullback-Leibler divergence at temperature T: `mean over samples of T² Σ p_T (log p_T - log q_T)`, where
/// `q_T = softmax(z / T)` and the teacher's `p_T` comes already softened. The factor T² keeps the size of the gradient
/// nearly independent of T.
///
/// Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, <https://arxiv.org/abs/1503.02531>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// T, greater than 0; the one that the teacher's distribution was softened with.
    pub temperature: f64,
}

impl Distillation {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: `[n, classes]`, log-probabilities at temperature T
    /// - output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        self.forward_no_reduction(logits, teacher).mean()
    }

    /// The loss of each sample.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: `[n, classes]`, log-probabilities at temperature T
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        self.divergence(logits, teacher) * (self.temperature * self.temperature)
    }

    /// The divergence of each sample without the factor T²: what a report shows.
    ///
    /// # Shapes
    ///
    /// As [`Distillation::forward_no_reduction`].
    pub fn divergence(&self, logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        divergence(teacher, self.soften(logits))
    }

    /// Log-probabilities of softmax(z / T): what a teacher sends.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`
    /// - output: `[n, classes]`
    pub fn soften(&self, logits: Tensor<2>) -> Tensor<2> {
        log_softmax(logits / self.temperature, 1)
    }
}

/// `Σ p (log p - log q)` of each row, of log-probabilities `[n, buckets]`.
pub(crate) fn divergence(teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
    let teacher = teacher.clamp_min(LOG_ZERO);
    (teacher.clone().exp() * (teacher - student))
        .sum_dim(1)
        .squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, assert_close, matrix, scalar};

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        let device = Device::flex();
        for case in Case::all() {
            for temperature in [1.0, 4.0, 20.0] {
                let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
                let loss = Distillation { temperature }.forward(
                    matrix(&case.student, case.classes, &device),
                    matrix(&teacher, case.classes, &device),
                );
                let expected = reference::distillation(&case.student, &teacher, case.classes, temperature);
                assert_close(scalar(loss), expected, 2e-5, case.name);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let device = Device::flex().autodiff();
        for case in Case::smooth() {
            let temperature = 3.0;
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let loss =
                Distillation { temperature }.forward(logits.clone(), matrix(&teacher, case.classes, &device));
            let expected = reference::differences(&case.student, |z| {
                reference::distillation(z, &teacher, case.classes, temperature)
            });
            reference::assert_gradient(logits.grad(&loss.backward()), &expected, case.name);
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            let kd = Distillation { temperature: 4.0 };
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let teacher = kd.soften(logits.clone().detach());
            let loss = kd.forward(logits.clone(), teacher);
            let grads = loss.backward();
            assert_eq!(scalar(loss), 0.0, "{}", case.name);
            reference::assert_gradient(logits.grad(&grads), &vec![0.0; case.student.len()], case.name);
        }
    }

    #[test]
    fn a_teacher_probability_of_zero_contributes_nothing() {
        let device = Device::flex().autodiff();
        for zero in [f32::NEG_INFINITY, -1e30, -1e4] {
            let logits = matrix(&[0.0, 0.0], 2, &device).require_grad();
            let teacher = Tensor::<2>::from_floats([[0.0, zero]], &device);
            let loss = Distillation { temperature: 1.0 }.forward(logits.clone(), teacher);
            let grads = loss.backward();
            assert_close(scalar(loss), std::f64::consts::LN_2, 1e-6, "zero");
            reference::assert_gradient(logits.grad(&grads), &[-0.5, 0.5], "zero");
        }
    }

    #[test]
    fn the_gradient_hardly_depends_on_the_temperature() {
        let device = Device::flex().autodiff();
        let student = [0.3, -0.2, 0.1, 0.0, 0.5, -0.4];
        let teacher = [-0.5, 0.4, 0.2, 0.1, -0.3, 0.2];
        let norm = |temperature: f64| {
            let kd = Distillation { temperature };
            let logits = matrix(&student, 3, &device).require_grad();
            let loss = kd.forward(logits.clone(), kd.soften(matrix(&teacher, 3, &device)));
            let gradient = logits.grad(&loss.backward()).expect("logits have a gradient");
            scalar(gradient.powi_scalar(2).sum()).sqrt()
        };
        let base = norm(2.0);
        for temperature in [1.0, 4.0, 10.0, 50.0] {
            let ratio = norm(temperature) / base;
            assert!((0.8..1.25).contains(&ratio), "T = {temperature}: {ratio}");
        }
    }

    /// A teacher that knows the label and nothing else, and says so with some doubt, smooths labels: the gradient is that
    /// of `(1 - e) CE(y) + e CE(uniform)`, and the loss too but for its least value, the entropy of the target.
    #[test]
    fn label_smoothing_is_distillation_from_a_teacher_that_knows_only_the_label() {
        let device = Device::flex().autodiff();
        let smoothing: f64 = 0.1;
        for mut case in Case::all() {
            case.labels = case.labels.iter().map(|l| Some(l.unwrap_or(1))).collect();
            let (classes, samples) = (case.classes, case.labels.len());
            let share = smoothing / classes as f64;
            let teacher: Vec<f64> = (0..samples * classes)
                .map(|i| {
                    let own = case.labels[i / classes] == Some((i % classes) as u32);
                    if own { 1.0 - smoothing + share } else { share }
                })
                .collect();
            let entropy = -teacher.iter().map(|p| p * p.ln()).sum::<f64>() / samples as f64;
            let log_probs: Vec<f64> = teacher.iter().map(|p| p.ln()).collect();
            let logits = matrix(&case.student, classes, &device).require_grad();
            let loss = Distillation { temperature: 1.0 }
                .forward(logits.clone(), matrix(&log_probs, classes, &device));

            let log_q = reference::log_softmax(&case.student, classes, 1.0);
            let uniform = -log_q.iter().sum::<f64>() / (samples * classes) as f64;
            let label = reference::cross_entropy(&case.student, &case.labels, classes);
            let smoothed = (1.0 - smoothing) * label + smoothing * uniform;
            assert_close(scalar(loss.clone()), smoothed - entropy, 2e-5, case.name);
            let expected: Vec<f64> = log_q
                .iter()
                .zip(&teacher)
                .map(|(q, p)| (q.exp() - p) / samples as f64)
                .collect();
            reference::assert_gradient(logits.grad(&loss.backward()), &expected, case.name);
        }
    }
}
