//! Exponentials and their sums: most of the work of softening, checking and decoding.
//!
//! `f32::exp` calls the C library for every value. What is here has no calls and no branches, and reduces in lanes, so
//! that the compiler uses vector instructions.

/// Independent partial results, enough to keep vector units busy.
const LANES: usize = 16;
/// Values that are summed in f32 before the sum goes on in f64, so that long rows do not lose digits.
const BLOCK: usize = 64 * LANES;

const LEAST: f32 = -87.0;
const MOST: f32 = 88.0;

/// `e^x` within 2e-7 of itself for `x` from [`LEAST`] to [`MOST`], outside as at the nearer end; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Between 2^23 and 2^24 floats are the integers: adding this rounds, and leaves what was added, biased like an
    // exponent, in the last bits.
    const TO_INTEGER: f32 = 12_582_912.0 + 127.0;
    // ln 2 in two parts, the first with so few bits that multiples of it are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // The polynomial of Cephes' expf, for |r| <= ln(2) / 2.
    const P: [f32; 6] = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let x = if x < LEAST { LEAST } else { x };
    let x = if x > MOST { MOST } else { x };
    let rounded = x * std::f32::consts::LOG2_E + TO_INTEGER;
    let power = rounded - TO_INTEGER;
    let r = x - power * LN_2[0] - power * LN_2[1];
    let p = ((((P[0] * r + P[1]) * r + P[2]) * r + P[3]) * r + P[4]) * r + P[5];
    (p * r * r + r + 1.0) * f32::from_bits(rounded.to_bits() << 23)
}

/// The sum of `term` of each value.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += term(value);
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += term(value);
        }
        total += lanes.into_iter().map(f64::from).sum::<f64>();
    }
    total as f32
}

/// Sum of the exponentials.
pub(crate) fn mass(log_probs: &[f32]) -> f32 {
    sum(log_probs, exp)
}

/// The least and the largest value that are not NaN; infinity and its negative if there is none.
pub(crate) fn range(values: &[f32]) -> (f32, f32) {
    let mut least = [f32::INFINITY; LANES];
    let mut most = [f32::NEG_INFINITY; LANES];
    let mut add = |chunk: &[f32]| {
        for ((least, most), &value) in least.iter_mut().zip(&mut most).zip(chunk) {
            *least = if value < *least { value } else { *least };
            *most = if value > *most { value } else { *most };
        }
    };
    let (chunks, rest) = values.as_chunks::<LANES>();
    chunks.iter().for_each(|chunk| add(chunk));
    add(rest);
    (
        least.into_iter().fold(f32::INFINITY, f32::min),
        most.into_iter().fold(f32::NEG_INFINITY, f32::max),
    )
}

/// Whether all values satisfy `holds`, looking at each of them.
#[inline(always)]
pub(crate) fn all(values: &[f32], holds: impl Fn(f32) -> bool) -> bool {
    values.iter().fold(true, |all, &value| all & holds(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound() {
        let mut worst = 0.0f64;
        for i in 0..=3_500_000 {
            let x = LEAST + i as f32 * 5e-5;
            let exact = f64::from(x.min(MOST)).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_of_what_is_out_of_range() {
        assert!(exp(f32::NAN).is_nan());
        for small in [-87.5, -104.0, -1e4, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp(small), exp(LEAST));
        }
        for large in [89.0, 1e4, f32::MAX, f32::INFINITY] {
            assert_eq!(exp(large), exp(MOST));
        }
    }

    #[test]
    fn sums_and_ranges_of_any_length() {
        for len in [0usize, 1, 15, 16, 17, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
            let values: Vec<f32> = (0..len).map(|i| -((i * 7 % 31) as f32) * 0.3).collect();
            let exact: f64 = values.iter().map(|&v| f64::from(v).exp()).sum();
            assert!((f64::from(mass(&values)) - exact).abs() <= 1e-6 * exact, "{len}");
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(range(&values), (least, most), "{len}");
        }
        assert_eq!(range(&[f32::NAN, 2.0, f32::NAN, 1.0]), (1.0, 2.0));
        assert!(mass(&[0.0, f32::NAN]).is_nan());
    }
}
