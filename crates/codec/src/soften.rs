//! From logits to log-probabilities.

use crate::exp::{exp, range, sum};

/// The least log-probability that is told apart from none, in a frame or outside. It is far below what f32 can hold
/// as a probability (about -103) and within the range of f16.
pub const FLOOR: f32 = -1e4;

/// Writes the log-probabilities of `softmax(logits / temperature)`, row by row, into `out`. They are at least
/// [`FLOOR`]. A row that holds NaN or +inf, or nothing but -inf, comes out as NaN: [`check`](crate::check) names it.
///
/// # Panics
///
/// If `out` is not as long as `logits`, that length is not a multiple of `classes`, or the temperature is not a finite
/// number above 0.
pub fn soften(logits: &[f32], classes: usize, temperature: f32, out: &mut [f32]) {
    assert_rows(logits.len(), classes);
    assert_temperature(temperature);
    assert_eq!(out.len(), logits.len(), "one log-probability per logit");
    // Infinite for the least temperatures, which times 0 would be NaN.
    let scale = temperature.recip().min(f32::MAX);
    for (logits, out) in logits.chunks_exact(classes).zip(out.chunks_exact_mut(classes)) {
        let (_, most) = range(logits);
        let scaled = |logit: f32| (logit - most) * scale;
        let log_sum = sum(logits, |logit| exp(scaled(logit))).ln();
        for (out, &logit) in out.iter_mut().zip(logits) {
            *out = at_least_floor(scaled(logit) - log_sum);
        }
    }
}

pub(crate) fn assert_rows(values: usize, classes: usize) {
    assert!(
        classes > 0 && values.is_multiple_of(classes),
        "{values} values are not rows of {classes} classes"
    );
}

pub(crate) fn assert_temperature(temperature: f32) {
    assert!(
        temperature.is_finite() && temperature > 0.0,
        "temperature {temperature} is not a finite number above 0"
    );
}

/// Like `max(FLOOR)`, but NaN stays NaN.
#[inline(always)]
pub(crate) fn at_least_floor(log_prob: f32) -> f32 {
    if log_prob < FLOOR { FLOOR } else { log_prob }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn softened(logits: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
        let mut out = vec![0.0; logits.len()];
        soften(logits, classes, temperature, &mut out);
        out
    }

    /// In f64 and from the definition.
    fn reference(row: &[f32], temperature: f32) -> Vec<f64> {
        let scaled: Vec<f64> = row
            .iter()
            .map(|&z| f64::from(z) / f64::from(temperature))
            .collect();
        let most = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = scaled.iter().map(|z| (z - most).exp()).sum::<f64>().ln() + most;
        scaled
            .iter()
            .map(|z| (z - log_sum).max(f64::from(FLOOR)))
            .collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            (classes, logits) in (1usize..40).prop_flat_map(|c| (Just(c), vec(-1e4f32..1e4, c * 3))),
            scale in prop::sample::select(vec![1e-4f32, 1e-2, 1.0]),
            temperature in 0.5f32..20.0,
        ) {
            let logits: Vec<f32> = logits.iter().map(|z| z * scale).collect();
            let got = softened(&logits, classes, temperature);
            for (row, got) in logits.chunks(classes).zip(got.chunks(classes)) {
                for (expected, &got) in reference(row, temperature).into_iter().zip(got) {
                    let error = (expected - f64::from(got)).abs();
                    prop_assert!(error <= 1e-6 + 3e-7 * expected.abs(), "{} for {}", got, expected);
                }
            }
        }
    }

    #[test]
    fn knows_simple_rows() {
        let half = 0.5f32.ln();
        assert_eq!(softened(&[3.0, 3.0, -7.0, -7.0], 2, 4.0), [half; 4]);
        assert_eq!(softened(&[5.0, -9.0], 1, 1.0), [0.0, 0.0]);
        assert_eq!(softened(&[1e4, -1e4], 2, 1.0), [0.0, FLOOR]);
        assert_eq!(
            softened(&[0.0, f32::NEG_INFINITY, 0.0], 3, 1.0),
            [half, FLOOR, half]
        );
        assert_eq!(softened(&[], 3, 1.0), [0.0; 0]);
        for cold in [1e-30, 1e-40, f32::from_bits(1)] {
            assert_eq!(
                softened(&[2.0, 1.0, 2.0], 3, cold),
                [half, FLOOR, half],
                "{cold:e}"
            );
        }
    }

    #[test]
    fn rows_without_a_meaning_are_nan() {
        const INF: f32 = f32::INFINITY;
        for row in [[f32::NAN, 0.0], [0.0, INF], [INF, INF], [-INF, -INF]] {
            let got = softened(&row, 2, 1.0);
            assert!(got.iter().any(|value| value.is_nan()), "{row:?} gave {got:?}");
        }
    }

    #[test]
    fn long_rows_keep_their_mass() {
        let logits: Vec<f32> = (0..200_000).map(|i| (i % 97) as f32 * 0.01).collect();
        let total: f64 = softened(&logits, logits.len(), 2.0)
            .iter()
            .map(|&l| f64::from(l).exp())
            .sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
    }
}
