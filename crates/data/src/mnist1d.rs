//! MNIST-1D, made here: signals of 40 values that a small network can be too small for.
//!
//! The recipe is that of S. Greydanus, *Scaling down deep learning* (2020), as the Python package `mnist1d` 0.0.2
//! (Apache-2.0) has it: a template of 12 values per digit is padded, dilated, scaled, moved, covered with correlated
//! and independent noise, sheared and sampled at 40 places. The random generator is ours, so the signals have the same
//! distribution as the Python ones but are not the same signals.

use crate::config::Extent;
use crate::dataset::{Shape, numbers};
use crate::order::permute;
use crate::quarantine::Intake;
use crate::rng::Rng;
use crate::split::{Samples, Set};
use crate::store::{self, Form, Writer};

const CLASSES: usize = 10;
const LENGTH: usize = 40;
const POOL: u32 = 4_500;
const TEST: u32 = 1_000;
/// Fixed, so that everybody has the same set.
const SEED: u64 = 42;

pub(crate) const VALIDATION: u32 = 500;
pub(crate) const EXTENT: Extent = Extent {
    shape: Shape {
        channels: 1,
        height: 1,
        width: LENGTH,
    },
    pool: POOL,
    test: TEST,
};

const TEMPLATE: usize = 12;
const TEMPLATES: [[f64; TEMPLATE]; CLASSES] = [
    [5.0, 6.0, 6.5, 6.75, 7.0, 7.0, 7.0, 7.0, 6.75, 6.5, 6.0, 5.0],
    [5.0, 3.0, 3.0, 3.4, 3.8, 4.2, 4.6, 5.0, 5.4, 5.8, 5.0, 5.0],
    [5.0, 6.0, 6.5, 6.5, 6.0, 5.25, 4.75, 4.0, 3.5, 3.5, 4.0, 5.0],
    [5.0, 6.0, 6.5, 6.5, 6.0, 5.0, 5.0, 6.0, 6.5, 6.5, 6.0, 5.0],
    [5.0, 4.4, 3.8, 3.2, 2.6, 2.6, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0],
    [5.0, 3.0, 3.0, 3.0, 3.0, 5.0, 6.0, 6.5, 6.5, 6.0, 4.5, 5.0],
    [5.0, 4.0, 3.5, 3.25, 3.0, 3.0, 3.0, 3.0, 3.25, 3.5, 4.0, 5.0],
    [5.0, 7.0, 7.0, 6.6, 6.2, 5.8, 5.4, 5.0, 4.6, 4.2, 5.0, 5.0],
    [5.0, 4.0, 3.5, 3.5, 4.0, 5.0, 5.0, 4.0, 3.5, 3.5, 4.0, 5.0],
    [5.0, 4.0, 3.5, 3.5, 4.0, 5.0, 5.0, 5.0, 5.0, 4.7, 4.3, 5.0],
];

const PADDING: (u64, u64) = (36, 60);
const DILATED: usize = TEMPLATE + PADDING.1 as usize;
const SCALE: f64 = 0.4;
const MAX_TRANSLATION: u64 = 48;
const CORRELATED_NOISE: f64 = 0.25;
const INDEPENDENT_NOISE: f64 = 0.02;
const SHEAR: f64 = 0.75;
/// Keeps the template's own zeros apart from the padding's.
const EPSILON: f64 = 1e-8;

/// A Gaussian of standard deviation 2 from its centre outwards, cut at four deviations, of sum 1.
const KERNEL: [f64; 9] = [
    0.199_474_647_864_745,
    0.176_035_758_884_790_4,
    0.120_987_489_765_349_04,
    0.064_759_936_604_727_44,
    0.026_995_957_967_298_846,
    0.008_764_304_362_785_87,
    0.002_215_963_172_596_555,
    0.000_436_349_020_506_788_3,
    0.000_066_916_289_572_635_53,
];

/// The samples that training and validation share, and the test samples; each part has the classes nearly balanced.
pub(crate) fn load(intake: &Intake) -> Result<Set, store::Error> {
    let count = POOL + TEST;
    let mut values = Vec::with_capacity(count as usize * LENGTH);
    let mut labels = Vec::with_capacity(count as usize);
    for row in 0..count {
        // Row by row out of the classes' equal shares, shuffled.
        let place = permute(count.into(), SEED, row.into());
        let class = place % CLASSES as u64;
        let mut rng = Rng::keyed(&[SEED, place]);
        values.extend(signal(&template(class as usize), &mut rng));
        labels.push(class as u32);
    }
    let (mean, deviation) = moments(&values);
    let mut store = Writer::new(Form::Floats, LENGTH, intake.memory);
    let mut all = Samples::default();
    for (signal, label) in values.chunks_exact(LENGTH).zip(labels) {
        let signal: Vec<f32> = signal
            .iter()
            .map(|value| ((value - mean) / deviation) as f32)
            .collect();
        all.push(store.push_floats(&signal), label);
    }
    Ok(Set {
        shape: EXTENT.shape,
        class_names: numbers(CLASSES),
        store: store.finish()?,
        pool: all.gather(0..POOL),
        test: all.gather(POOL..count),
        unlabelled: Samples::default(),
        files: Vec::new(),
    })
}

/// A class's template: standardised, starting at 0, a sixth in size.
fn template(class: usize) -> [f64; TEMPLATE] {
    let template = TEMPLATES[class];
    let (_, deviation) = moments(&template);
    template.map(|value| (value - template[0]) / deviation / 6.0)
}

fn signal(template: &[f64; TEMPLATE], rng: &mut Rng) -> Vec<f64> {
    let padding = PADDING.0 + rng.below(PADDING.1 - PADDING.0 + 1);
    let mut padded: Vec<f64> = template.iter().map(|value| value + EPSILON).collect();
    padded.resize(TEMPLATE + padding as usize, 0.0);
    let mut signal = interpolate(&padded, DILATED);
    let scale = 1.0 + SCALE * (rng.uniform_f64() - 0.5);
    signal.iter_mut().for_each(|value| *value *= scale);
    signal.rotate_right(rng.below(MAX_TRANSLATION) as usize);

    let correlated = blur(&noise(CORRELATED_NOISE, rng));
    let independent = noise(INDEPENDENT_NOISE, rng);
    let shear = SHEAR * (rng.uniform_f64() - 0.5);
    for (i, value) in signal.iter_mut().enumerate() {
        if *value == 0.0 {
            *value = correlated[i];
        }
        let slope = i as f64 / (DILATED - 1) as f64 - 0.5;
        *value += independent[i] - shear * slope;
    }
    interpolate(&signal, LENGTH)
}

fn noise(scale: f64, rng: &mut Rng) -> Vec<f64> {
    (0..DILATED).map(|_| scale * rng.gaussian()).collect()
}

/// Convolution with [`KERNEL`], the ends mirrored.
fn blur(signal: &[f64]) -> Vec<f64> {
    let len = signal.len() as isize;
    let at = |i: isize| {
        let i = if i < 0 { -i - 1 } else { i };
        signal[(if i >= len { 2 * len - 1 - i } else { i }) as usize]
    };
    let smooth = |i: isize| {
        let sides = (1isize..)
            .zip(&KERNEL[1..])
            .map(|(d, weight)| weight * (at(i - d) + at(i + d)));
        KERNEL[0] * at(i) + sides.sum::<f64>()
    };
    (0..len).map(smooth).collect()
}

/// `len` values at equal distances along the line through `signal`, ends included.
fn interpolate(signal: &[f64], len: usize) -> Vec<f64> {
    let last = signal.len() - 1;
    let value = |i: usize| {
        let place = (i * last) as f64 / (len - 1) as f64;
        let left = (place as usize).min(last - 1);
        let share = place - left as f64;
        signal[left] * (1.0 - share) + signal[left + 1] * share
    };
    (0..len).map(value).collect()
}

/// Mean and standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    (mean, (square / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Set {
        load(&Intake::new(None, u64::MAX)).expect("memory")
    }

    fn rows(set: &Set, samples: &Samples) -> Vec<Vec<f32>> {
        let row = |&row: &u32| {
            let mut values = vec![0.0; LENGTH];
            set.store.read(row, &mut values);
            values
        };
        samples.rows.iter().map(row).collect()
    }

    #[test]
    fn is_standardised_and_balanced() {
        let set = set();
        let all: Vec<f64> = [&set.pool, &set.test]
            .into_iter()
            .flat_map(|part| rows(&set, part).concat())
            .map(f64::from)
            .collect();
        let (mean, deviation) = moments(&all);
        assert!(mean.abs() < 1e-6 && (deviation - 1.0).abs() < 1e-6);
        let mut counts = [0u32; CLASSES];
        let labels = set.pool.labels.iter();
        labels
            .chain(&set.test.labels)
            .for_each(|&label| counts[label as usize] += 1);
        assert_eq!(counts, [550; CLASSES]);
    }

    #[test]
    fn the_steps_do_what_scipy_does() {
        assert_eq!(interpolate(&[0.0, 2.0, 4.0], 5), [0.0, 1.0, 2.0, 3.0, 4.0]);
        let flat = blur(&[3.0; 72]);
        assert!(flat.iter().all(|value| (value - 3.0).abs() < 1e-12));
        let mut pulse = [0.0; 72];
        pulse[0] = 1.0;
        let spread = blur(&pulse);
        assert!(
            (spread[0] - (KERNEL[0] + KERNEL[1])).abs() < 1e-15,
            "mirrored with the edge"
        );
        assert!((spread[3] - (KERNEL[3] + KERNEL[4])).abs() < 1e-15);
        let template = template(0);
        assert_eq!(template[0], 0.0);
        assert!((moments(&template).1 - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_linear_model_is_poor_and_neighbours_are_better() {
        let set = set();
        let (pool, test) = (&set.pool, &set.test);
        let (train, test_rows) = (rows(&set, pool), rows(&set, test));
        let distance =
            |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum() };
        let mut means = vec![vec![0.0; LENGTH]; CLASSES];
        for (row, &label) in train.iter().zip(&pool.labels) {
            means[label as usize]
                .iter_mut()
                .zip(row)
                .for_each(|(mean, value)| *mean += value / 450.0);
        }
        let nearest = |row: &[f32], among: &[Vec<f32>]| -> usize {
            let best = among
                .iter()
                .enumerate()
                .min_by(|a, b| distance(row, a.1).total_cmp(&distance(row, b.1)));
            best.expect("some").0
        };
        let (mut by_mean, mut by_neighbour) = (0, 0);
        for (row, &label) in test_rows.iter().zip(&test.labels).take(300) {
            by_mean += u32::from(nearest(row, &means) == label as usize);
            by_neighbour += u32::from(pool.labels[nearest(row, &train)] == label);
        }
        assert!((45..120).contains(&by_mean), "{by_mean} of 300 by class means");
        assert!(
            (120..240).contains(&by_neighbour),
            "{by_neighbour} of 300 by neighbours"
        );
    }
}
