//! How numbers travel between replicas and their reducer.

use std::fmt;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

/// How each number is written, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// Four bytes, exact.
    F32,
    /// Two bytes: the range of f32 with 8 significant bits, hence within 2^-8 of the number.
    Bf16,
}

/// Bytes that are no whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are no whole {wire} numbers")]
pub struct WireError {
    /// How many there are.
    pub bytes: usize,
    /// What they were read as.
    pub wire: Wire,
}

/// Numbers converted at a time.
const CHUNK: usize = 1024;

impl Wire {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// The numbers as bytes.
pub fn encode(values: &[f32], wire: Wire) -> Vec<u8> {
    let mut out = vec![0; values.len() * wire.bytes()];
    encode_into(values, wire, &mut out);
    out
}

/// As [`encode`], into bytes that are just as many.
pub(crate) fn encode_into(values: &[f32], wire: Wire, out: &mut [u8]) {
    match wire {
        Wire::F32 => {
            for (value, bytes) in values.iter().zip(out.as_chunks_mut().0) {
                *bytes = value.to_le_bytes();
            }
        }
        Wire::Bf16 => {
            let mut halves = [bf16::ZERO; CHUNK];
            for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, bytes) in halves.iter().zip(out.as_chunks_mut().0) {
                    *bytes = half.to_le_bytes();
                }
            }
        }
    }
}

/// The inverse of [`encode`].
pub fn decode(bytes: &[u8], wire: Wire) -> Result<Vec<f32>, WireError> {
    let mut out = vec![0.0; bytes.len() / wire.bytes()];
    decode_each(bytes, wire, &mut out, |value, number| *value = number)?;
    Ok(out)
}

/// Calls `each` with every place of `to` and the number for it; there must be as many.
pub(crate) fn decode_each(
    bytes: &[u8],
    wire: Wire,
    to: &mut [f32],
    each: impl Fn(&mut f32, f32),
) -> Result<(), WireError> {
    if bytes.len() != to.len() * wire.bytes() {
        let bytes = bytes.len();
        return Err(WireError { bytes, wire });
    }
    match wire {
        Wire::F32 => {
            for (value, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
                each(value, f32::from_le_bytes(*bytes));
            }
        }
        Wire::Bf16 => {
            for (value, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
                each(value, bf16::from_le_bytes(*bytes).to_f32());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_within_their_bound(values in proptest::collection::vec(-1e30f32..1e30, 0..3_000)) {
            prop_assert_eq!(&decode(&encode(&values, Wire::F32), Wire::F32).unwrap(), &values);
            let bytes = encode(&values, Wire::Bf16);
            prop_assert_eq!(bytes.len(), 2 * values.len());
            for (value, found) in values.iter().zip(decode(&bytes, Wire::Bf16).unwrap()) {
                prop_assert!((value - found).abs() <= value.abs() / 256.0);
            }
        }
    }

    #[test]
    fn parts_of_numbers_are_refused() {
        assert_eq!(
            decode(&[0; 7], Wire::F32),
            Err(WireError {
                bytes: 7,
                wire: Wire::F32
            })
        );
        assert_eq!(
            decode(&[0; 3], Wire::Bf16).unwrap_err().to_string(),
            "3 bytes are no whole bf16 numbers"
        );
        assert!(decode(&[], Wire::Bf16).unwrap().is_empty());
    }
}
