//! Features: what a layer of the teacher holds of each sample, for losses that compare layers.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::dense::read_f16;
use crate::error::FeaturesError as Error;
use crate::exp::all;
use crate::frame::MAX_VALUES;

/// The version of the layout that this crate writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// Bytes before the rows.
pub const HEADER_LEN: usize = 20;

const MAGIC: [u8; 2] = *b"RF";
/// Where the checksum lies; it covers what is before and what is after.
const CRC_AT: usize = 16;
/// Bytes of a row's scale.
const SCALE: usize = 4;

/// The features of some samples, `[rows, channels, positions]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// Number of samples.
    pub rows: usize,
    /// Channels of a sample, at least 1.
    pub channels: usize,
    /// Places that each have all the channels, at least 1.
    pub positions: usize,
    /// Row by row, channel by channel, finite.
    pub values: Vec<f32>,
}

/// Bytes of a frame of so many samples.
pub const fn frame_len(rows: usize, channels: usize, positions: usize) -> usize {
    HEADER_LEN + rows * row_len(channels * positions)
}

const fn row_len(values: usize) -> usize {
    SCALE + 2 * values
}

impl Features {
    /// Appends one frame to `out`. Every value arrives within 2^-11 of itself plus 2^-25 of the largest of its row, in
    /// proportion to that: layers have no common size, so a row is written in parts of its largest value. What is not
    /// finite is written so that it is refused on decoding.
    ///
    /// # Panics
    ///
    /// If there are no channels or positions, or not as many values as the sizes say, or more than [`MAX_VALUES`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            rows,
            channels,
            positions,
            values,
        } = self;
        let len = channels * positions;
        assert!(
            fits(*rows as u64, *channels as u64, *positions as u64) && values.len() == rows * len,
            "{rows} rows of {channels} channels at {positions} positions from {} values",
            values.len()
        );
        let start = out.len();
        out.reserve(frame_len(*rows, *channels, *positions));
        out.extend(MAGIC);
        out.extend([VERSION, 0]);
        for number in [rows, channels, positions] {
            out.extend((*number as u32).to_le_bytes()); // all within MAX_VALUES
        }
        out.extend([0; HEADER_LEN - CRC_AT]);
        let mut halves = vec![f16::ZERO; len];
        let mut parts = vec![0.0; len];
        for row in values.chunks_exact(len) {
            let most = if all(row, f32::is_finite) {
                row.iter().fold(0.0, |most: f32, v| most.max(v.abs()))
            } else {
                f32::NAN
            };
            // 0, or so little that its inverse is infinite, comes out as 0.
            let inverse = if most >= f32::MIN_POSITIVE {
                most.recip()
            } else {
                0.0
            };
            for (part, value) in parts.iter_mut().zip(row) {
                *part = value * inverse;
            }
            halves.convert_from_f32_slice(&parts);
            out.extend(most.to_le_bytes());
            for half in &halves {
                out.extend(half.to_le_bytes());
            }
        }
        let crc = checksum(&out[start..]);
        out[start + CRC_AT..start + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a frame; `bytes` must hold it and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let found = bytes.len();
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            let expected = HEADER_LEN as u64;
            return Err(Error::Length { expected, found });
        };
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        if header[..2] != MAGIC || header[2] != VERSION || header[3] != 0 {
            return Err(Error::Magic(word(0)));
        }
        let [rows, channels, positions] = [4, 8, 12].map(|at| u32::from_le_bytes(word(at)));
        if !fits(rows.into(), channels.into(), positions.into()) {
            return Err(Error::Size {
                rows,
                channels,
                positions,
            });
        }
        let len = channels as usize * positions as usize;
        let expected = frame_len(rows as usize, channels as usize, positions as usize) as u64;
        if found as u64 != expected {
            return Err(Error::Length { expected, found });
        }
        let (found, expected) = (checksum(bytes), u32::from_le_bytes(word(CRC_AT)));
        if found != expected {
            return Err(Error::Checksum { found, expected });
        }
        let mut values = vec![0.0; rows as usize * len];
        let encoded = payload.chunks_exact(row_len(len));
        for (row, (bytes, values)) in encoded.zip(values.chunks_exact_mut(len)).enumerate() {
            let (scale, halves) = bytes.split_at(SCALE);
            let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
            read_f16(halves, values);
            // A value beyond the largest of its row could become infinite.
            if !(scale.is_finite() && scale >= 0.0 && all(values, |v| v.abs() <= 1.0)) {
                return Err(Error::NotFinite { row });
            }
            values.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(Self {
            rows: rows as usize,
            channels: channels as usize,
            positions: positions as usize,
            values,
        })
    }
}

fn fits(rows: u64, channels: u64, positions: u64) -> bool {
    let len = channels.saturating_mul(positions);
    channels >= 1 && positions >= 1 && len <= MAX_VALUES && rows.saturating_mul(len) <= MAX_VALUES
}

/// Of a whole frame, without the checksum's own place.
fn checksum(frame: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&frame[..CRC_AT]);
    hash.update(&frame[HEADER_LEN..]);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn features([rows, channels, positions]: [usize; 3], value: impl Fn(usize) -> f32) -> Features {
        Features {
            rows,
            channels,
            positions,
            values: (0..rows * channels * positions).map(value).collect(),
        }
    }

    fn encoded(features: &Features) -> Vec<u8> {
        let mut bytes = Vec::new();
        features.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_frame_has_the_announced_length_and_layout() {
        let some = features([2, 3, 4], |i| i as f32);
        let bytes = encoded(&some);
        assert_eq!(bytes.len(), frame_len(2, 3, 4));
        assert_eq!(bytes.len(), 20 + 2 * (4 + 24));
        assert_eq!(&bytes[..4], b"RF\x01\x00");
        assert_eq!(
            &bytes[20..24],
            &11f32.to_le_bytes(),
            "the largest of the first row"
        );
        assert_eq!(
            Features::decode(&encoded(&features([0, 3, 4], |_| 0.0)))
                .unwrap()
                .rows,
            0
        );
    }

    proptest! {
        #[test]
        fn values_of_any_size_come_back_within_the_bound(
            sizes in [1..5usize, 1..6usize, 1..7usize],
            exponent in -30f32..30.0,
            seed in any::<u64>(),
        ) {
            let value = |i: usize| ((seed % 1_000) as f32 + i as f32 * 12.9898).sin() * 10f32.powf(exponent);
            let some = features(sizes, value);
            let found = Features::decode(&encoded(&some)).unwrap();
            prop_assert_eq!((found.rows, found.channels, found.positions), (sizes[0], sizes[1], sizes[2]));
            let len = sizes[1] * sizes[2];
            for (row, read) in some.values.chunks(len).zip(found.values.chunks(len)) {
                let most = row.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (value, read) in row.iter().zip(read) {
                    let bound = value.abs() / 2048.0 + most / 33_554_432.0;
                    prop_assert!((value - read).abs() <= bound * 1.001, "{} {}", value, read);
                }
            }
        }

        #[test]
        fn damage_is_found(at in 0..76usize, flip in 1..=255u8) {
            let mut bytes = encoded(&features([2, 3, 4], |i| i as f32 - 7.5));
            bytes[at] ^= flip;
            prop_assert!(Features::decode(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_by_row() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let some = features([3, 2, 2], |i| if i == 5 { bad } else { 1.0 });
            assert_eq!(
                Features::decode(&encoded(&some)),
                Err(Error::NotFinite { row: 1 })
            );
        }
        let extremes = features([1, 2, 2], |i| [f32::MAX, -f32::MAX, 0.0, 1e-45][i]);
        assert_eq!(
            Features::decode(&encoded(&extremes)).unwrap().values,
            [f32::MAX, -f32::MAX, 0.0, 0.0]
        );
        let dead = features([1, 2, 2], |_| 0.0);
        assert_eq!(Features::decode(&encoded(&dead)).unwrap(), dead);
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        let bytes = encoded(&features([1, 1, 1], |_| 1.0));
        for (at, size) in [(8, 0u32), (12, 0), (4, u32::MAX), (8, u32::MAX)] {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
            let error = Features::decode(&bytes).unwrap_err();
            assert!(
                matches!(error, Error::Size { .. } | Error::Length { .. }),
                "{error}"
            );
        }
        assert!(matches!(
            Features::decode(&bytes[..7]),
            Err(Error::Length { found: 7, .. })
        ));
        assert!(matches!(
            Features::decode(b"RTxx................"),
            Err(Error::Magic(_))
        ));
    }
}
