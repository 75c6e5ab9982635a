//! How log-probabilities are written, and what that costs.

use std::fmt;
use std::str::FromStr;

/// How a log-probability is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Four bytes, exact.
    F32 = 1,
    /// Two bytes; see [`Encoding::error_bound`].
    F16 = 2,
}

/// A number or name that is no [`Encoding`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encoding {0}, expected f32 (1) or f16 (2)")]
pub struct UnknownEncoding(pub String);

impl Encoding {
    /// Bytes per log-probability.
    pub const fn value_len(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// How far the decoded log-probability may be from `log_prob`, one of a normalised row of `classes` values that
    /// are at least [`FLOOR`](crate::FLOOR).
    ///
    /// `f16` rounds to 11 significant bits, hence |error| <= 2^-11 |log_prob|. That changes the row's mass by a factor
    /// whose logarithm is at most 2^-11 ln(classes), which normalising takes off each value. The constant covers the
    /// rest: subnormal f16, and sums in f32.
    pub fn error_bound(self, log_prob: f32, classes: usize) -> f32 {
        const ROUNDING: f32 = 1.0 / 2048.0;
        const REST: f32 = 1e-5;
        match self {
            Self::F32 => 0.0,
            Self::F16 => ROUNDING * 1.01 * (log_prob.abs() + (classes as f32).ln()) + REST,
        }
    }

    /// How far from 1 the probabilities of a row may sum. `f32` allows for the sums of long rows, `f16` for twice
    /// the bound above with as many classes as a frame can hold.
    pub const fn mass_tolerance(self) -> f32 {
        match self {
            Self::F32 => 1e-3,
            Self::F16 => 2e-2,
        }
    }
}

impl TryFrom<u8> for Encoding {
    type Error = UnknownEncoding;

    fn try_from(tag: u8) -> Result<Self, UnknownEncoding> {
        match tag {
            1 => Ok(Self::F32),
            2 => Ok(Self::F16),
            _ => Err(UnknownEncoding(tag.to_string())),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(name: &str) -> Result<Self, UnknownEncoding> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(UnknownEncoding(format!("{name:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_have_names_and_numbers() {
        for encoding in [Encoding::F32, Encoding::F16] {
            assert_eq!(encoding.to_string().parse(), Ok(encoding));
            assert_eq!(Encoding::try_from(encoding as u8), Ok(encoding));
        }
        let error = "f64".parse::<Encoding>().expect_err("f64");
        assert_eq!(
            error.to_string(),
            "unknown encoding \"f64\", expected f32 (1) or f16 (2)"
        );
    }
}
