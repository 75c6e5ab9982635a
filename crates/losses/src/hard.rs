//! The hard loss: cross entropy with the labels that there are.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The labels of a step; a sample may have none, or of mixed samples two.
#[derive(Debug, Clone)]
pub struct Labels {
    /// Class of each sample, `[n]`; 0 where there is none.
    pub classes: Tensor<1, Int>,
    /// 1 where a sample is labelled, 0 where it is not, `[n]`.
    pub mask: Tensor<1>,
    /// Where samples were mixed: the labels of what was mixed in.
    pub second: Option<Second>,
}

/// The second label of each sample of a step.
#[derive(Debug, Clone)]
pub struct Second {
    /// Class, `[n]`.
    pub classes: Tensor<1, Int>,
    /// How much of the sample it is the label of, within 0..=1, `[n]`; the rest is the first label's.
    pub share: Tensor<1>,
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
            second: None,
        }
    }

    /// The labels of mixed samples: of each its second one and the share of that. Where the first is missing, so is this.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn mixed(self, second: &[(u32, f32)]) -> Self {
        let device = self.mask.device();
        let shape = self.mask.dims();
        assert_eq!([second.len()], shape, "a second label for each first one");
        let classes: Vec<i64> = second.iter().map(|(class, _)| i64::from(*class)).collect();
        let share: Vec<f32> = second.iter().map(|(_, share)| *share).collect();
        let second = Second {
            classes: Tensor::from_data(TensorData::new(classes, shape), &device),
            share: Tensor::from_data(TensorData::new(share, shape), &device),
        };
        Self {
            second: Some(second),
            ..self
        }
    }

    /// What the labels say as probabilities, `[n, classes]`: 1 at a sample's class, or its two shares. Rows of samples
    /// without a label mean nothing.
    pub(crate) fn probabilities(&self, classes: usize) -> Tensor<2> {
        let first = self.classes.clone().one_hot::<2>(classes).float();
        let Some(Second {
            classes: second,
            share,
        }) = &self.second
        else {
            return first;
        };
        let second = second.clone().one_hot::<2>(classes).float();
        let share = share.clone().unsqueeze_dim::<2>(1);
        first.clone() + (second - first) * share
    }

    /// Those of these rows.
    pub fn select(self, rows: &Tensor<1, Int>) -> Self {
        Self {
            classes: self.classes.select(0, rows.clone()),
            mask: self.mask.select(0, rows.clone()),
            second: self.second.map(|second| Second {
                classes: second.classes.select(0, rows.clone()),
                share: second.share.select(0, rows.clone()),
            }),
        }
    }

    /// How many samples are labelled, but at least 1: what a mean over them divides by, `[1]`.
    pub fn divisor(&self) -> Tensor<1> {
        self.mask.clone().sum().clamp_min(1.0)
    }
}

/// Cross entropy at temperature 1: `mean over labelled samples of -log softmax(z)[y]`, 0 where nothing is labelled. Of a
/// sample with a second label it is the mean of both labels' by their shares.
///
/// References: Bishop, Pattern Recognition and Machine Learning, section 4.3.4; Zhang et al., mixup: Beyond Empirical Risk
/// Minimization, 2018, <https://arxiv.org/abs/1710.09412>.
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
        let log_probs = log_softmax(logits, 1);
        let of = |classes: &Tensor<1, Int>| {
            let picked = log_probs.clone().gather(1, classes.clone().unsqueeze_dim(1));
            picked.squeeze_dim::<1>(1)
        };
        let first = of(&labels.classes);
        let picked = match &labels.second {
            Some(Second { classes, share }) => {
                let rest = share.clone().neg() + 1.0;
                rest * first + share.clone() * of(classes)
            }
            None => first,
        };
        picked.neg() * labels.mask.clone()
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

    /// Of case and reference: second labels that are all classes in turn, and shares from 0 to 1.
    fn second(case: &Case) -> Vec<(u32, f32)> {
        let classes = case.classes as u32;
        let shares = [0.25, 1.0, 0.0];
        (0..case.labels.len())
            .map(|row| ((row as u32 + 2) % classes, shares[row % 3]))
            .collect()
    }

    fn mixed_reference(case: &Case, logits: &[f64]) -> f64 {
        let log_q = reference::log_softmax(logits, case.classes, 1.0);
        let rows = case.labels.iter().zip(second(case)).enumerate();
        let losses: Vec<f64> = rows
            .filter_map(|(row, (first, (second, share)))| {
                let of = |class: u32| -log_q[row * case.classes + class as usize];
                Some((1.0 - f64::from(share)) * of((*first)?) + f64::from(share) * of(second))
            })
            .collect();
        losses.iter().sum::<f64>() / losses.len().max(1) as f64
    }

    #[test]
    fn two_labels_count_by_their_shares() {
        for case in Case::all() {
            let device = Device::flex().autodiff();
            let logits = matrix(&case.student, case.classes, &device).require_grad();
            let labels = Labels::new(&case.labels, &device).mixed(&second(&case));
            let loss = CrossEntropy.forward(logits.clone(), &labels);
            assert_close(
                scalar(loss.clone()),
                mixed_reference(&case, &case.student),
                1e-5,
                case.name,
            );
            if Case::smooth().iter().any(|smooth| smooth.name == case.name) {
                let expected = reference::differences(&case.student, |z| mixed_reference(&case, z));
                let grads = loss.backward();
                reference::assert_gradient(logits.grad(&grads), &expected, case.name);
            }
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
