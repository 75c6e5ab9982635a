//! How log-probabilities are written, and what that costs.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::error::Error;
use crate::frame::HEADER_LEN;

/// How the log-probabilities of a row are written. As text `f32`, `f16`, `bf16`, `u8` or `top-K`, for example
/// `top-64`. The bytes are described [here](crate#rows), the errors at [`Encoding::error_bound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// Four bytes per class, exact.
    F32,
    /// Two bytes per class.
    F16,
    /// Two bytes per class, with the range of f32 and a coarser step than [`Encoding::F16`].
    Bf16,
    /// One byte per class, in equal steps from the row's maximum down to its minimum, but at most
    /// [`U8_RANGE`](crate::U8_RANGE) below the maximum: what is less likely is raised to that.
    U8,
    /// The largest log-probabilities of each row, this many or all there are, as f16 with their classes, and the log
    /// of the probability of all other classes together.
    TopK(NonZeroU16),
}

/// A number or name that is no [`Encoding`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown encoding {0}, expected f32 (1), f16 (2), bf16 (3), u8 (4) or top-K with K from 1 to 65535 (5)"
)]
pub struct UnknownEncoding(pub String);

/// How many nats [`Encoding::U8`] spans at most: its step is at most 24 / 255, about 0.094. A class that is left
/// further behind has less than 4e-11 of the most likely one's probability.
pub const U8_RANGE: f32 = 24.0;

/// Rounding to the 11 significant bits of f16, and to the 8 of bf16, relative to the value.
const F16_ROUNDING: f32 = 1.0 / 2048.0;
const BF16_ROUNDING: f32 = 1.0 / 256.0;

impl Encoding {
    const TOP_64: Self = Self::TopK(NonZeroU16::new(64).expect("64 is not 0"));

    /// What to use when nobody chose: `top-64` where its rows are at most a quarter of the size of dense `f16`, that
    /// is from 408 classes on, and `f16` below.
    pub const fn auto(classes: usize) -> Self {
        if 4 * Self::TOP_64.row_len(classes) <= Self::F16.row_len(classes) {
            Self::TOP_64
        } else {
            Self::F16
        }
    }

    /// Log-probabilities written per row of `classes`: all of them unless the encoding is [`Encoding::TopK`].
    pub const fn kept(self, classes: usize) -> usize {
        match self {
            Self::TopK(k) if (k.get() as usize) < classes => k.get() as usize,
            _ => classes,
        }
    }

    /// Bytes of a row of `classes`.
    pub const fn row_len(self, classes: usize) -> usize {
        match self {
            Self::F32 => 4 * classes,
            Self::F16 | Self::Bf16 => 2 * classes,
            Self::U8 => 8 + classes,
            Self::TopK(_) => {
                let kept = self.kept(classes);
                4 + 2 * kept + (kept * id_bits(classes) as usize).div_ceil(8)
            }
        }
    }

    /// Bytes of a frame of `rows` rows of `classes`.
    pub const fn frame_len(self, rows: usize, classes: usize) -> usize {
        HEADER_LEN + rows * self.row_len(classes)
    }

    /// How far the decoded log-probability may be from `log_prob`, one of a normalised row of `classes` values that
    /// are at least [`FLOOR`](crate::FLOOR); of [`Encoding::TopK`] one that was kept.
    ///
    /// - `f32` is exact.
    /// - `f16` rounds to 11 significant bits, hence |error| <= u |log_prob| with u = 2^-11. That changes the row's
    ///   mass by a factor whose logarithm is at most u ln(classes), which normalising takes off each value. `bf16` is
    ///   the same with u = 2^-8.
    /// - `u8` is off by half a step and its mass by as much, together 24 / 255. What it raises is off by how far it was
    ///   below -[`U8_RANGE`](crate::U8_RANGE), and adds at most `classes` e^-24 to the mass.
    /// - `top-K` is `f16` for rows of K + 1 values, the last of which, the tail, is not rounded. The tail moves with the
    ///   mass only: it is within `error_bound(0.0, classes) + 1e-6 |log_tail|`.
    ///
    /// A constant of 1e-5 covers the rest: subnormal f16, and arithmetic in f32.
    pub fn error_bound(self, log_prob: f32, classes: usize) -> f32 {
        const REST: f32 = 1e-5;
        let rounded = |u: f32, values: usize| u * 1.01 * (log_prob.abs() + (values as f32).ln()) + REST;
        match self {
            Self::F32 => 0.0,
            Self::F16 => rounded(F16_ROUNDING, classes),
            Self::Bf16 => rounded(BF16_ROUNDING, classes),
            Self::U8 => {
                let raised = (-U8_RANGE - log_prob).max(0.0) + classes as f32 * (-U8_RANGE).exp();
                U8_RANGE / 255.0 + raised * 1.01 + REST
            }
            Self::TopK(_) => rounded(F16_ROUNDING, self.kept(classes) + 1),
        }
    }

    /// How far from 1 the probabilities of an encoded row may sum. `f32` allows for logits softened elsewhere, the
    /// others for that and for the change of mass given at [`Encoding::error_bound`], with as many classes as a frame
    /// can hold.
    pub const fn mass_tolerance(self) -> f32 {
        match self {
            Self::F32 => 1e-3,
            Self::F16 | Self::TopK(_) => 2e-2,
            Self::Bf16 => 9e-2,
            Self::U8 => 7e-2,
        }
    }

    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::Bf16 => 3,
            Self::U8 => 4,
            Self::TopK(_) => 5,
        }
    }

    /// What a header says.
    pub(crate) fn read(tag: u8, kept: u32, classes: u32) -> Result<Self, Error> {
        let top = || NonZeroU16::new(u16::try_from(kept).ok()?);
        match (tag, top()) {
            (1, _) if kept == classes => Ok(Self::F32),
            (2, _) if kept == classes => Ok(Self::F16),
            (3, _) if kept == classes => Ok(Self::Bf16),
            (4, _) if kept == classes => Ok(Self::U8),
            (5, Some(k)) if kept <= classes => Ok(Self::TopK(k)),
            (1..=5, _) => Err(Error::Kept { kept, classes }),
            _ => Err(UnknownEncoding(tag.to_string()).into()),
        }
    }
}

/// Bits that tell `classes` classes apart.
pub(crate) const fn id_bits(classes: usize) -> u32 {
    usize::BITS - classes.saturating_sub(1).leading_zeros()
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.pad("f32"),
            Self::F16 => f.pad("f16"),
            Self::Bf16 => f.pad("bf16"),
            Self::U8 => f.pad("u8"),
            Self::TopK(k) => f.pad(&format!("top-{k}")),
        }
    }
}

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(name: &str) -> Result<Self, UnknownEncoding> {
        let top = || Some(Self::TopK(name.strip_prefix("top-")?.parse().ok()?));
        match name {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            "u8" => Some(Self::U8),
            // An encoding has one name: neither `top-064` nor `top-+64`.
            _ => top().filter(|encoding| encoding.to_string() == name),
        }
        .ok_or_else(|| UnknownEncoding(format!("{name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Targets, decode, encode, soften};

    fn top(k: u16) -> Encoding {
        Encoding::TopK(NonZeroU16::new(k).unwrap())
    }

    /// The largest error of a row in proportion to its bound.
    fn worst(logits: &[f32], encoding: Encoding) -> f32 {
        let classes = logits.len();
        let mut log_probs = vec![0.0; classes];
        soften(logits, classes, 1.0, &mut log_probs);
        let mut bytes = Vec::new();
        encode(&log_probs, classes, 1.0, encoding, &mut bytes);
        let Targets::Dense(got) = decode(&bytes).expect("decode").targets else {
            panic!("{encoding} holds every class");
        };
        let of_bound = |(&expected, got): (&f32, &f32)| {
            f32::abs(expected - got) / encoding.error_bound(expected, classes)
        };
        log_probs.iter().zip(&got).map(of_bound).fold(0.0, f32::max)
    }

    /// Nearly all of the mass is rounded one way, and a single class the other way: random rows come nowhere near.
    #[test]
    fn errors_that_add_up_reach_the_bound_but_not_past_it() {
        let mut rows = Vec::new();
        for (encoding, u) in [(Encoding::F16, F16_ROUNDING), (Encoding::Bf16, BF16_ROUNDING)] {
            // The first two values of a binade have the most between them, in proportion.
            let halfway = |binade: f32| binade * (1.0 + u);
            let many = halfway(8.0).exp();
            for (many, one) in [(many.floor(), 0.1 * u), (many.ceil(), -0.1 * u)] {
                let mut logits = vec![0.0; many as usize];
                logits.push(many.ln() - halfway(16.0) - one);
                rows.push((encoding, logits));
            }
        }
        for (many, one) in [(0.49, 0.51), (0.51, 0.49)] {
            let steps = |count: f32| -count * U8_RANGE / 255.0;
            let mut logits = vec![steps(10.0 + many); 5000];
            logits.extend([0.0, steps(20.0 + one), -U8_RANGE]);
            rows.push((Encoding::U8, logits));
        }
        for (encoding, logits) in rows {
            let worst = worst(&logits, encoding);
            assert!((0.95..=1.0).contains(&worst), "{encoding}: {worst} of the bound");
        }
    }

    #[test]
    fn encodings_have_names_and_numbers() {
        let all = [
            (Encoding::F32, "f32"),
            (Encoding::F16, "f16"),
            (Encoding::Bf16, "bf16"),
            (Encoding::U8, "u8"),
            (top(1), "top-1"),
            (top(65535), "top-65535"),
        ];
        for (encoding, name) in all {
            assert_eq!(encoding.to_string(), name);
            assert_eq!(name.parse(), Ok(encoding));
            let kept = encoding.kept(70_000) as u32;
            assert_eq!(Encoding::read(encoding.tag(), kept, 70_000), Ok(encoding));
        }
        for name in [
            "f64",
            "",
            "top-",
            "top-0",
            "top-65536",
            "top-064",
            "top-+1",
            "top-1 ",
            "F32",
        ] {
            let error = name.parse::<Encoding>().expect_err(name).to_string();
            let expected = "expected f32 (1), f16 (2), bf16 (3), u8 (4) or top-K with K from 1 to 65535 (5)";
            assert_eq!(error, format!("unknown encoding {name:?}, {expected}"));
        }
    }

    #[test]
    fn rows_have_the_sizes_of_the_format() {
        assert_eq!(Encoding::F32.row_len(100), 400);
        assert_eq!(Encoding::F16.row_len(100), 200);
        assert_eq!(Encoding::Bf16.row_len(100), 200);
        assert_eq!(Encoding::U8.row_len(100), 108);
        assert_eq!(top(64).row_len(100), 4 + 128 + 64 * 7 / 8);
        assert_eq!(top(3).row_len(1000), 4 + 6 + 4); // 30 bits
        assert_eq!(top(3).row_len(2), 4 + 4 + 1);
        assert_eq!(top(3).row_len(1), 4 + 2);
        assert_eq!(top(64).frame_len(32, 50_257), 24 + 32 * (4 + 128 + 128));
        assert_eq!([1, 2, 3, 4, 5, 256, 257].map(id_bits), [0, 1, 2, 2, 3, 8, 9]);
    }

    #[test]
    fn top_64_is_chosen_from_408_classes_on() {
        for classes in [1, 10, 100, 407] {
            assert_eq!(Encoding::auto(classes), Encoding::F16, "{classes}");
        }
        for classes in [408, 1000, 50_257, 151_936] {
            assert_eq!(Encoding::auto(classes), top(64), "{classes}");
        }
    }
}
