//! The merge of a round.

use crate::wire::{Wire, WireError, decode_each, encode_into};

/// What one replica brought.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its weight in the mean; a part without samples, or without bytes, does not count.
    pub samples: u64,
    /// Numbers as they travelled.
    pub bytes: &'a [u8],
}

/// Parts that have no mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Replicas of one group sent models of different sizes.
    #[error("contributions of {0} and {1} bytes are not of one model")]
    Sizes(usize, usize),
    /// Bytes that are no numbers.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Numbers whose sums are made at a time.
const BLOCK: usize = 2048;

/// The mean weighted by samples, accumulated in f32 in the order given, as it travels. Empty where no part counts.
///
/// `into` gives its memory for it, whatever it holds: fresh memory costs more than the sums.
pub fn mean<'a>(
    parts: impl IntoIterator<Item = Part<'a>>,
    wire: Wire,
    mut into: Vec<u8>,
) -> Result<Vec<u8>, PartError> {
    let parts: Vec<Part<'_>> = parts
        .into_iter()
        .filter(|p| p.samples > 0 && !p.bytes.is_empty())
        .collect();
    let total: u64 = parts.iter().map(|p| p.samples).sum();
    let len = parts.first().map_or(0, |first| first.bytes.len());
    if let Some(other) = parts.iter().find(|p| p.bytes.len() != len) {
        return Err(PartError::Sizes(len, other.bytes.len()));
    }
    if !len.is_multiple_of(wire.bytes()) {
        return Err(WireError { bytes: len, wire }.into());
    }
    into.resize(len, 0);
    let mut sums = [0.0; BLOCK];
    // All parts of a block before the next block: the sums stay in the nearest cache.
    for (number, out) in into.chunks_mut(BLOCK * wire.bytes()).enumerate() {
        let start = number * BLOCK * wire.bytes();
        let range = start..start + out.len();
        let sums = &mut sums[..out.len() / wire.bytes()];
        sums.fill(0.0);
        for part in &parts {
            let share = (part.samples as f64 / total as f64) as f32;
            decode_each(&part.bytes[range.clone()], wire, sums, |sum, number| {
                *sum += share * number
            })?;
        }
        encode_into(sums, wire, out);
    }
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    fn part(samples: u64, bytes: &[u8]) -> Part<'_> {
        Part { samples, bytes }
    }

    fn mean<'a>(parts: impl IntoIterator<Item = Part<'a>>, wire: Wire) -> Result<Vec<f32>, PartError> {
        let used = vec![7; 3];
        let bytes = super::mean(parts, wire, used)?;
        Ok(decode(&bytes, wire)?)
    }

    #[test]
    fn parts_count_by_samples() {
        let (a, b) = (encode(&[1.0, 0.0], Wire::F32), encode(&[5.0, 8.0], Wire::F32));
        assert_eq!(mean([part(1, &a), part(3, &b)], Wire::F32).unwrap(), [4.0, 6.0]);
        assert_eq!(
            mean([part(0, &a), part(3, &b), part(4, &[])], Wire::F32).unwrap(),
            [5.0, 8.0]
        );
        assert!(mean([part(0, &a)], Wire::F32).unwrap().is_empty());
        let narrow = encode(&[5.0, 8.0], Wire::Bf16);
        assert_eq!(mean([part(2, &narrow)], Wire::Bf16).unwrap(), [5.0, 8.0]);
    }

    #[test]
    fn blocks_are_put_together_in_order() {
        let numbers: Vec<f32> = (0..3 * BLOCK + 5).map(|i| i as f32).collect();
        let bytes = encode(&numbers, Wire::F32);
        let parts = [part(1, &bytes), part(3, &bytes)];
        assert_eq!(mean(parts, Wire::F32).unwrap(), numbers);
    }

    #[test]
    fn parts_of_different_models_are_refused() {
        let (a, b) = (encode(&[1.0], Wire::F32), encode(&[5.0, 8.0], Wire::F32));
        let parts = [part(1, &a), part(1, &b)];
        assert_eq!(mean(parts, Wire::F32), Err(PartError::Sizes(4, 8)));
        let odd = [part(1, &[0; 5])];
        assert!(matches!(mean(odd, Wire::F32), Err(PartError::Wire(_))));
    }
}
