//! The soft loss between forward and reverse: how far teacher and student are from their mixture.

use burn::tensor::Tensor;

use crate::kd::{self, LOG_ZERO};
use crate::{Targets, reverse_kl};

/// Generalised Jensen-Shannon divergence at temperature T: `mean over samples of T² (β KL(p_T || m) + (1 - β) KL(q_T || m))`
/// with the mixture `m = β p_T + (1 - β) q_T` of teacher p_T and student `q_T = softmax(z / T)`. β is the teacher's share
/// of the mixture, as in the paper and in TRL.
///
/// It tends to 0 as β tends to 0 or to 1; what tends to a limit is `JSD / (β (1 - β))`: to the **forward**
/// `KL(p_T || q_T)` at β = 0 and to the **reverse** `KL(q_T || p_T)` at β = 1. Those limits are the loss at the two ends, so
/// that they are [`Distillation`](crate::Distillation) and [`ReverseKl`](crate::ReverseKl): β = 0 and a small β are very
/// different losses. β = 0.5 is the usual Jensen-Shannon divergence, at most T² ln 2.
///
/// Of a cut teacher it is that of the buckets. The paper trains at T = 1; T² is here for the reason given at
/// [`Distillation`](crate::Distillation).
///
/// Reference: Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes, 2024,
/// equation 1, <https://arxiv.org/abs/2306.13649>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jsd {
    /// T, greater than 0; the one that the teacher's distribution was softened with.
    pub temperature: f64,
    /// The teacher's share of the mixture, within 0..=1.
    pub beta: f64,
}

impl Jsd {
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
        let rows = |p, q| match self.beta {
            0.0 => kd::divergence(p, q),
            1.0 => reverse_kl::divergence(p, q),
            beta => divergence(p, q, beta),
        };
        teacher.compare(logits, self.temperature, rows) * (self.temperature * self.temperature)
    }
}

/// Of each row, of log-probabilities `[n, buckets]`, with 0 < beta < 1.
fn divergence(teacher: Tensor<2>, student: Tensor<2>, beta: f64) -> Tensor<1> {
    let teacher = teacher.clamp_min(LOG_ZERO);
    let mixture = log_sum(teacher.clone() + beta.ln(), student.clone() + (-beta).ln_1p());
    let of_teacher = teacher.clone().exp() * (teacher - mixture.clone()) * beta;
    let of_student = student.clone().exp() * (student - mixture) * (1.0 - beta);
    (of_teacher + of_student).sum_dim(1).squeeze_dim(1)
}

/// `log(e^a + e^b)`, of finite numbers. The larger one that is taken out cancels, so that it needs no gradient.
fn log_sum(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let top = a.clone().detach().max_pair(b.clone().detach());
    ((a - top.clone()).exp() + (b - top.clone()).exp()).log() + top
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar, soft};
    use crate::{Distillation, ReverseKl};

    const BETAS: [f64; 5] = [1e-3, 0.1, 0.5, 0.9, 0.999];

    fn dense(case: &Case, temperature: f64, device: &Device) -> (Vec<f64>, Targets) {
        let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
        let targets = Targets::Dense(matrix(&teacher, case.classes, device));
        (teacher, targets)
    }

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            for (temperature, beta) in [1.0, 4.0, 20.0].into_iter().flat_map(|t| BETAS.map(|b| (t, b))) {
                let (teacher, targets) = dense(&case, temperature, &device);
                let logits = matrix(&case.student, case.classes, &device).require_grad();
                let loss = Jsd { temperature, beta }.forward(logits.clone(), &targets);
                let gradient = logits.grad(&loss.backward()).unwrap();
                let gradient = gradient.try_into_vec_as::<f32>().unwrap();
                assert!(gradient.iter().all(|g| g.is_finite()), "{}", case.name);
                let rows = soft::rows(&case.student, &teacher, case.classes, temperature);
                let jsd = soft::mean(&rows, |p, q| soft::jsd(p, q, beta));
                assert_close(scalar(loss) / temperature.powi(2), jsd, 1e-6, case.name);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences_whole_and_cut() {
        let device = Device::flex().autodiff();
        let temperature = 2.5;
        for (case, beta) in Case::smooth()
            .into_iter()
            .flat_map(|c| BETAS.map(|b| (c.clone(), b)))
        {
            let jsd = Jsd { temperature, beta };
            let (teacher, targets) = dense(&case, temperature, &device);
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let found = logits.grad(&jsd.forward(logits.clone(), &targets).backward());
            let expected = reference::differences(&case.student, |z| {
                let rows = soft::rows(z, &teacher, case.classes, temperature);
                temperature * temperature * soft::mean(&rows, |p, q| soft::jsd(p, q, beta))
            });
            reference::assert_gradient(found, &expected, case.name);

            let top = TopK::of(&teacher, case.classes, 1);
            let weights = Tensor::ones([case.labels.len()], &device);
            let cut = Targets::Sparse(vec![(weights, top.on(&device))]);
            let found = logits.grad(&jsd.forward(logits.clone(), &cut).backward());
            let expected = reference::differences(&case.student, |z| {
                let rows = soft::buckets(z, &top, case.classes, temperature);
                temperature * temperature * soft::mean(&rows, |p, q| soft::jsd(p, q, beta))
            });
            reference::assert_gradient(found, &expected, case.name);
        }
    }

    #[test]
    fn the_ends_are_the_forward_and_the_reverse_divergence() {
        let device = Device::flex();
        let temperature = 2.0;
        for case in Case::all() {
            let (_, targets) = dense(&case, temperature, &device);
            let student = matrix(&case.student, case.classes, &device);
            let at = |beta| scalar(Jsd { temperature, beta }.forward(student.clone(), &targets));
            let forward =
                temperature.powi(2) * scalar(targets.divergence(student.clone(), temperature).mean());
            let reverse = scalar(ReverseKl { temperature }.forward(student.clone(), &targets));
            assert_eq!((at(0.0), at(1.0)), (forward, reverse), "{}", case.name);
        }
    }

    #[test]
    fn near_the_ends_it_is_those_divergences_times_what_is_left() {
        let device = Device::flex();
        let (temperature, near) = (1.0, 1e-3);
        let mut differ = false;
        for case in Case::smooth() {
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let rows = soft::rows(&case.student, &teacher, case.classes, temperature);
            let (_, targets) = dense(&case, temperature, &device);
            let at = |beta: f64| {
                let jsd = Jsd { temperature, beta };
                let student = matrix(&case.student, case.classes, &device);
                scalar(jsd.forward(student, &targets)) / (beta * (1.0 - beta))
            };
            let (forward, reverse) = (soft::mean(&rows, soft::forward), soft::mean(&rows, soft::reverse));
            differ |= (forward - reverse).abs() > 0.1;
            assert_close(at(near), forward, 0.02, case.name);
            assert_close(at(1.0 - near), reverse, 0.02, case.name);
        }
        assert!(differ, "no case tells the ends apart");
    }

    #[test]
    fn it_is_symmetric_in_the_middle_and_bounded() {
        let device = Device::flex();
        let kd = Distillation { temperature: 1.0 };
        let jsd = Jsd {
            temperature: 1.0,
            beta: 0.5,
        };
        for case in Case::all() {
            let student = matrix(&case.student, case.classes, &device);
            let teacher = matrix(&case.teacher, case.classes, &device);
            let found = scalar(jsd.forward(student.clone(), &Targets::Dense(kd.soften(teacher.clone()))));
            let exchanged = scalar(jsd.forward(teacher, &Targets::Dense(kd.soften(student))));
            assert_close(found, exchanged, 1e-5, case.name);
            assert!(
                (0.0..=std::f64::consts::LN_2 + 1e-6).contains(&found),
                "{}: {found}",
                case.name
            );
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let temperature = 4.0;
        for (case, beta) in Case::all()
            .into_iter()
            .flat_map(|c| BETAS.map(|b| (c.clone(), b)))
        {
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let teacher = Targets::Dense(Distillation { temperature }.soften(logits.clone().detach()));
            let loss = Jsd { temperature, beta }.forward(logits.clone(), &teacher);
            let grads = loss.backward();
            assert_close(scalar(loss), 0.0, 5e-6, case.name);
            reference::assert_gradient(logits.grad(&grads), &vec![0.0; case.student.len()], case.name);
        }
    }

    #[test]
    fn a_teacher_probability_of_zero_is_finite() {
        let device = Device::flex().autodiff();
        let beta: f64 = 0.25;
        for zero in [f32::NEG_INFINITY, -1e30, -1e4] {
            let logits = matrix(&[0.0, 0.0], 2, &device).require_grad();
            let teacher = Targets::Dense(Tensor::<2>::from_floats([[0.0, zero]], &device));
            let loss = Jsd {
                temperature: 1.0,
                beta,
            }
            .forward(logits.clone(), &teacher);
            let grads = loss.backward();
            let mixture = [beta + (1.0 - beta) / 2.0, (1.0 - beta) / 2.0];
            let of_student = 0.5 * (0.5 / mixture[0]).ln() + 0.5 * (0.5 / mixture[1]).ln();
            let expected = beta * -mixture[0].ln() + (1.0 - beta) * of_student;
            assert_close(scalar(loss), expected, 1e-6, "zero");
            // (1 - beta) q_j (log(q_j / m_j) - KL(q || m))
            let expected = mixture.map(|m| (1.0 - beta) * 0.5 * ((0.5 / m).ln() - of_student));
            reference::assert_gradient(logits.grad(&grads), &expected, "zero");
        }
    }
}
