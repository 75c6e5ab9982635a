//! Linear probes: a classifier fitted to the outputs of an encoder that stays as it is.
//!
//! Multinomial logistic regression, the convex problem
//!
//! ```text
//! minimise  mean_i CE(W^T x_i + b, y_i) + strength / 2 (|W|² + |b|²)
//! ```
//!
//! of features that are centred and brought to a mean square of 1, all by the same factor. The bias is held small too, so
//! that a class without samples has a finite one. L-BFGS solves it in `f64`, without chance and on one thread: the same data
//! give the same classifier, bit for bit. Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes,
//! 2016, <https://arxiv.org/abs/1610.01644>; Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4.

use std::collections::VecDeque;

use crate::Evaluation;

/// What is tried, the strongest first, each beginning where the one before ended.
const STRENGTHS: [f64; 9] = [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001];
/// Pairs of steps and changes of the gradient that L-BFGS remembers: the usual number.
const MEMORY: usize = 10;
/// Steps of one fit at most. A hundred do for a well-posed one; where more would be needed the last is as good.
const MAX_STEPS: usize = 1_000;
/// The greatest part of a gradient that counts as none.
const FLAT: f64 = 1e-7;

/// Features, row by row, and their classes.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub features: &'a [f32],
    pub labels: &'a [u32],
}

/// A fitted classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// `[features, classes]`
    pub weight: Vec<f32>,
    /// `[classes]`
    pub bias: Vec<f32>,
    /// The one of those tried whose loss on the validation samples is least; the greatest of equals.
    pub strength: f64,
    pub validation: Evaluation,
}

/// Fits a classifier of `classes` classes to the training samples, with the strength that suits the validation samples.
///
/// # Panics
///
/// If there are no training samples, rows are not of one length, or a label is not below `classes`.
pub fn fit(train: Samples<'_>, validation: Samples<'_>, classes: usize) -> Probe {
    let width = train.features.len() / train.labels.len();
    assert_eq!(train.features.len(), width * train.labels.len(), "rows");
    let scale = Scale::of(train.features, width);
    let mut problem = Problem {
        rows: scale.apply(train.features),
        labels: train.labels,
        width,
        classes,
        strength: 0.0,
    };
    let mut parameters = vec![0.0; (width + 1) * classes];
    let mut best: Option<Probe> = None;
    for strength in STRENGTHS {
        problem.strength = strength;
        parameters = problem.solve(parameters);
        let (weight, bias) = scale.undo(&parameters, classes);
        let logits: Vec<f32> = validation
            .features
            .chunks_exact(width)
            .flat_map(|row| logits(row, &weight, &bias))
            .collect();
        let validation = Evaluation::new(&logits, validation.labels, classes);
        if best
            .as_ref()
            .is_none_or(|best| validation.loss < best.validation.loss)
        {
            best = Some(Probe {
                weight,
                bias,
                strength,
                validation,
            });
        }
    }
    best.expect("some strength was tried")
}

fn logits(row: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut logits = bias.to_vec();
    for (x, weights) in row.iter().zip(weight.chunks_exact(bias.len())) {
        logits.iter_mut().zip(weights).for_each(|(z, w)| *z += x * w);
    }
    logits
}

/// Where features are, and how far they spread.
struct Scale {
    mean: Vec<f64>,
    factor: f64,
}

impl Scale {
    fn of(features: &[f32], width: usize) -> Self {
        let count = (features.len() / width) as f64;
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, &x)| *m += f64::from(x) / count);
        }
        let squares: f64 = features
            .chunks_exact(width)
            .flat_map(|row| row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2)))
            .sum();
        let spread = (squares / features.len() as f64).sqrt();
        // Equal rows have no spread, and nothing to tell.
        let factor = if spread > 0.0 { 1.0 / spread } else { 1.0 };
        Self { mean, factor }
    }

    fn apply(&self, features: &[f32]) -> Vec<f64> {
        let row = |row: &[f32]| -> Vec<f64> {
            let centred = row.iter().zip(&self.mean);
            centred.map(|(&x, m)| (f64::from(x) - m) * self.factor).collect()
        };
        features.chunks_exact(self.mean.len()).flat_map(row).collect()
    }

    /// Weight and bias for features as they come.
    fn undo(&self, parameters: &[f64], classes: usize) -> (Vec<f32>, Vec<f32>) {
        let (weight, bias) = parameters.split_at(self.mean.len() * classes);
        let mut bias = bias.to_vec();
        for (mean, weights) in self.mean.iter().zip(weight.chunks_exact(classes)) {
            bias.iter_mut()
                .zip(weights)
                .for_each(|(b, w)| *b -= mean * self.factor * w);
        }
        let weight = weight.iter().map(|w| (w * self.factor) as f32).collect();
        (weight, bias.into_iter().map(|b| b as f32).collect())
    }
}

/// A fit. Its parameters are the weight, `[width, classes]`, and behind it the bias.
struct Problem<'a> {
    rows: Vec<f64>,
    labels: &'a [u32],
    width: usize,
    classes: usize,
    strength: f64,
}

impl Problem<'_> {
    /// What is minimised, and its gradient.
    fn value(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let classes = self.classes;
        let share = 1.0 / self.labels.len() as f64;
        let (weight, bias) = parameters.split_at(self.width * classes);
        let squares: f64 = parameters.iter().map(|p| p * p).sum();
        let mut value = 0.5 * self.strength * squares;
        let mut gradient: Vec<f64> = parameters.iter().map(|p| self.strength * p).collect();
        let mut logits = vec![0.0; classes];
        for (row, &label) in self.rows.chunks_exact(self.width).zip(self.labels) {
            logits.copy_from_slice(bias);
            for (x, weights) in row.iter().zip(weight.chunks_exact(classes)) {
                logits.iter_mut().zip(weights).for_each(|(z, w)| *z += x * w);
            }
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|z| (z - top).exp()).sum();
            value += share * (top + sum.ln() - logits[label as usize]);
            // Of the loss by each logit: probability less truth.
            logits
                .iter_mut()
                .for_each(|z| *z = share * (*z - top).exp() / sum);
            logits[label as usize] -= share;
            let (by_weight, by_bias) = gradient.split_at_mut(self.width * classes);
            for (x, parts) in row.iter().zip(by_weight.chunks_exact_mut(classes)) {
                parts.iter_mut().zip(&logits).for_each(|(g, d)| *g += x * d);
            }
            by_bias.iter_mut().zip(&logits).for_each(|(g, d)| *g += d);
        }
        (value, gradient)
    }

    fn solve(&self, mut parameters: Vec<f64>) -> Vec<f64> {
        let (mut value, mut gradient) = self.value(&parameters);
        let mut memory = VecDeque::new();
        for _ in 0..MAX_STEPS {
            if gradient.iter().all(|g| g.abs() < FLAT) {
                break;
            }
            let direction = direction(&gradient, &memory);
            let Some((next, after)) = self.search(&parameters, (value, &gradient), &direction) else {
                break;
            };
            let step = difference(&next, &parameters);
            let change = difference(&after.1, &gradient);
            let product = dot(&step, &change);
            // Convex as it is, only rounding could make this anything else.
            if product > 0.0 {
                memory.push_back((step, change, product));
                if memory.len() > MEMORY {
                    memory.pop_front();
                }
            }
            parameters = next;
            (value, gradient) = after;
        }
        parameters
    }

    /// The first point along the direction, halving the way, where the value falls by a share of what the slope promises
    /// (Armijo); `None` where rounding hides any fall.
    fn search(
        &self,
        from: &[f64],
        (value, gradient): (f64, &[f64]),
        direction: &[f64],
    ) -> Option<(Vec<f64>, Value)> {
        const SHARE: f64 = 1e-4;
        const HALVINGS: i32 = 40;
        let slope = dot(gradient, direction);
        (0..HALVINGS).find_map(|halvings| {
            let way = 0.5f64.powi(halvings);
            let next: Vec<f64> = from.iter().zip(direction).map(|(x, d)| x + way * d).collect();
            let after = self.value(&next);
            (after.0 <= value + SHARE * way * slope).then_some((next, after))
        })
    }
}

/// What is minimised, and its gradient.
type Value = (f64, Vec<f64>);

/// Down from here, by the curvature that past steps (step, change of the gradient, their product) have shown.
fn direction(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for (step, change, product) in memory.iter().rev() {
        let share = dot(step, &q) / product;
        q.iter_mut().zip(change).for_each(|(q, y)| *q -= share * y);
        shares.push(share);
    }
    if let Some((_, change, product)) = memory.back() {
        let scale = product / dot(change, change);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((step, change, product), share) in memory.iter().zip(shares.into_iter().rev()) {
        let more = share - dot(change, &q) / product;
        q.iter_mut().zip(step).for_each(|(q, s)| *q += more * s);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two overlapping clouds along the first feature, of a third class nothing; the other features are noise.
    fn clouds(count: usize, shift: f32, others: usize) -> (Vec<f32>, Vec<u32>) {
        let mut rng = retort_data::rng::Rng::new(count as u64);
        let mut noise = || 2.0 * rng.uniform_f32() - 1.0;
        let mut rows = Vec::new();
        for i in 0..count {
            rows.push((i % 2) as f32 + noise() + shift);
            rows.extend((0..others).map(|_| 100.0 + noise()));
        }
        (rows, (0..count).map(|i| (i % 2) as u32).collect())
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (features, labels) = clouds(9, 0.0, 2);
        let scale = Scale::of(&features, 3);
        let problem = Problem {
            rows: scale.apply(&features),
            labels: &labels,
            width: 3,
            classes: 3,
            strength: 0.1,
        };
        let parameters: Vec<f64> = (0..12).map(|i| f64::from(i % 5) - 1.7).collect();
        let (_, gradient) = problem.value(&parameters);
        for (i, found) in gradient.iter().enumerate() {
            let at = |shift: f64| {
                let mut moved = parameters.clone();
                moved[i] += shift;
                problem.value(&moved).0
            };
            let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((found - expected).abs() < 1e-8, "{i}: {found} {expected}");
        }
    }

    /// Reference: Newton's method in one dimension, for two points at -1 and 1 of unit spread whose weights are w and -w.
    #[test]
    fn a_fit_of_two_points_is_the_solution_by_hand() {
        let (features, labels) = ([-3.0, -1.0], [0, 1]);
        let samples = Samples {
            features: &features,
            labels: &labels,
        };
        let problem = Problem {
            rows: vec![-1.0, 1.0],
            labels: &labels,
            width: 1,
            classes: 2,
            strength: 0.1,
        };
        let solved = problem.solve(vec![0.0; 4]);
        // 0.1 w = 1 / (1 + e^(2 w)), where the logits differ by 2 w.
        let mut w: f64 = 0.5;
        for _ in 0..50 {
            let p = 1.0 / (1.0 + (2.0 * w).exp());
            w -= (0.1 * w - p) / (0.1 + 2.0 * p * (1.0 - p));
        }
        for (found, expected) in solved.iter().zip([-w, w, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{solved:?} {w}");
        }
        // What separates so well is best held least, and the middle between the points is at -2.
        let probe = fit(samples, samples, 2);
        assert_eq!((probe.strength, probe.validation.accuracy), (0.0001, 1.0));
        let middle = logits(&[-2.0], &probe.weight, &probe.bias);
        assert!((middle[0] - middle[1]).abs() < 1e-4, "{middle:?}");
    }

    #[test]
    fn validation_chooses_the_strength_and_a_class_without_samples_stays_finite() {
        let (features, labels) = clouds(60, 0.0, 29);
        let train = Samples {
            features: &features,
            labels: &labels,
        };
        let (held_out, truth) = clouds(400, 0.1, 29);
        let validation = Samples {
            features: &held_out,
            labels: &truth,
        };
        let probe = fit(train, validation, 3);
        assert_eq!(probe, fit(train, validation, 3), "the same, bit for bit");
        assert!(probe.validation.accuracy > 0.6, "{probe:?}");
        assert!(STRENGTHS[1..8].contains(&probe.strength), "{}", probe.strength);
        assert!(probe.weight.iter().chain(&probe.bias).all(|w| w.is_finite()));
        let answer = logits(&features[..30], &probe.weight, &probe.bias);
        assert!(answer[2] < answer[0], "nobody is of class 2: {answer:?}");
    }
}
