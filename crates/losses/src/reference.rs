//! The losses again, slowly and in `f64`, and the inputs that tests run them on.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Sparse;

pub(crate) mod soft;

/// Inputs of one step: row-major logits of student and teacher, and labels.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) classes: usize,
    pub(crate) student: Vec<f64>,
    pub(crate) teacher: Vec<f64>,
    pub(crate) labels: Vec<Option<u32>>,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Self::smooth();
        cases.push(Self {
            name: "ties",
            classes: 3,
            student: vec![0.0; 6],
            teacher: vec![1.0, 1.0, 1.0, 5.0, 5.0, 0.0],
            labels: vec![Some(2), Some(0)],
        });
        cases.push(Self {
            name: "huge logits",
            classes: 3,
            student: vec![1e4, -1e4, 0.0, -1e4, -1e4, 1e4],
            teacher: vec![-1e4, 1e4, 0.0, 1e4, 1e4, -1e4],
            labels: vec![Some(1), Some(0)],
        });
        cases
    }

    /// Cases whose loss is smooth enough for finite differences.
    pub(crate) fn smooth() -> Vec<Self> {
        vec![
            Self {
                name: "partly labelled",
                classes: 4,
                student: vec![0.2, -1.3, 2.0, 0.7, -0.4, 0.1, 0.9, -2.2, 1.5, 1.4, -0.6, 0.0],
                teacher: vec![1.1, 0.3, -0.7, 2.4, -1.0, 0.6, 0.2, 0.8, -3.0, 2.0, 0.5, 0.4],
                labels: vec![Some(3), None, Some(1)],
            },
            Self {
                name: "single row",
                classes: 2,
                student: vec![0.5, -0.5],
                teacher: vec![-2.0, 1.0],
                labels: vec![Some(0)],
            },
            Self {
                name: "no label",
                classes: 3,
                student: vec![0.5, -0.5, 1.0],
                teacher: vec![-2.0, 1.0, 0.0],
                labels: vec![None],
            },
        ]
    }
}

pub(crate) fn log_softmax(logits: &[f64], classes: usize, temperature: f64) -> Vec<f64> {
    logits
        .chunks(classes)
        .flat_map(|row| {
            let top = row.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f64 = row.iter().map(|z| ((z - top) / temperature).exp()).sum();
            row.iter().map(move |z| (z - top) / temperature - sum.ln())
        })
        .collect()
}

pub(crate) fn cross_entropy(logits: &[f64], labels: &[Option<u32>], classes: usize) -> f64 {
    let log_q = log_softmax(logits, classes, 1.0);
    let losses: Vec<f64> = labels
        .iter()
        .enumerate()
        .filter_map(|(row, label)| label.map(|class| -log_q[row * classes + class as usize]))
        .collect();
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

pub(crate) fn distillation(logits: &[f64], teacher: &[f64], classes: usize, temperature: f64) -> f64 {
    let rows = soft::rows(logits, teacher, classes, temperature);
    temperature * temperature * soft::mean(&rows, soft::forward)
}

/// The k most probable classes of each row of a teacher, and the rest of it.
pub(crate) struct TopK {
    pub(crate) kept: usize,
    pub(crate) ids: Vec<u32>,
    pub(crate) log_probs: Vec<f64>,
    pub(crate) log_tail: Vec<f64>,
}

impl TopK {
    /// Of log-probabilities; the tail is at -1e4 where nothing is left out.
    pub(crate) fn of(log_probs: &[f64], classes: usize, kept: usize) -> Self {
        let (mut ids, mut values, mut log_tail) = (Vec::new(), Vec::new(), Vec::new());
        for row in log_probs.chunks(classes) {
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let (top, rest) = order.split_at_mut(kept);
            top.sort_unstable();
            ids.extend(top.iter().map(|&id| id as u32));
            values.extend(top.iter().map(|&id| row[id]));
            log_tail.push(logsumexp(rest.iter().map(|&id| row[id])).max(-1e4));
        }
        Self {
            kept,
            ids,
            log_probs: values,
            log_tail,
        }
    }

    /// Class and log-probability of what a row keeps.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = (usize, f64)> {
        let range = row * self.kept..(row + 1) * self.kept;
        let ids = self.ids[range.clone()].iter().map(|&id| id as usize);
        ids.zip(self.log_probs[range].iter().copied())
    }

    pub(crate) fn on(&self, device: &Device) -> Sparse {
        let ids: Vec<i64> = self.ids.iter().copied().map(i64::from).collect();
        let shape = [self.log_tail.len(), self.kept];
        Sparse {
            ids: Tensor::<2, Int>::from_data(TensorData::new(ids, shape), device),
            log_probs: matrix(&self.log_probs, self.kept, device),
            log_tail: matrix(&self.log_tail, 1, device).squeeze_dim(1),
        }
    }
}

pub(crate) fn logsumexp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + values.map(|v| (v - top).exp()).sum::<f64>().ln()
}

pub(crate) fn sparse_distillation(logits: &[f64], teacher: &TopK, classes: usize, temperature: f64) -> f64 {
    let rows = soft::buckets(logits, teacher, classes, temperature);
    temperature * temperature * soft::mean(&rows, soft::forward)
}

/// Central differences of `loss` at `point`.
pub(crate) fn differences(point: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let shifted = |index: usize, by: f64| {
        let mut point = point.to_vec();
        point[index] += by;
        loss(&point)
    };
    (0..point.len())
        .map(|i| (shifted(i, STEP) - shifted(i, -STEP)) / (2.0 * STEP))
        .collect()
}

pub(crate) fn matrix(values: &[f64], columns: usize, device: &Device) -> Tensor<2> {
    let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(narrow, shape), device)
}

pub(crate) fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

pub(crate) fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let bound = tolerance * expected.abs().max(1.0);
    assert!(
        (found - expected).abs() <= bound,
        "{what}: {found}, expected {expected}"
    );
}

pub(crate) fn assert_gradient(found: Option<Tensor<2>>, expected: &[f64], what: &str) {
    let found = found
        .expect("logits have a gradient")
        .try_into_vec_as::<f32>()
        .unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.into_iter().zip(expected) {
        assert!(
            (f64::from(found) - expected).abs() < 1e-5,
            "{what}: {found}, expected {expected}"
        );
    }
}
