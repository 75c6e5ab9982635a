//! The soft loss from the student's side: what it says that its teacher would not.

use burn::tensor::Tensor;

use crate::Targets;
use crate::kd::LOG_ZERO;

/// Reverse Kullback-Leibler divergence at temperature T: `mean over samples of T² Σ q_T (log q_T - log p_T)`, where
/// `q_T = softmax(z / T)` is the student and p_T its teacher. It seeks a mode: a student that can't be its teacher
/// everywhere gives up classes rather than spread over what the teacher rules out. Of a cut teacher it is that of the
/// buckets.
///
/// A class that the teacher gives probability 0 counts as e^-10000, so that the loss stays finite. Narrow encodings
/// raise small probabilities: `u8` ends 24 below a row's largest log-probability.
///
/// Reference: Gu, Dong, Wei and Huang, MiniLLM: Knowledge Distillation of Large Language Models, 2024,
/// <https://arxiv.org/abs/2306.08543>; the factor T² as in Hinton, Vinyals and Dean, 2015, <https://arxiv.org/abs/1503.02531>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReverseKl {
    /// T, greater than 0; the one that the teacher's distribution was softened with.
    pub temperature: f64,
}

impl ReverseKl {
    /// The mean over the batch.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: of `n` samples, at temperature T
    /// - output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, teacher: &Targets) -> Tensor<1> {
        self.forward_no_reduction(logits, teacher).mean()
    }

    /// The loss of each sample.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - teacher: of `n` samples, at temperature T
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, logits: Tensor<2>, teacher: &Targets) -> Tensor<1> {
        teacher.compare(logits, self.temperature, divergence) * (self.temperature * self.temperature)
    }
}

/// `Σ q (log q - log p)` of each row, of log-probabilities `[n, buckets]`.
pub(crate) fn divergence(teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
    let teacher = teacher.clamp_min(LOG_ZERO);
    (student.clone().exp() * (student - teacher))
        .sum_dim(1)
        .squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Distillation;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar, soft};

    /// Whole, and cut to every number of classes.
    fn targets(case: &Case, temperature: f64, device: &Device) -> Vec<(Targets, Vec<soft::Row>)> {
        let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
        let whole = Targets::Dense(matrix(&teacher, case.classes, device));
        let rows = soft::rows(&case.student, &teacher, case.classes, temperature);
        let cut = (1..=case.classes).map(|kept| {
            let top = TopK::of(&teacher, case.classes, kept);
            let weights = Tensor::ones([case.labels.len()], device);
            let rows = soft::buckets(&case.student, &top, case.classes, temperature);
            (Targets::Sparse(vec![(weights, top.on(device))]), rows)
        });
        [(whole, rows)].into_iter().chain(cut).collect()
    }

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            for temperature in [1.0, 4.0, 20.0] {
                for (teacher, rows) in targets(&case, temperature, &device) {
                    let logits = matrix(&case.student, case.classes, &device).require_grad();
                    let loss = ReverseKl { temperature }.forward(logits.clone(), &teacher);
                    let gradient = logits.grad(&loss.backward()).unwrap();
                    let gradient = gradient.try_into_vec_as::<f32>().unwrap();
                    assert!(gradient.iter().all(|g| g.is_finite()), "{}", case.name);
                    let expected = temperature * temperature * soft::mean(&rows, soft::reverse);
                    assert_close(scalar(loss), expected, 2e-5, case.name);
                }
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let device = Device::flex().autodiff();
        let temperature = 3.0;
        for case in Case::smooth() {
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            for kept in 1..=case.classes {
                let top = TopK::of(&teacher, case.classes, kept);
                let weights = Tensor::ones([case.labels.len()], &device);
                let targets = Targets::Sparse(vec![(weights, top.on(&device))]);
                let logits = matrix(&case.student, case.classes, &device).require_grad();
                let loss = ReverseKl { temperature }.forward(logits.clone(), &targets);
                let expected = reference::differences(&case.student, |z| {
                    let rows = soft::buckets(z, &top, case.classes, temperature);
                    temperature * temperature * soft::mean(&rows, soft::reverse)
                });
                reference::assert_gradient(logits.grad(&loss.backward()), &expected, case.name);
            }
            let whole = Targets::Dense(matrix(&teacher, case.classes, &device));
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let loss = ReverseKl { temperature }.forward(logits.clone(), &whole);
            let expected = reference::differences(&case.student, |z| {
                let rows = soft::rows(z, &teacher, case.classes, temperature);
                temperature * temperature * soft::mean(&rows, soft::reverse)
            });
            reference::assert_gradient(logits.grad(&loss.backward()), &expected, case.name);
        }
    }

    #[test]
    fn it_is_the_forward_divergence_with_the_parts_exchanged() {
        let device = Device::flex();
        let temperature = 2.0;
        let kd = Distillation { temperature };
        for case in Case::smooth() {
            let student = matrix(&case.student, case.classes, &device);
            let teacher = matrix(&case.teacher, case.classes, &device);
            let exchanged = kd.forward(teacher.clone(), kd.soften(student.clone()));
            let found = ReverseKl { temperature }.forward(student, &Targets::Dense(kd.soften(teacher)));
            assert_close(scalar(found), scalar(exchanged), 1e-5, case.name);
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let temperature = 4.0;
        for case in Case::all() {
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let teacher = Distillation { temperature }.soften(logits.clone().detach());
            let loss = ReverseKl { temperature }.forward(logits.clone(), &Targets::Dense(teacher));
            let grads = loss.backward();
            assert_eq!(scalar(loss), 0.0, "{}", case.name);
            reference::assert_gradient(logits.grad(&grads), &vec![0.0; case.student.len()], case.name);
        }
    }

    #[test]
    fn what_a_teacher_rules_out_costs_much_but_not_infinitely() {
        let device = Device::flex().autodiff();
        for zero in [f32::NEG_INFINITY, -1e30, -1e4] {
            let logits = matrix(&[0.0, 0.0], 2, &device).require_grad();
            let teacher = Targets::Dense(Tensor::<2>::from_floats([[0.0, zero]], &device));
            let loss = ReverseKl { temperature: 1.0 }.forward(logits.clone(), &teacher);
            let gradient = logits.grad(&loss.backward()).unwrap();
            assert_close(scalar(loss), 5_000.0 - std::f64::consts::LN_2, 1e-6, "zero");
            let gradient = gradient.try_into_vec_as::<f32>().unwrap();
            // q_j (log q_j - log p_j - loss)
            assert_eq!(gradient, [-2_500.0, 2_500.0]);
        }
    }
}
