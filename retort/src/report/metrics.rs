//! What a model's logits are worth: accuracy, calibration, and agreement with a teacher.
//!
//! Logits are row-major, one row per sample, as a model gives them at temperature 1. The top class
//! of a row is the first of its greatest logits. Everything is computed in f64.

mod bias;
mod errors;
#[cfg(test)]
mod tests;

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

pub use errors::{SharedErrors, churn};

/// Equal-width bins of confidence that the calibration error is computed from.
pub const BINS: usize = 15;

/// The logits of one model for a set of samples: finite, at least one sample, at least one class.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    values: &'a [f32],
    classes: usize,
}

/// Measured against labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub accuracy: f64,
    /// Mean negative log-likelihood of the labels, in nats.
    pub nll: f64,
    /// Expected calibration error over [`BINS`] bins.
    pub ece: f64,
    pub bins: Vec<Bin>,
    pub per_class: Vec<ClassScore>,
}

impl Evaluation {
    /// `e^nll`: among as many equally likely classes one would guess as well. Finite, whatever a model says.
    pub fn perplexity(&self) -> f64 {
        self.nll.exp().min(f64::MAX)
    }

    /// Mean bits that a byte of text costs, where so many targets were measured and stand for so many bytes. Unlike a perplexity
    /// it does not depend on how the text is cut into tokens.
    pub fn bits_per_byte(&self, targets: usize, bytes: u64) -> f64 {
        self.nll * targets as f64 / (bytes as f64 * LN_2)
    }
}

/// One bin of a reliability diagram: confidences in `(low, high]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub samples: u64,
    /// Mean confidence of the bin's samples; 0 without any.
    pub confidence: f64,
    /// Share of the bin's samples whose top class is the label; 0 without any.
    pub accuracy: f64,
}

/// One class, over the samples with that label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Samples with this label.
    pub support: u64,
    /// Share of them that the model (or both models) put right; none without samples.
    pub share: Option<f64>,
}

/// A student measured against its teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Share of samples where both name the same top class.
    pub agreement: f64,
    /// Mean KL(teacher || student) at temperature 1, in nats.
    pub kl: f64,
    /// The same share, by label.
    pub per_class: Vec<ClassScore>,
}

/// Logits and labels that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    #[error("{values} logits are not whole rows of {classes} classes")]
    Shape { values: usize, classes: usize },
    #[error("logit of sample {sample}, class {class} is not finite")]
    NotFinite { sample: usize, class: usize },
    #[error("{labels} labels for {samples} samples")]
    Labels { labels: usize, samples: usize },
    #[error("label {label} of sample {sample} is not below the {classes} classes")]
    Label {
        label: u32,
        sample: usize,
        classes: usize,
    },
    #[error("teacher has {teacher:?} (samples, classes), student {student:?}")]
    Mismatch {
        teacher: (usize, usize),
        student: (usize, usize),
    },
}

impl<'a> Logits<'a> {
    pub fn new(values: &'a [f32], classes: usize) -> Result<Self, MetricsError> {
        if classes == 0 || values.is_empty() || !values.len().is_multiple_of(classes) {
            return Err(MetricsError::Shape {
                values: values.len(),
                classes,
            });
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(MetricsError::NotFinite {
                sample: at / classes,
                class: at % classes,
            }),
            None => Ok(Self { values, classes }),
        }
    }

    pub fn samples(&self) -> usize {
        self.values.len() / self.classes
    }

    /// Measures the model against the samples' labels.
    pub fn evaluate(&self, labels: &[u32]) -> Result<Evaluation, MetricsError> {
        self.check(labels)?;
        // Of each label: samples put right, and all.
        let mut counts = vec![(0_u64, 0_u64); self.classes];
        let mut bins = empty_bins();
        let mut nll = 0.0;
        for (row, &label) in self.rows().zip(labels) {
            let log_probabilities = log_softmax(row);
            let (label, top) = (label as usize, top_class(row));
            counts[label].0 += u64::from(top == label);
            counts[label].1 += 1;
            nll -= log_probabilities[label];
            let confidence = log_probabilities[top].exp();
            let bin = &mut bins[bin_of(confidence)];
            bin.samples += 1;
            bin.confidence += confidence;
            bin.accuracy += f64::from(u8::from(top == label));
        }
        for bin in bins.iter_mut().filter(|b| b.samples > 0) {
            bin.confidence /= bin.samples as f64;
            bin.accuracy /= bin.samples as f64;
        }
        let right: u64 = counts.iter().map(|(right, _)| right).sum();
        let samples = self.samples() as f64;
        Ok(Evaluation {
            accuracy: right as f64 / samples,
            nll: nll / samples,
            ece: ece(&bins),
            bins,
            per_class: counts
                .into_iter()
                .map(|(right, all)| ClassScore::of(right, all))
                .collect(),
        })
    }

    /// Measures how closely `self`, a student, follows a teacher on the same samples.
    pub fn compare(&self, teacher: &Logits<'_>, labels: &[u32]) -> Result<Comparison, MetricsError> {
        self.check(labels)?;
        let kl = self.kl(teacher, 1.0)?;
        let mut agreed = vec![(0, 0); self.classes];
        for ((student, teacher), &label) in self.rows().zip(teacher.rows()).zip(labels) {
            let (same, all) = &mut agreed[label as usize];
            *same += u64::from(top_class(student) == top_class(teacher));
            *all += 1;
        }
        let samples = self.samples() as f64;
        Ok(Comparison {
            agreement: agreed.iter().map(|(same, _)| same).sum::<u64>() as f64 / samples,
            kl,
            per_class: agreed
                .into_iter()
                .map(|(same, all)| ClassScore::of(same, all))
                .collect(),
        })
    }

    /// Mean KL(teacher || student) in nats, of the probabilities `softmax(z / T)` of both at this
    /// temperature above 0. It is not scaled by T², as a loss is.
    pub fn kl(&self, teacher: &Logits<'_>, temperature: f64) -> Result<f64, MetricsError> {
        self.match_up(teacher)?;
        let divergence = |(student, teacher): (&[f32], &[f32])| {
            let (p, q) = (softened(teacher, temperature), softened(student, temperature));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        };
        let sum: f64 = self.rows().zip(teacher.rows()).map(divergence).sum();
        // Rounding may leave a tiny negative number where the two are equal.
        Ok((sum / self.samples() as f64).max(0.0))
    }

    /// The top class of each sample.
    pub fn top_classes(&self) -> Vec<usize> {
        self.rows().map(top_class).collect()
    }

    fn rows(&self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.classes)
    }

    fn match_up(&self, teacher: &Logits<'_>) -> Result<(), MetricsError> {
        let shape = |l: &Logits<'_>| (l.samples(), l.classes);
        if shape(teacher) == shape(self) {
            return Ok(());
        }
        Err(MetricsError::Mismatch {
            teacher: shape(teacher),
            student: shape(self),
        })
    }

    fn check(&self, labels: &[u32]) -> Result<(), MetricsError> {
        if labels.len() != self.samples() {
            return Err(MetricsError::Labels {
                labels: labels.len(),
                samples: self.samples(),
            });
        }
        match labels.iter().position(|&l| l as usize >= self.classes) {
            Some(sample) => Err(MetricsError::Label {
                label: labels[sample],
                sample,
                classes: self.classes,
            }),
            None => Ok(()),
        }
    }
}

impl ClassScore {
    fn of(hits: u64, support: u64) -> Self {
        Self {
            support,
            share: (support > 0).then(|| hits as f64 / support as f64),
        }
    }
}

/// The bins of several seeds as one diagram.
pub fn pool(seeds: &[Vec<Bin>]) -> Vec<Bin> {
    let mut pooled = empty_bins();
    for (into, more) in seeds.iter().flat_map(|bins| bins.iter().enumerate().take(BINS)) {
        let into = &mut pooled[into];
        into.samples += more.samples;
        if more.samples > 0 {
            let share = more.samples as f64 / into.samples as f64;
            into.confidence += share * (more.confidence - into.confidence);
            into.accuracy += share * (more.accuracy - into.accuracy);
        }
    }
    pooled
}

/// The first of the greatest logits.
pub fn top_class(row: &[f32]) -> usize {
    let mut top = 0;
    for (class, value) in row.iter().enumerate() {
        if *value > row[top] {
            top = class;
        }
    }
    top
}

/// Logarithms of the probabilities.
pub fn log_softmax(row: &[f32]) -> Vec<f64> {
    softened(row, 1.0)
}

/// Logarithms of the probabilities at a temperature, shifted by the greatest logit so that nothing
/// overflows.
fn softened(row: &[f32], temperature: f64) -> Vec<f64> {
    let greatest = row
        .iter()
        .fold(f64::NEG_INFINITY, |max, &v| max.max(f64::from(v)));
    let shifted: Vec<f64> = row
        .iter()
        .map(|&v| (f64::from(v) - greatest) / temperature)
        .collect();
    let log_sum = shifted.iter().map(|v| v.exp()).sum::<f64>().ln();
    shifted.into_iter().map(|v| v - log_sum).collect()
}

fn empty_bins() -> Vec<Bin> {
    let edge = |i: usize| i as f64 / BINS as f64;
    (0..BINS)
        .map(|i| Bin {
            low: edge(i),
            high: edge(i + 1),
            ..Bin::default()
        })
        .collect()
}

fn bin_of(confidence: f64) -> usize {
    ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1
}

fn ece(bins: &[Bin]) -> f64 {
    let samples: u64 = bins.iter().map(|b| b.samples).sum();
    bins.iter()
        .map(|b| b.samples as f64 / samples as f64 * (b.accuracy - b.confidence).abs())
        .sum()
}
