//! The hard loss: cross entropy with the labels that there are.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The labels of a step; a sample may have none.
#[derive(Debug, Clone)]
pub struct Labels {
    /// Class of each sample, `[n]`; 0 where there is none.
    pub classes: Tensor<1, Int>,
    /// 1 where a sample is labelled, 0 where it is not, `[n]`.
    pub mask: Tensor<1>,
}

impl Labels {
    /// Puts labels on a device.
    pub fn new(labels: &[Option<u32>], device: &Device) -> Self {
        let classes: Vec<i64> = labels.iter().map(|l| i64::from(l.unwrap_or(0))).collect();
        let mask: Vec<f32> = labels
            .iter()
            .map(|l| if l.is_some() { 1.0 } else { 0.0 })
            .collect();
        let shape = [labels.len()];
        Self {
            classes: Tensor::from_data(TensorData::new(classes, shape), device),
            mask: Tensor::from_data(TensorData::new(mask, shape), device),
        }
    }

    /// How many samples are labelled, but at least 1: what a mean over them divides by, `[1]`.
    pub fn divisor(&self) -> Tensor<1> {
        self.mask.clone().sum().clamp_min(1.0)
    }
}

/// Cross entropy at temperature 1: `mean over labelled samples of -log softmax(z)[y]`, 0 where nothing is labelled.
///
/// Reference: Bishop, Pattern Recognition and Machine Learning, section 4.3.4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrossEntropy;

impl CrossEntropy {
    /// The mean over the labelled samples.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`
    /// - labels: `[n]`
    /// - output: `[1]`
    pub fn forward(&self, logits: Tensor<2>, labels: &Labels) -> Tensor<1> {
        self.forward_no_reduction(logits, labels).sum() / labels.divisor()
    }

    /// The loss of each sample, 0 for one without a label.
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`
    /// - labels: `[n]`
    /// - output: `[n]`
    pub fn forward_no_reduction(&self, logits: Tensor<2>, labels: &Labels) -> Tensor<1> {
        let picked = log_softmax(logits, 1).gather(1, labels.classes.clone().unsqueeze_dim(1));
        picked.squeeze_dim::<1>(1).neg() * labels.mask.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{self, Case, assert_close, matrix, scalar};

    #[test]
    fn agrees_with_the_reference_on_hard_inputs() {
        for case in Case::all() {
            let device = Device::flex();
            let labels = Labels::new(&case.labels, &device);
            let loss = CrossEntropy.forward(matrix(&case.student, case.classes, &device), &labels);
            assert_close(
                scalar(loss),
                reference::cross_entropy(&case.student, &case.labels, case.classes),
                1e-5,
                case.name,
            );
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for case in Case::smooth() {
            let device = Device::flex().autodiff();
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let labels = Labels::new(&case.labels, &device);
            let grads = CrossEntropy.forward(logits.clone(), &labels).backward();
            let expected = reference::differences(&case.student, |z| {
                reference::cross_entropy(z, &case.labels, case.classes)
            });
            reference::assert_gradient(logits.grad(&grads), &expected, case.name);
        }
    }

    #[test]
    fn no_label_means_no_loss_and_no_gradient() {
        let device = Device::flex().autodiff();
        let logits = matrix(&[1.0, -2.0, 0.5, 3.0], 2, &device).require_grad();
        let loss = CrossEntropy.forward(logits.clone(), &Labels::new(&[None, None], &device));
        let grads = loss.backward();
        assert_eq!(scalar(loss), 0.0);
        reference::assert_gradient(logits.grad(&grads), &[0.0; 4], "unlabelled");
    }
}
