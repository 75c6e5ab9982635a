//! The soft loss on logits: their squared differences.

use burn::tensor::Tensor;

use crate::kd::LOG_ZERO;

/// Mean squared error of centred logits: `mean over samples and classes of (T (log p_T - mean log p_T) - (z - mean z))²`, each
/// mean inside a row over its classes.
///
/// A teacher sends `log p_T = log softmax(v / T)`, its logits v over T up to a constant of the sample. Softmax doesn't see
/// that constant and neither does this loss: `T (log p_T - mean log p_T)` is v - mean v. Centred logits are what
/// [`Distillation`](crate::Distillation) compares at high temperature: its limit is half of this. T is only the scale that
/// the logits travelled at, and there is no factor T².
///
/// It needs whole distributions, and follows the teacher's least probable classes as faithfully as the others, so that
/// what an encoding does to those (`u8` ends 24 below the largest log-probability) becomes part of what is learned. A class
/// of probability 0 counts as e^-10000.
///
/// Reference: Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, <https://arxiv.org/abs/1312.6184>; as a limit of
/// distillation Hinton, Vinyals and Dean, 2015, section 2.1, <https://arxiv.org/abs/1503.02531>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mse {
    /// T, greater than 0; the one that the teacher's distribution was softened with.
    pub temperature: f64,
}

impl Mse {
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
        let teacher = centred(teacher.clamp_min(LOG_ZERO)) * self.temperature;
        (centred(logits) - teacher)
            .powi_scalar(2)
            .mean_dim(1)
            .squeeze_dim(1)
    }
}

fn centred(rows: Tensor<2>) -> Tensor<2> {
    let mean = rows.clone().mean_dim(1);
    rows - mean
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Distillation;
    use crate::reference::{self, Case, assert_close, matrix, scalar, soft};

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        let device = Device::flex();
        for case in Case::all() {
            for temperature in [1.0, 4.0, 20.0] {
                let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
                let loss = Mse { temperature }.forward(
                    matrix(&case.student, case.classes, &device),
                    matrix(&teacher, case.classes, &device),
                );
                let expected = soft::mse(&case.student, &teacher, case.classes, temperature);
                assert_close(scalar(loss), expected, 2e-5, case.name);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let device = Device::flex().autodiff();
        let temperature = 3.0;
        for case in Case::smooth() {
            let teacher = reference::log_softmax(&case.teacher, case.classes, temperature);
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let loss = Mse { temperature }.forward(logits.clone(), matrix(&teacher, case.classes, &device));
            let expected = reference::differences(&case.student, |z| {
                soft::mse(z, &teacher, case.classes, temperature)
            });
            reference::assert_gradient(logits.grad(&loss.backward()), &expected, case.name);
        }
    }

    #[test]
    fn neither_the_temperature_nor_a_constant_matters() {
        let device = Device::flex();
        for case in Case::smooth() {
            let loss = |temperature, student: f64, teacher: f64| {
                let shift = |logits: &[f64], by: f64| logits.iter().map(|z| z + by).collect::<Vec<_>>();
                let student = matrix(&shift(&case.student, student), case.classes, &device);
                let teacher = matrix(&shift(&case.teacher, teacher), case.classes, &device);
                let sent = Distillation { temperature }.soften(teacher);
                scalar(Mse { temperature }.forward(student, sent))
            };
            let expected = loss(1.0, 0.0, 0.0);
            for (temperature, student, teacher) in [(8.0, 0.0, 0.0), (1.0, 3.0, 0.0), (0.5, -2.0, 5.0)] {
                assert_close(loss(temperature, student, teacher), expected, 1e-4, case.name);
            }
        }
    }

    #[test]
    fn half_of_it_is_what_distillation_tends_to() {
        let device = Device::flex().autodiff();
        let temperature = 200.0;
        for case in Case::smooth() {
            let kd = Distillation { temperature };
            let teacher = kd.soften(matrix(&case.teacher, case.classes, &device));
            let gradient = |loss: &dyn Fn(Tensor<2>) -> Tensor<1>| {
                let logits = matrix(&case.student, case.classes, &device).require_grad();
                let gradient = logits.grad(&loss(logits.clone()).backward()).unwrap();
                gradient.try_into_vec_as::<f32>().unwrap()
            };
            let half = gradient(&|z| Mse { temperature }.forward(z, teacher.clone()) * 0.5);
            let limit = gradient(&|z| kd.forward(z, teacher.clone()));
            for (half, limit) in half.into_iter().zip(limit) {
                assert!((half - limit).abs() < 0.02, "{}: {half}, {limit}", case.name);
            }
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let temperature = 4.0;
        for case in Case::all() {
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let teacher = Distillation { temperature }.soften(logits.clone().detach());
            let loss = Mse { temperature }.forward(logits.clone(), teacher);
            let gradient = logits.grad(&loss.backward()).unwrap();
            // Of logits of size z the errors are of size z e-7.
            let size = case.student.iter().fold(1.0, |a: f64, z| a.max(z.abs()));
            assert!(scalar(loss) <= (1e-6 * size).powi(2), "{}", case.name);
            let gradient = gradient.try_into_vec_as::<f32>().unwrap();
            assert!(
                gradient.iter().all(|g| f64::from(g.abs()) <= 1e-6 * size),
                "{}",
                case.name
            );
        }
    }

    #[test]
    fn a_teacher_probability_of_zero_is_finite() {
        let device = Device::flex().autodiff();
        for zero in [f32::NEG_INFINITY, -1e30, -1e4] {
            let logits = matrix(&[0.0, 0.0], 2, &device).require_grad();
            let teacher = Tensor::<2>::from_floats([[0.0, zero]], &device);
            let loss = Mse { temperature: 2.0 }.forward(logits.clone(), teacher);
            let gradient = logits.grad(&loss.backward()).unwrap();
            assert_close(scalar(loss), 1e8, 1e-6, "zero");
            assert_eq!(gradient.try_into_vec_as::<f32>().unwrap(), [-1e4, 1e4]);
        }
    }
}
