//! The frame: bytes that describe themselves.

use half::f16;

use crate::encoding::{Encoding, UnknownEncoding};
use crate::soften::{assert_rows, assert_temperature, at_least_floor, mass};

/// The version of the format that this crate writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// Bytes before the log-probabilities.
pub const HEADER_LEN: usize = 20;
/// The most log-probabilities in a frame: 1 GiB of f32. Far above any block; a frame that announces more is broken.
pub const MAX_VALUES: u64 = 1 << 28;

const MAGIC: [u8; 2] = *b"RT";
/// Where the checksum lies; it covers what is before and what is after.
const CRC_AT: usize = 16;

/// Why bytes are not a frame. Whoever gets one asks the sender again, or gives up on it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Too short for a header, or not as long as the header says.
    #[error("frame holds {found} bytes, expected {expected}")]
    Length {
        /// Bytes expected.
        expected: u64,
        /// Bytes there.
        found: usize,
    },
    /// Not a frame at all.
    #[error("frame starts with {0:02x?}, expected {MAGIC:02x?}")]
    Magic([u8; 2]),
    /// Written by another version.
    #[error("frame has version {0}, expected {VERSION}: run the same release on both sides")]
    Version(u8),
    /// Written in a way that this version does not know.
    #[error("frame: {0}")]
    Encoding(#[from] UnknownEncoding),
    /// Not a temperature.
    #[error("frame has temperature {0}, expected a finite number above 0")]
    Temperature(f32),
    /// No classes, or more values than a frame may hold.
    #[error(
        "frame announces {rows} rows of {classes} classes, expected at least 1 class and at most {MAX_VALUES} values"
    )]
    Size {
        /// Rows announced.
        rows: u32,
        /// Classes announced.
        classes: u32,
    },
    /// Damaged on the way.
    #[error("frame has checksum {found:#010x}, expected {expected:#010x}: it was damaged on the way")]
    Checksum {
        /// Checksum of what arrived.
        found: u32,
        /// Checksum that the sender wrote.
        expected: u32,
    },
    /// A value is NaN or infinite.
    #[error("log-probability of row {row}, class {class} is {value}, expected a finite number")]
    NotFinite {
        /// Which row.
        row: usize,
        /// Which class.
        class: usize,
        /// Its value.
        value: f32,
    },
    /// A row is not a distribution.
    #[error("probabilities of row {row} sum to {mass}, expected 1 within {tolerance}")]
    Mass {
        /// Which row.
        row: usize,
        /// Its sum.
        mass: f32,
        /// How far from 1 it may be.
        tolerance: f32,
    },
}

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    /// How its values are written.
    pub encoding: Encoding,
    /// The temperature at which the logits were softened.
    pub temperature: f32,
    /// Number of rows.
    pub rows: usize,
    /// Log-probabilities per row, at least 1.
    pub classes: usize,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The temperature at which the logits were softened.
    pub temperature: f32,
    /// Log-probabilities per row, at least 1.
    pub classes: usize,
    /// Number of rows.
    pub rows: usize,
    /// Row by row, finite, at least [`FLOOR`](crate::FLOOR).
    pub log_probs: Vec<f32>,
}

/// Appends one frame to `out`. It takes what [`soften`](crate::soften) gives; values below [`FLOOR`](crate::FLOOR) are raised to it.
/// What is no distribution is written as it is and refused on decoding: [`check`] tells before.
///
/// # Panics
///
/// If the values are not whole rows or more than [`MAX_VALUES`], or the temperature is not a finite number above 0.
pub fn encode(log_probs: &[f32], classes: usize, temperature: f32, encoding: Encoding, out: &mut Vec<u8>) {
    assert_rows(log_probs.len(), classes);
    assert_temperature(temperature);
    assert!(
        log_probs.len().max(classes) as u64 <= MAX_VALUES,
        "{} values in rows of {classes} are too many for a frame: at most {MAX_VALUES}",
        log_probs.len()
    );
    let start = out.len();
    out.reserve(HEADER_LEN + log_probs.len() * encoding.value_len());
    out.extend(MAGIC);
    out.extend([VERSION, encoding as u8]);
    out.extend(temperature.to_le_bytes());
    out.extend(((log_probs.len() / classes) as u32).to_le_bytes()); // both within MAX_VALUES
    out.extend((classes as u32).to_le_bytes());
    out.extend([0; HEADER_LEN - CRC_AT]);
    let values = log_probs.iter().map(|&value| at_least_floor(value));
    match encoding {
        Encoding::F32 => values.for_each(|value| out.extend(value.to_le_bytes())),
        Encoding::F16 => values.for_each(|value| out.extend(f16::from_f32(value).to_le_bytes())),
    }
    let crc = checksum(&out[start..]);
    out[start + CRC_AT..start + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a frame; `bytes` must hold it and nothing else.
pub fn decode(bytes: &[u8]) -> Result<Frame, Error> {
    let mut log_probs = Vec::new();
    let Header {
        temperature,
        classes,
        rows,
        ..
    } = decode_into(bytes, &mut log_probs)?;
    Ok(Frame {
        temperature,
        classes,
        rows,
        log_probs,
    })
}

/// Like [`decode`], into a buffer that can be used again. After an error its content has no meaning.
pub fn decode_into(bytes: &[u8], log_probs: &mut Vec<f32>) -> Result<Header, Error> {
    let header = Header::read(bytes)?;
    let payload = &bytes[HEADER_LEN..];
    log_probs.clear();
    match header.encoding {
        Encoding::F32 => log_probs.extend(
            payload
                .as_chunks()
                .0
                .iter()
                .map(|&value| f32::from_le_bytes(value)),
        ),
        Encoding::F16 => {
            log_probs.extend(
                payload
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&value| f16::from_le_bytes(value).to_f32()),
            );
        }
    }
    let tolerance = header.encoding.mass_tolerance();
    for (row, values) in log_probs.chunks_exact_mut(header.classes).enumerate() {
        let sum = check_row(row, values, tolerance, f32::is_finite)?;
        match header.encoding {
            Encoding::F32 => values
                .iter_mut()
                .for_each(|value| *value = at_least_floor(*value)),
            Encoding::F16 => {
                let log_sum = sum.ln();
                values
                    .iter_mut()
                    .for_each(|value| *value = at_least_floor(*value - log_sum));
            }
        }
    }
    Ok(header)
}

/// Whether [`encode`] would make a frame of these rows that [`decode`] takes; if not, which row is to blame.
///
/// # Panics
///
/// If the values are not whole rows.
pub fn check(log_probs: &[f32], classes: usize) -> Result<(), Error> {
    assert_rows(log_probs.len(), classes);
    let tolerance = Encoding::F32.mass_tolerance();
    for (row, values) in log_probs.chunks_exact(classes).enumerate() {
        // Probability 0 may still be -inf here: encoding raises it.
        check_row(row, values, tolerance, |value| at_least_floor(value).is_finite())?;
    }
    Ok(())
}

/// The sum of a row's probabilities, if it is a distribution of `valid` values.
fn check_row(row: usize, values: &[f32], tolerance: f32, valid: fn(f32) -> bool) -> Result<f32, Error> {
    if let Some(class) = values.iter().position(|&value| !valid(value)) {
        let value = values[class];
        return Err(Error::NotFinite { row, class, value });
    }
    let mass = mass(values);
    if (mass - 1.0).abs() <= tolerance {
        Ok(mass)
    } else {
        Err(Error::Mass { row, mass, tolerance })
    }
}

impl Header {
    /// Checks all of a frame but its values.
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let found = bytes.len();
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(Error::Length {
                expected: HEADER_LEN as u64,
                found,
            });
        };
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let magic = [header[0], header[1]];
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        if header[2] != VERSION {
            return Err(Error::Version(header[2]));
        }
        let encoding = Encoding::try_from(header[3])?;
        let temperature = f32::from_le_bytes(word(4));
        let rows = u32::from_le_bytes(word(8));
        let classes = u32::from_le_bytes(word(12));
        let values = u64::from(rows) * u64::from(classes); // below 2^64
        if classes == 0 || u64::from(classes) > MAX_VALUES || values > MAX_VALUES {
            return Err(Error::Size { rows, classes });
        }
        let expected = HEADER_LEN as u64 + values * encoding.value_len() as u64;
        if found as u64 != expected {
            return Err(Error::Length { expected, found });
        }
        let (found, expected) = (checksum(bytes), u32::from_le_bytes(word(CRC_AT)));
        if found != expected {
            return Err(Error::Checksum { found, expected });
        }
        if !temperature.is_finite() || temperature <= 0.0 {
            return Err(Error::Temperature(temperature));
        }
        Ok(Self {
            encoding,
            temperature,
            rows: rows as usize,
            classes: classes as usize,
        })
    }
}

/// Of a whole frame, without the checksum's own place.
fn checksum(frame: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&frame[..CRC_AT]);
    hash.update(&frame[HEADER_LEN..]);
    hash.finalize()
}

#[cfg(test)]
mod tests;
