//! What a student minimises: labels and teacher together.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use crate::{CrossEntropy, Distillation, Labels, Targets};

/// `(1 - alpha) CE(y, z) + alpha T² KL(p_T || q_T)`, the means of [`CrossEntropy`] and of [`Distillation`] or
/// [`SparseDistillation`](crate::SparseDistillation), as the [`Targets`] are.
///
/// Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, <https://arxiv.org/abs/1503.02531>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combined {
    /// Share of the soft loss, within 0..=1.
    pub alpha: f64,
    /// T, greater than 0.
    pub temperature: f64,
}

/// A combined loss and its parts. Only `total` carries a graph; the parts are on the device without autodiff.
#[derive(Debug, Clone)]
pub struct Loss {
    /// What to minimise, `[1]`.
    pub total: Tensor<1>,
    /// Cross entropy over the labelled samples, unweighted, `[1]`.
    pub hard: Tensor<1>,
    /// Divergence from the teacher at temperature T without the factor T², unweighted, `[1]`. It is computed whatever
    /// alpha is.
    pub soft: Tensor<1>,
    /// What share of the gradient at the logits the teacher had: `|soft| / (|soft| + |hard|)`, 0 where both vanish, `[1]`.
    pub teacher_share: Tensor<1>,
}

impl Combined {
    /// The loss of a batch, with its parts.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's
    /// - labels: `[n]`
    /// - teacher: of `n` samples, at temperature T
    /// - each part of the output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, labels: &Labels, teacher: &Targets) -> Loss {
        let teacher_share = self.teacher_share(
            logits.clone().without_autodiff(),
            labels,
            teacher.clone().without_autodiff(),
        );
        let hard = CrossEntropy.forward(logits.clone(), labels);
        let soft = teacher.divergence(logits, self.temperature).mean();
        Loss {
            hard: hard.clone().without_autodiff(),
            soft: soft.clone().without_autodiff(),
            total: hard * (1.0 - self.alpha) + soft * (self.alpha * self.temperature * self.temperature),
            teacher_share,
        }
    }

    /// Frobenius norms of both gradients at the logits, in closed form: `alpha T (q_T - p_T) / n` for the teacher, with the
    /// tail of a cut p_T shared out as the student does, `(1 - alpha) (q_1 - onehot(y)) / labelled` for the labels.
    fn teacher_share(&self, logits: Tensor<2>, labels: &Labels, teacher: Targets) -> Tensor<1> {
        let [samples, classes] = logits.dims();
        let distillation = Distillation {
            temperature: self.temperature,
        };
        let student = distillation.soften(logits.clone());
        let soft = (student.clone().exp() - teacher.expand(student))
            * (self.alpha * self.temperature / samples as f64);
        let mask = labels.mask.clone().without_autodiff();
        let onehot = labels
            .classes
            .clone()
            .without_autodiff()
            .one_hot::<2>(classes)
            .float();
        let divisor = labels.divisor().without_autodiff();
        let hard = (log_softmax(logits, 1).exp() - onehot) * mask.unsqueeze_dim(1) * (1.0 - self.alpha)
            / divisor.unsqueeze_dim(1);
        let (soft, hard) = (norm(soft), norm(hard));
        // Where both vanish, 0 / (tiny) is the 0 that is wanted.
        soft.clone() / (soft + hard).clamp_min(f32::MIN_POSITIVE)
    }
}

fn norm(gradient: Tensor<2>) -> Tensor<1> {
    gradient.powi_scalar(2).sum().sqrt()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar};

    fn dense(case: &Case, temperature: f64, device: &Device) -> Targets {
        let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
        Targets::Dense(matrix(&teacher, case.classes, device))
    }

    /// The best class of one teacher and the two best of another, a third to two thirds.
    fn cut(case: &Case, temperature: f64, device: &Device) -> Targets {
        let opposite: Vec<f64> = case.teacher.iter().map(|z| -z).collect();
        let one = |share: f64, logits: &[f64], kept| {
            let teacher = reference::log_softmax(logits, case.classes, temperature);
            let weights = matrix(&vec![share; case.labels.len()], 1, device).squeeze_dim(1);
            (weights, TopK::of(&teacher, case.classes, kept).on(device))
        };
        Targets::Sparse(vec![
            one(1.0 / 3.0, &case.teacher, 1),
            one(2.0 / 3.0, &opposite, 2),
        ])
    }

    fn forward(case: &Case, combined: Combined, teacher: &Targets, device: &Device) -> (Tensor<2>, Loss) {
        let logits = matrix(&case.student, case.classes, device).require_grad();
        let labels = Labels::new(&case.labels, device);
        let loss = combined.forward(logits.clone(), &labels, teacher);
        (logits, loss)
    }

    #[test]
    fn total_and_parts_agree_with_the_reference_whatever_alpha_is() {
        let device = Device::flex().autodiff();
        for case in Case::all() {
            for alpha in [0.0, 0.3, 1.0] {
                let temperature = 2.0;
                let combined = Combined { alpha, temperature };
                let (_, loss) = forward(&case, combined, &dense(&case, temperature, &device), &device);
                let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
                let hard = reference::cross_entropy(&case.student, &case.labels, case.classes);
                let soft = reference::distillation(&case.student, &teacher, case.classes, temperature);
                assert_close(scalar(loss.hard), hard, 1e-5, case.name);
                assert_close(scalar(loss.soft), soft / 4.0, 2e-5, case.name);
                assert_close(
                    scalar(loss.total),
                    (1.0 - alpha) * hard + alpha * soft,
                    2e-5,
                    case.name,
                );
            }
        }
    }

    #[test]
    fn the_teachers_share_is_that_of_the_measured_gradients() {
        let device = Device::flex().autodiff();
        let (alpha, temperature) = (0.7, 4.0);
        for case in Case::all() {
            for teacher in [
                dense(&case, temperature, &device),
                cut(&case, temperature, &device),
            ] {
                let (_, loss) = forward(&case, Combined { alpha, temperature }, &teacher, &device);
                let measured = |term: &dyn Fn(Tensor<2>) -> Tensor<1>| {
                    let logits = matrix(&case.student, case.classes, &device).require_grad();
                    let grads = term(logits.clone()).backward();
                    logits.grad(&grads).map_or(0.0, |g| scalar(norm(g)))
                };
                let soft = measured(&|z| teacher.divergence(z, temperature).mean());
                let soft = alpha * temperature * temperature * soft;
                let labels = Labels::new(&case.labels, &device);
                let hard = (1.0 - alpha) * measured(&|z| CrossEntropy.forward(z, &labels));
                let expected = if soft + hard > 0.0 {
                    soft / (soft + hard)
                } else {
                    0.0
                };
                assert_close(scalar(loss.teacher_share), expected, 1e-4, case.name);
            }
        }
    }

    #[test]
    fn the_share_is_zero_without_any_gradient_and_at_alpha_zero() {
        let device = Device::flex();
        let logits = matrix(&[1.0, 2.0], 2, &device);
        let unlabelled = Labels::new(&[None], &device);
        let combined = Combined {
            alpha: 0.5,
            temperature: 1.0,
        };
        let teacher = Distillation { temperature: 1.0 }.soften(logits.clone());
        let same = combined.forward(logits.clone(), &unlabelled, &Targets::Dense(teacher));
        assert_eq!(scalar(same.teacher_share), 0.0);
        let flat = matrix(&[-std::f64::consts::LN_2; 2], 2, &device);
        let off = Combined {
            alpha: 0.0,
            ..combined
        }
        .forward(logits, &Labels::new(&[Some(0)], &device), &Targets::Dense(flat));
        assert_eq!(scalar(off.teacher_share), 0.0);
        assert!(
            scalar(off.soft) > 0.0,
            "the divergence is computed although it has no weight"
        );
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let device = Device::flex().autodiff();
        for case in Case::smooth() {
            let (alpha, temperature) = (0.6, 2.5);
            let combined = Combined { alpha, temperature };
            let (logits, loss) = forward(&case, combined, &dense(&case, temperature, &device), &device);
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let expected = reference::differences(&case.student, |z| {
                (1.0 - alpha) * reference::cross_entropy(z, &case.labels, case.classes)
                    + alpha * reference::distillation(z, &teacher, case.classes, temperature)
            });
            reference::assert_gradient(logits.grad(&loss.total.backward()), &expected, case.name);
        }
    }
}
