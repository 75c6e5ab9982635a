//! What a student minimises: labels and teacher together.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use crate::{CrossEntropy, CutTargets, Distillation, Labels, Objective, Targets};

/// `(1 - alpha) CE(y, z) + alpha S(p_T, z)`, the means of [`CrossEntropy`] and of the soft loss S that the [`Objective`] is.
/// With [`Objective::Kd`] that is `(1 - alpha) CE + alpha T² KL(p_T || q_T)`.
///
/// Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, <https://arxiv.org/abs/1503.02531>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combined {
    /// The soft loss.
    pub objective: Objective,
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
    /// Forward divergence from the teacher at temperature T without the factor T², unweighted, `[1]`. It is computed
    /// whatever alpha and the objective are.
    pub soft: Tensor<1>,
    /// The soft loss as it enters the total, unweighted, `[1]`.
    pub objective: Tensor<1>,
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
    pub fn forward(&self, logits: Tensor<2>, labels: &Labels, teacher: &Targets) -> Result<Loss, CutTargets> {
        let hard = CrossEntropy.forward(logits.clone(), labels);
        let constant = logits.clone().without_autodiff();
        let (objective, soft) = match self.objective {
            // One pass gives both.
            Objective::Kd => {
                let divergence = teacher.divergence(logits, self.temperature).mean();
                let soft = divergence.clone().without_autodiff();
                (divergence * (self.temperature * self.temperature), soft)
            }
            other => (
                other.forward(logits, labels, teacher, self.temperature)?,
                teacher
                    .clone()
                    .without_autodiff()
                    .divergence(constant.clone(), self.temperature)
                    .mean(),
            ),
        };
        Ok(Loss {
            hard: hard.clone().without_autodiff(),
            soft,
            objective: objective.clone().without_autodiff(),
            total: hard * (1.0 - self.alpha) + objective * self.alpha,
            teacher_share: self.teacher_share(constant, labels, teacher)?,
        })
    }

    /// Of the Frobenius norms of both gradients at the logits.
    fn teacher_share(
        &self,
        logits: Tensor<2>,
        labels: &Labels,
        teacher: &Targets,
    ) -> Result<Tensor<1>, CutTargets> {
        let soft = norm(self.soft_gradient(logits.clone(), labels, teacher)?) * self.alpha;
        let hard = norm(hard_gradient(logits, labels)) * (1.0 - self.alpha);
        // Where both vanish, 0 / (tiny) is the 0 that is wanted.
        Ok(soft.clone() / (soft + hard).clamp_min(f32::MIN_POSITIVE))
    }

    /// Of the objective at logits outside autodiff, `[n, classes]`: for [`Objective::Kd`] `T (q_T - p_T) / n`, with the tail
    /// of a cut p_T shared out as the student does; for the others by a graph of the logits alone.
    fn soft_gradient(
        &self,
        logits: Tensor<2>,
        labels: &Labels,
        teacher: &Targets,
    ) -> Result<Tensor<2>, CutTargets> {
        let temperature = self.temperature;
        if self.objective == Objective::Kd {
            let samples = logits.dims()[0];
            let student = Distillation { temperature }.soften(logits);
            let teacher = teacher.clone().without_autodiff().expand(student.clone());
            return Ok((student.exp() - teacher) * (temperature / samples as f64));
        }
        let leaf = logits.clone().autodiff().require_grad();
        let objective = self
            .objective
            .forward(leaf.clone(), labels, teacher, temperature)?;
        let gradient = leaf.grad_remove(&mut objective.backward());
        Ok(gradient.unwrap_or_else(|| logits.zeros_like()))
    }
}

/// Of the cross entropy at logits outside autodiff, `[n, classes]`: `(q_1 - p_y) / labelled`, with p_y 1 at the label.
fn hard_gradient(logits: Tensor<2>, labels: &Labels) -> Tensor<2> {
    let classes = logits.dims()[1];
    let mask = labels.mask.clone().without_autodiff();
    let label = labels.probabilities(classes).without_autodiff();
    let divisor = labels.divisor().without_autodiff();
    (log_softmax(logits, 1).exp() - label) * mask.unsqueeze_dim(1) / divisor.unsqueeze_dim(1)
}

fn norm(gradient: Tensor<2>) -> Tensor<1> {
    gradient.powi_scalar(2).sum().sqrt()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::reference::{self, Case, TopK, assert_close, matrix, scalar, soft};

    const OBJECTIVES: [Objective; 7] = [
        Objective::Kd,
        Objective::ReverseKl,
        Objective::Jsd { beta: 0.0 },
        Objective::Jsd { beta: 0.3 },
        Objective::Jsd { beta: 1.0 },
        Objective::Mse,
        Objective::Dkd {
            alpha: 1.0,
            beta: 8.0,
        },
    ];

    fn kd(alpha: f64, temperature: f64) -> Combined {
        Combined {
            objective: Objective::Kd,
            alpha,
            temperature,
        }
    }

    /// The objective of unsoftened logits, of a teacher that sends all its classes.
    fn objective(combined: Combined, case: &Case, logits: &[f64], teacher: &[f64]) -> f64 {
        let temperature = combined.temperature;
        let rows = soft::rows(logits, teacher, case.classes, temperature);
        let divergence = match combined.objective {
            Objective::Mse => return soft::mse(logits, teacher, case.classes, temperature),
            Objective::Kd => soft::mean(&rows, soft::forward),
            Objective::ReverseKl => soft::mean(&rows, soft::reverse),
            Objective::Jsd { beta: 0.0 } => soft::mean(&rows, soft::forward),
            Objective::Jsd { beta: 1.0 } => soft::mean(&rows, soft::reverse),
            Objective::Jsd { beta } => soft::mean(&rows, |p, q| soft::jsd(p, q, beta)),
            Objective::Dkd { alpha, beta } => {
                let labelled = rows.iter().zip(&case.labels).filter_map(|((p, q), label)| {
                    let (target, others) = soft::dkd(p, q, (*label)? as usize);
                    Some(alpha * target + beta * others)
                });
                let losses: Vec<f64> = labelled.collect();
                losses.iter().sum::<f64>() / losses.len().max(1) as f64
            }
        };
        temperature * temperature * divergence
    }

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
        let loss = combined.forward(logits.clone(), &labels, teacher).unwrap();
        (logits, loss)
    }

    #[test]
    fn total_and_parts_agree_with_the_reference_whatever_alpha_and_objective_are() {
        let device = Device::flex().autodiff();
        for (case, wanted) in Case::all().iter().flat_map(|c| OBJECTIVES.map(|o| (c, o))) {
            for alpha in [0.0, 0.3, 1.0] {
                let temperature = 2.0;
                let combined = Combined {
                    objective: wanted,
                    alpha,
                    temperature,
                };
                let (_, loss) = forward(case, combined, &dense(case, temperature, &device), &device);
                let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
                let hard = reference::cross_entropy(&case.student, &case.labels, case.classes);
                let soft = reference::distillation(&case.student, &teacher, case.classes, temperature) / 4.0;
                let objective = objective(combined, case, &case.student, &teacher);
                let total = (1.0 - alpha) * hard + alpha * objective;
                let what = format!("{} {wanted:?} {alpha}", case.name);
                assert_close(scalar(loss.hard), hard, 1e-5, &what);
                assert_close(scalar(loss.soft), soft, 2e-5, &what);
                assert_close(scalar(loss.objective), objective, 2e-5, &what);
                assert_close(scalar(loss.total), total, 2e-5, &what);
            }
        }
    }

    #[test]
    fn gradient_and_share_agree_with_finite_differences() {
        let device = Device::flex().autodiff();
        let (alpha, temperature) = (0.6, 2.5);
        for (case, wanted) in Case::smooth().iter().flat_map(|c| OBJECTIVES.map(|o| (c, o))) {
            let combined = Combined {
                objective: wanted,
                alpha,
                temperature,
            };
            let (logits, loss) = forward(case, combined, &dense(case, temperature, &device), &device);
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let hard = reference::differences(&case.student, |z| {
                (1.0 - alpha) * reference::cross_entropy(z, &case.labels, case.classes)
            });
            let soft =
                reference::differences(&case.student, |z| alpha * objective(combined, case, z, &teacher));
            let total: Vec<f64> = hard.iter().zip(&soft).map(|(hard, soft)| hard + soft).collect();
            let what = format!("{} {wanted:?}", case.name);
            reference::assert_gradient(logits.grad(&loss.total.backward()), &total, &what);
            let norm = |gradient: &[f64]| gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            let (soft, hard) = (norm(&soft), norm(&hard));
            let share = if soft + hard > 0.0 {
                soft / (soft + hard)
            } else {
                0.0
            };
            assert_close(scalar(loss.teacher_share), share, 1e-5, &what);
        }
    }

    #[test]
    fn only_objectives_of_buckets_take_cut_targets() {
        let device = Device::flex().autodiff();
        let case = Case::smooth().remove(0);
        let (alpha, temperature) = (0.7, 4.0);
        let (cut, labels) = (
            cut(&case, temperature, &device),
            Labels::new(&case.labels, &device),
        );
        for objective in OBJECTIVES {
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let combined = Combined {
                objective,
                alpha,
                temperature,
            };
            let found = combined
                .forward(logits, &labels, &cut)
                .map(|loss| scalar(loss.total));
            let refused = match objective {
                Objective::Mse => Some("mse"),
                Objective::Dkd { .. } => Some("dkd"),
                _ => None,
            };
            assert_eq!(found.err().map(|e| e.objective), refused, "{objective:?}");
        }
    }

    #[test]
    fn the_teachers_share_is_that_of_the_measured_gradients_of_whole_and_of_cut_targets() {
        let device = Device::flex().autodiff();
        let (alpha, temperature) = (0.7, 4.0);
        for case in Case::all() {
            for teacher in [
                dense(&case, temperature, &device),
                cut(&case, temperature, &device),
            ] {
                let (_, loss) = forward(&case, kd(alpha, temperature), &teacher, &device);
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
        for objective in OBJECTIVES {
            let logits = matrix(&[1.0, 2.0], 2, &device);
            let combined = Combined {
                objective,
                ..kd(0.5, 1.0)
            };
            let teacher = Targets::Dense(Distillation { temperature: 1.0 }.soften(logits.clone()));
            let unlabelled = Labels::new(&[None], &device);
            let same = combined.forward(logits.clone(), &unlabelled, &teacher).unwrap();
            assert!(scalar(same.objective).abs() < 1e-6, "{objective:?}");
            // Of these rounding leaves a little of a gradient.
            if !matches!(objective, Objective::Mse | Objective::Jsd { .. }) {
                assert_eq!(scalar(same.teacher_share), 0.0, "{objective:?}");
            }

            let flat = Targets::Dense(matrix(&[-std::f64::consts::LN_2; 2], 2, &device));
            let off = Combined {
                alpha: 0.0,
                ..combined
            };
            let off = off
                .forward(logits, &Labels::new(&[Some(0)], &device), &flat)
                .unwrap();
            assert_eq!(scalar(off.teacher_share), 0.0, "{objective:?}");
            assert!(
                scalar(off.soft) > 0.0,
                "the divergence is computed although it has no weight"
            );
        }
    }
}
