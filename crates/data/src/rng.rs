//! A small counter-based random generator that gives the same numbers on every machine.
//!
//! It is splitmix64: the state is a counter, each output a mix of it. Gaussians use the polar method with a logarithm
//! of our own, the beta distribution powers of the pure-Rust `libm`, so that nothing depends on the platform's mathematics
//! library. Good for shuffles, noise and weight
//! initialisation; not for secrets.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits of `value` into all bits of the result; a bijection (the output function of splitmix64).
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One key out of several parts, such as a seed, an epoch and a pass. The order and the number of parts matter.
pub fn key(parts: &[u64]) -> u64 {
    let start = mix(GAMMA ^ parts.len() as u64);
    parts.iter().fold(start, |key, part| {
        mix(key.wrapping_add(GAMMA) ^ mix(part.wrapping_add(GAMMA)))
    })
}

/// The generator. Cloning it repeats the sequence from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts the sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Starts the sequence of the [`key`] of `parts`.
    pub fn keyed(parts: &[u64]) -> Self {
        Self::new(key(parts))
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, on a grid of 2^-24.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, on a grid of 2^-53.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Normally distributed with mean 0 and standard deviation 1. Takes a varying number of steps.
    pub fn gaussian(&mut self) -> f64 {
        loop {
            let u = 2.0 * self.uniform_f64() - 1.0;
            let v = 2.0 * self.uniform_f64() - 1.0;
            let square = u * u + v * v;
            if square > 0.0 && square < 1.0 {
                return u * (-2.0 * ln(square) / square).sqrt();
            }
        }
    }

    /// Beta-distributed with both parameters `alpha`: within 0..=1, with mean 1/2, the nearer to 0 or 1 the smaller `alpha`
    /// is. Takes a varying number of steps.
    ///
    /// Jöhnk's method (1964; Devroye, Non-Uniform Random Variate Generation, 1986, chapter IX.3.5), for `alpha` from 0.05,
    /// below which powers underflow, to 4, above which it rejects nearly all it draws.
    ///
    /// # Panics
    ///
    /// If `alpha` is not greater than 0.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        assert!(alpha > 0.0, "a beta distribution with parameter {alpha}");
        loop {
            let x = libm::pow(self.uniform_f64(), 1.0 / alpha);
            let y = libm::pow(self.uniform_f64(), 1.0 / alpha);
            if x + y > 0.0 && x + y <= 1.0 {
                return x / (x + y);
            }
        }
    }

    /// Uniform in `0..bound`, without bias.
    ///
    /// # Panics
    ///
    /// If `bound` is 0: there is no such number.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a random number below 0 was asked for");
        // Lemire's method: the high half of a product, rejecting the few low halves that would be drawn too often.
        let reject = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= reject {
                return (product >> 64) as u64;
            }
        }
    }
}

/// Natural logarithm of a positive normal number, from arithmetic alone: ln(m 2^e) = 2 artanh((m-1)/(m+1)) + e ln 2.
fn ln(x: f64) -> f64 {
    const TERMS: u32 = 12; // the rest is below 2^-58, since s is at most 0.172
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..TERMS)
        .rev()
        .fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    2.0 * s * series + f64::from(exponent) * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_splitmix64_values() {
        let mut rng = Rng::new(1_234_567);
        let got: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        assert_eq!(
            got,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ]
        );
    }

    #[test]
    fn logarithm_agrees_with_the_platform() {
        let mut rng = Rng::new(1);
        for _ in 0..10_000 {
            let x = rng.uniform_f64() * 10f64.powi(rng.below(20) as i32 - 15) + 1e-300;
            assert!(
                (ln(x) - x.ln()).abs() <= 4.0 * f64::EPSILON * x.ln().abs().max(1.0),
                "{x}"
            );
        }
    }

    #[test]
    fn gaussians_have_the_right_moments_and_pinned_values() {
        let mut rng = Rng::new(2);
        let values: Vec<f64> = (0..100_000).map(|_| rng.gaussian()).collect();
        let moment = |p: i32| values.iter().map(|v| v.powi(p)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.01);
        assert!((moment(2) - 1.0).abs() < 0.02);
        assert!((moment(4) - 3.0).abs() < 0.1);
        let bits = values[..2].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits, PINNED, "views and weights depend on these bits");
    }

    const PINNED: [u64; 2] = [4_603_104_091_087_641_274, 4_602_794_855_176_437_048];

    #[test]
    fn betas_have_the_right_moments_and_pinned_values() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let mut rng = Rng::keyed(&[5]);
            let values: Vec<f64> = (0..50_000).map(|_| rng.beta(alpha)).collect();
            assert!(values.iter().all(|v| (0.0..=1.0).contains(v)), "{alpha}");
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.02, "{alpha}: {variance}");
        }
        let mut rng = Rng::new(2);
        let bits = [0.2, 0.2, 1.0].map(|alpha| rng.beta(alpha).to_bits());
        assert_eq!(bits, PINNED_BETAS, "views depend on these bits");
    }

    const PINNED_BETAS: [u64; 3] = [
        4_597_610_725_042_341_722,
        4_597_167_018_947_305_910,
        4_602_199_406_818_407_982,
    ];

    #[test]
    fn uniform_and_below_stay_in_range_and_cover_it() {
        let mut rng = Rng::keyed(&[3, 4]);
        let mut seen = [0u32; 7];
        for _ in 0..70_000 {
            assert!((0.0..1.0).contains(&rng.uniform_f32()));
            assert!((0.0..1.0).contains(&rng.uniform_f64()));
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }

    #[test]
    fn keys_depend_on_each_part_and_on_their_order() {
        let keys = [key(&[]), key(&[0]), key(&[0, 0]), key(&[0, 1]), key(&[1, 0])];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
