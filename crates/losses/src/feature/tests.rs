use burn::tensor::{Device, TensorData};

use super::*;
use crate::reference::{self, assert_close, scalar};

/// Features, `[samples, channels, positions]`, row by row.
#[derive(Clone)]
struct Features {
    dims: [usize; 3],
    values: Vec<f64>,
}

impl Features {
    /// Numbers within -1..1 that look random and differ by `seed`.
    fn of(dims: [usize; 3], seed: f64) -> Self {
        let count = dims.iter().product::<usize>();
        let value = |i: usize| ((i as f64 + 1.0) * 12.9898 + seed * 78.233).sin() * 43_758.545_3;
        let values = (0..count).map(|i| 2.0 * value(i).rem_euclid(1.0) - 1.0);
        Self {
            dims,
            values: values.collect(),
        }
    }

    fn scaled(&self, by: f64) -> Self {
        let values = self.values.iter().map(|v| v * by).collect();
        Self { values, ..*self }
    }

    fn on(&self, device: &Device) -> Tensor<3> {
        let narrow: Vec<f32> = self.values.iter().map(|&v| v as f32).collect();
        Tensor::from_data(TensorData::new(narrow, self.dims), device)
    }

    fn at(&self, sample: usize, channel: usize, position: usize) -> f64 {
        let [_, channels, positions] = self.dims;
        self.values[(sample * channels + channel) * positions + position]
    }
}

fn normalised(vector: Vec<f64>) -> Vec<f64> {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    let short = length < 1e-12;
    vector
        .into_iter()
        .map(|v| if short { 0.0 } else { v / length })
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn hint(student: &Features, teacher: &Features) -> f64 {
    let scale: f64 = teacher.values.iter().map(|v| v * v).sum();
    let error = distance(&student.values, &teacher.values);
    if scale == 0.0 {
        error / teacher.values.len() as f64
    } else {
        error / scale
    }
}

fn attention(student: &Features, teacher: &Features) -> f64 {
    let [samples, _, positions] = student.dims;
    let map = |f: &Features, sample| {
        let channels = f.dims[1];
        let square = |p| (0..channels).map(|c| f.at(sample, c, p).powi(2)).sum::<f64>() / channels as f64;
        normalised((0..positions).map(square).collect())
    };
    let each = (0..samples).map(|i| distance(&map(student, i), &map(teacher, i)));
    each.sum::<f64>() / samples as f64
}

fn cosine(student: &Features, teacher: &Features) -> f64 {
    let [samples, channels, positions] = student.dims;
    let unit = |f: &Features, i, p| normalised((0..channels).map(|c| f.at(i, c, p)).collect());
    let each = (0..samples).flat_map(|i| (0..positions).map(move |p| (i, p)));
    let sum: f64 = each
        .map(|(i, p)| distance(&unit(student, i, p), &unit(teacher, i, p)) / 2.0)
        .sum();
    sum / (samples * positions) as f64
}

fn huber(x: f64) -> f64 {
    if x.abs() <= 1.0 {
        0.5 * x * x
    } else {
        x.abs() - 0.5
    }
}

fn relational(student: &Features, teacher: &Features) -> f64 {
    let n = student.dims[0];
    let points = |f: &Features| -> Vec<Vec<f64>> {
        let [samples, channels, positions] = f.dims;
        let mean = |i, c| (0..positions).map(|p| f.at(i, c, p)).sum::<f64>() / positions as f64;
        (0..samples)
            .map(|i| (0..channels).map(|c| mean(i, c)).collect())
            .collect()
    };
    let (student, teacher) = (points(student), points(teacher));
    let pairs: Vec<(usize, usize)> = (0..n)
        .flat_map(|i| (0..n).map(move |j| (i, j)))
        .filter(|(i, j)| i != j)
        .collect();
    let relative = |f: &[Vec<f64>]| -> Vec<f64> {
        let lengths: Vec<f64> = pairs
            .iter()
            .map(|&(i, j)| distance(&f[i], &f[j]).sqrt())
            .collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let mean = if mean == 0.0 { 1.0 } else { mean };
        lengths.iter().map(|l| l / mean).collect()
    };
    let angle = |f: &[Vec<f64>], i: usize, j: usize, k: usize| {
        let to = |other: usize| normalised(f[other].iter().zip(&f[j]).map(|(a, b)| a - b).collect());
        to(i).iter().zip(to(k)).map(|(a, b)| a * b).sum::<f64>()
    };
    let distances: f64 = relative(&student)
        .into_iter()
        .zip(relative(&teacher))
        .map(|(s, t)| huber(s - t))
        .sum();
    let triplets = pairs.iter().flat_map(|&(i, j)| (0..n).map(move |k| (i, j, k)));
    let angles: Vec<f64> = triplets
        .filter(|&(i, j, k)| k != i && k != j)
        .map(|(i, j, k)| huber(angle(&student, i, j, k) - angle(&teacher, i, j, k)))
        .collect();
    distances / pairs.len().max(1) as f64 + 2.0 * angles.iter().sum::<f64>() / angles.len().max(1) as f64
}

type Reference = fn(&Features, &Features) -> f64;

/// Each loss, its reference, and a teacher's sizes for a student of `[4, 3, 5]`.
const LOSSES: [(FeatureLoss, Reference, [usize; 3]); 4] = [
    (FeatureLoss::Hint, hint, [4, 3, 5]),
    (FeatureLoss::Attention, attention, [4, 2, 5]),
    (FeatureLoss::Cosine, cosine, [4, 3, 5]),
    (FeatureLoss::Relational, relational, [4, 6, 2]),
];

fn gradient(loss: FeatureLoss, student: &Features, teacher: &Features) -> (f64, Vec<f32>) {
    let device = Device::flex().autodiff();
    let features = student.on(&device).require_grad();
    let value = loss.forward(features.clone(), teacher.on(&device));
    let gradient = features
        .grad(&value.backward())
        .expect("features have a gradient");
    (scalar(value), gradient.try_into_vec_as::<f32>().unwrap())
}

#[test]
fn they_agree_with_the_reference() {
    for (loss, reference, sizes) in LOSSES {
        for seed in 0..5 {
            let student = Features::of([4, 3, 5], f64::from(seed)).scaled(1.5);
            let teacher = Features::of(sizes, 10.0 + f64::from(seed));
            for by in [1e-3, 1.0, 1e4] {
                let (student, teacher) = (student.scaled(by), teacher.scaled(by));
                let (found, _) = gradient(loss, &student, &teacher);
                assert_close(
                    found,
                    reference(&student, &teacher),
                    1e-5,
                    &format!("{loss:?} {by}"),
                );
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (loss, reference, sizes) in LOSSES {
        let student = Features::of([4, 3, 5], 1.0).scaled(2.0);
        let teacher = Features::of(sizes, 2.0);
        let (_, found) = gradient(loss, &student, &teacher);
        let expected = reference::differences(&student.values, |values| {
            let student = Features {
                values: values.to_vec(),
                ..student
            };
            reference(&student, &teacher)
        });
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (f64::from(found) - expected).abs() < 1e-5,
                "{loss:?}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn a_student_that_equals_its_teacher_has_neither_loss_nor_gradient() {
    let mut ties = Features::of([4, 3, 5], 3.0);
    // Two samples alike, and a position without a direction.
    ties.values.copy_within(0..15, 15);
    for channel in 0..3 {
        ties.values[30 + channel * 5] = 0.0;
    }
    for (loss, _, _) in LOSSES {
        for same in [
            Features::of([4, 3, 5], 1.0),
            Features::of([4, 3, 5], 1.0).scaled(1e4),
            ties.clone(),
            ties.scaled(0.0),
            Features::of([1, 3, 5], 1.0),
            Features::of([2, 3, 1], 1.0),
        ] {
            let (value, gradient) = gradient(loss, &same, &same);
            assert_eq!(value, 0.0, "{loss:?}");
            assert!(gradient.iter().all(|&g| g == 0.0), "{loss:?}: {gradient:?}");
        }
    }
}

#[test]
fn a_weight_transfers_the_losses_do_not_see_a_common_scale() {
    for (loss, _, sizes) in LOSSES {
        let (student, teacher) = (Features::of([4, 3, 5], 5.0), Features::of(sizes, 6.0));
        let (expected, _) = gradient(loss, &student, &teacher);
        let (found, _) = gradient(loss, &student.scaled(300.0), &teacher.scaled(300.0));
        assert_close(found, expected, 1e-5, &format!("{loss:?}"));
        if loss != FeatureLoss::Hint {
            let (found, _) = gradient(loss, &student.scaled(7.0), &teacher);
            assert_close(found, expected, 1e-5, &format!("{loss:?}: each on its own"));
        }
    }
}

#[test]
fn what_has_no_scale_or_direction_is_finite() {
    let zero = Features::of([4, 3, 5], 1.0).scaled(0.0);
    let some = Features::of([4, 3, 5], 1.0);
    for (loss, reference, _) in LOSSES {
        for (student, teacher) in [(&zero, &some), (&some, &zero)] {
            let (value, gradient) = gradient(loss, student, teacher);
            assert_close(value, reference(student, teacher), 1e-5, &format!("{loss:?}"));
            assert!(gradient.iter().all(|g| g.is_finite()), "{loss:?}: {gradient:?}");
        }
    }
    let (unlearned, _) = gradient(FeatureLoss::Hint, &zero, &some);
    assert_close(unlearned, 1.0, 1e-6, "a student that says nothing");
}

#[test]
fn opposite_directions_are_the_farthest_apart() {
    let some = Features::of([4, 3, 5], 1.0);
    let opposite = some.scaled(-2.0);
    assert_close(
        gradient(FeatureLoss::Cosine, &opposite, &some).0,
        2.0,
        1e-6,
        "1 - cos",
    );
    assert_close(
        gradient(FeatureLoss::Attention, &opposite, &some).0,
        0.0,
        1e-6,
        "squares",
    );
    assert_close(
        gradient(FeatureLoss::Relational, &opposite, &some).0,
        0.0,
        1e-6,
        "reflection",
    );
}

#[test]
fn the_mean_over_samples_is_the_loss() {
    let device = Device::flex();
    for (loss, _, sizes) in LOSSES {
        let (student, teacher) = (Features::of([4, 3, 5], 8.0), Features::of(sizes, 9.0));
        let (s, t) = (student.on(&device), teacher.on(&device));
        let each = match loss {
            FeatureLoss::Hint => Hint.forward_no_reduction(s, t),
            FeatureLoss::Attention => Attention.forward_no_reduction(s, t),
            FeatureLoss::Cosine => Cosine.forward_no_reduction(s, t),
            FeatureLoss::Relational => Relational.forward_no_reduction(s, t),
        };
        assert_eq!(each.dims(), [4]);
        let (value, _) = gradient(loss, &student, &teacher);
        assert_close(scalar(each.mean()), value, 1e-6, &format!("{loss:?}"));
    }
}
