//! Another rate of samples, the same bits on every machine.
//!
//! Band-limited interpolation with a windowed sinc (J. O. Smith, Digital Audio Resampling,
//! <https://ccrma.stanford.edu/~jos/resample/>). Formula and constants are those of `torchaudio.functional.resample`
//! with its default `sinc_interp_hann`: with rates p (before) and q, and b = 0.99 min(p, q), output j is the sum over
//! inputs i of `x_i (b / p) sinc(u) cos²(pi u / 12)`, where `u = b (i / p - j / q)`, over |u| < 6. Libraries such as
//! `rubato` choose SIMD kernels by what the processor has, and with them the bits.

/// Zero crossings of the sinc on each side.
const CROSSINGS: f64 = 6.0;
/// Where the low-pass begins, as a share of the lower rate's half.
const ROLLOFF: f64 = 0.99;

/// Weights of inputs for each place of an output between two inputs.
pub(super) struct Resampler {
    /// Rates divided by their greatest common divisor.
    from: usize,
    to: usize,
    /// Inputs before the one at or below an output's place that the first weight belongs to.
    reach: usize,
    /// For each of `to` places: `2 reach + 1` weights.
    weights: Vec<f64>,
}

impl Resampler {
    /// From one rate to another, both above 0.
    pub(super) fn new(from: u32, to: u32) -> Self {
        let common = gcd(from, to);
        let (from, to) = ((from / common) as usize, (to / common) as usize);
        let (p, q) = (from as f64, to as f64);
        let base = p.min(q) * ROLLOFF;
        let reach = (CROSSINGS * p / base) as usize + 1;
        let weight = |place: usize, tap: usize| {
            let offset = tap as f64 - reach as f64 - place as f64 / q;
            let u = base * offset / p;
            if u.abs() >= CROSSINGS {
                return 0.0;
            }
            let taper = libm::cos(std::f64::consts::PI * u / (2.0 * CROSSINGS));
            base / p * sinc(u) * taper * taper
        };
        let taps = 2 * reach + 1;
        Self {
            from,
            to,
            reach,
            weights: (0..to * taps).map(|i| weight(i / taps, i % taps)).collect(),
        }
    }

    /// `ceil(len * to / from)` samples; beyond both ends of the signal are zeros.
    pub(super) fn apply(&self, signal: &[f64]) -> Vec<f64> {
        let taps = 2 * self.reach + 1;
        let output = |j: usize| {
            let (below, place) = (j * self.from / self.to, j * self.from % self.to);
            let first = below as isize - self.reach as isize;
            let weights = self.weights[place * taps..][..taps].iter();
            let inputs = (first..).map(|i| usize::try_from(i).ok().and_then(|i| signal.get(i)));
            weights.zip(inputs).map(|(w, x)| w * x.unwrap_or(&0.0)).sum()
        };
        let len = (signal.len() * self.to).div_ceil(self.from);
        (0..len).map(output).collect()
    }
}

fn sinc(u: f64) -> f64 {
    let x = std::f64::consts::PI * u;
    if x == 0.0 { 1.0 } else { libm::sin(x) / x }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values come from NumPy 2.4.6 by the lines of `_get_sinc_resample_kernel` and
    /// `_apply_sinc_resample_kernel` of torchaudio 2.9.1, in double precision, for `x_i = ((7 i² + 3 i) mod 101) / 50 - 1`.
    #[test]
    fn agrees_with_torchaudio() {
        let signal: Vec<f64> = (0u32..60)
            .map(|i| f64::from((7 * i * i + 3 * i) % 101) / 50.0 - 1.0)
            .collect();
        for (from, to, len, expected, sum) in [
            (
                22_050,
                8_000,
                22,
                [
                    -0.612_770_258_865_491_5,
                    -0.176_266_117_939_452_2,
                    -0.137_817_446_856_162_4,
                ],
                -1.432_778_482_398_217_3,
            ),
            (
                8_000,
                22_050,
                166,
                [
                    -0.990_862_124_017_560_4,
                    -1.042_399_675_583_440_2,
                    -0.431_892_607_451_741_5,
                ],
                -11.120_336_184_275_821,
            ),
            (
                8_000,
                16_000,
                120,
                [
                    -0.990_862_124_017_560_2,
                    -1.006_497_628_235_507_8,
                    -0.463_763_968_124_466_13,
                ],
                -8.138_685_087_848_71,
            ),
        ] {
            let found = Resampler::new(from, to).apply(&signal);
            assert_eq!(found.len(), len);
            for (place, expected) in [0, 1, len / 2].into_iter().zip(expected) {
                assert!(
                    (found[place] - expected).abs() < 1e-12,
                    "{from} {to} {place}: {}",
                    found[place]
                );
            }
            assert!((found.iter().sum::<f64>() - sum).abs() < 1e-11);
        }
    }

    #[test]
    fn keeps_a_tone_that_both_rates_can_hold_and_removes_one_that_the_new_one_cannot() {
        let tone = |hertz: f64, rate: u32| -> Vec<f64> {
            let turn = std::f64::consts::TAU * hertz / f64::from(rate);
            (0..rate / 10).map(|i| (turn * f64::from(i)).sin()).collect()
        };
        let middle = 100..700;
        let down = Resampler::new(22_050, 8_000);
        let kept = down.apply(&tone(440.0, 22_050));
        for (found, expected) in kept[middle.clone()]
            .iter()
            .zip(&tone(440.0, 8_000)[middle.clone()])
        {
            assert!((found - expected).abs() < 0.005, "{found} {expected}");
        }
        let removed = down.apply(&tone(6_000.0, 22_050));
        assert!(removed[middle].iter().all(|value| value.abs() < 0.005));
    }
}
