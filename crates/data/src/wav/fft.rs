//! A discrete Fourier transform that gives the same bits on every machine.
//!
//! FFT libraries choose SIMD kernels by what the processor has and take their sines from the platform, so that two
//! workers would disagree about the digest of one data set. This is the plain radix-2 transform of Cooley and Tukey
//! (1965) in f64, its sines from the pure-Rust `libm`.

/// The transform of one length.
pub(super) struct Fft {
    /// Each index with its bits in reverse order.
    reversed: Vec<usize>,
    /// Real and imaginary part of `exp(-2 pi i k / len)` for k below half the length.
    turns: Vec<[f64; 2]>,
}

impl Fft {
    /// # Panics
    ///
    /// If `len` is not a power of two of at least 2.
    pub(super) fn new(len: usize) -> Self {
        assert!(len.is_power_of_two() && len > 1, "a power of two");
        let shift = usize::BITS - len.trailing_zeros();
        let turn = |k: usize| {
            let (sine, cosine) = libm::sincos(-2.0 * std::f64::consts::PI * k as f64 / len as f64);
            [cosine, sine]
        };
        Self {
            reversed: (0..len).map(|i| i.reverse_bits() >> shift).collect(),
            turns: (0..len / 2).map(turn).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// Squared magnitudes of the frequencies from 0 to half the rate, `len / 2 + 1` of them, of a real signal that is
    /// followed by zeros.
    ///
    /// # Panics
    ///
    /// If the signal is longer than `len`.
    pub(super) fn power(&self, signal: &[f64]) -> Vec<f64> {
        let len = self.len();
        assert!(signal.len() <= len, "a signal within the transform");
        let at = |&i: &usize| [signal.get(i).copied().unwrap_or(0.0), 0.0];
        let mut values: Vec<[f64; 2]> = self.reversed.iter().map(at).collect();
        let mut half = 1;
        while half < len {
            let stride = len / (2 * half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                let turns = self.turns.iter().step_by(stride);
                for ((a, b), [cosine, sine]) in low.iter_mut().zip(high).zip(turns) {
                    let turned = [b[0] * cosine - b[1] * sine, b[0] * sine + b[1] * cosine];
                    *b = [a[0] - turned[0], a[1] - turned[1]];
                    *a = [a[0] + turned[0], a[1] + turned[1]];
                }
            }
            half *= 2;
        }
        let square = |[real, imaginary]: &[f64; 2]| real * real + imaginary * imaginary;
        values[..=len / 2].iter().map(square).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(1);
        for (len, count) in [(2, 2), (4, 3), (64, 64), (256, 200)] {
            let signal: Vec<f64> = (0..count).map(|_| rng.gaussian()).collect();
            let power = Fft::new(len).power(&signal);
            assert_eq!(power.len(), len / 2 + 1);
            for (k, power) in power.into_iter().enumerate() {
                let turn = -std::f64::consts::TAU * k as f64 / len as f64;
                let sum = |f: fn(f64) -> f64| -> f64 {
                    signal
                        .iter()
                        .enumerate()
                        .map(|(i, x)| x * f(turn * i as f64))
                        .sum()
                };
                let expected = sum(f64::cos).powi(2) + sum(f64::sin).powi(2);
                assert!((power - expected).abs() < 1e-9, "{len} {k}: {power} {expected}");
            }
        }
    }
}
