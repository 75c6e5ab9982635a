//! The frame: bytes that describe themselves.

use crate::dense;
use crate::encoding::Encoding;
use crate::error::Error;
use crate::exp::{all, mass};
use crate::soften::{assert_rows, assert_temperature, at_least_floor};
use crate::topk::{self, TopK};

/// The version of the format that this crate writes, and the only one it reads.
pub const VERSION: u8 = 2;
/// Bytes before the rows.
pub const HEADER_LEN: usize = 24;
/// The most log-probabilities in a frame, and the most classes: 1 GiB of f32. Far above any block; a frame that
/// announces more is broken.
pub const MAX_VALUES: u64 = 1 << 28;

pub(crate) const MAGIC: [u8; 2] = *b"RT";
/// Where the checksum lies; it covers what is before and what is after.
const CRC_AT: usize = 20;

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    /// How its rows are written.
    pub encoding: Encoding,
    /// The temperature at which the logits were softened.
    pub temperature: f32,
    /// Number of rows.
    pub rows: usize,
    /// Classes per row, at least 1.
    pub classes: usize,
}

/// A decoded frame. The default has no rows and is there to [`decode_into`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// The temperature at which the logits were softened.
    pub temperature: f32,
    /// Classes per row, at least 1.
    pub classes: usize,
    /// Number of rows.
    pub rows: usize,
    /// The log-probabilities.
    pub targets: Targets,
}

/// The log-probabilities of a frame, each row normalised.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Rows x classes log-probabilities, row by row, finite, at least [`FLOOR`](crate::FLOOR).
    Dense(Vec<f32>),
    /// The most likely classes of each row.
    TopK(TopK),
}

impl Default for Targets {
    fn default() -> Self {
        Self::Dense(Vec::new())
    }
}

/// Appends one frame of `log_probs`, rows of `classes`, to `out`. It takes what [`soften`](crate::soften) gives, before
/// anything is left out; values below [`FLOOR`](crate::FLOOR) are raised to it. What is no distribution is written so
/// that it is refused on decoding: [`check`] tells before.
///
/// # Panics
///
/// If the values are not whole rows or more than [`MAX_VALUES`], or the temperature is not a finite number above 0.
pub fn encode(log_probs: &[f32], classes: usize, temperature: f32, encoding: Encoding, out: &mut Vec<u8>) {
    assert_rows(log_probs.len(), classes);
    let header = Header {
        encoding,
        temperature,
        rows: log_probs.len() / classes,
        classes,
    };
    frame(header, out, |out| encode_rows(log_probs, classes, encoding, out));
}

/// Appends rows to `out` as they are in a frame, [`Encoding::row_len`] bytes each and independent of one another, for
/// [`assemble`].
///
/// # Panics
///
/// If the values are not whole rows, or a row has more than [`MAX_VALUES`].
pub fn encode_rows(log_probs: &[f32], classes: usize, encoding: Encoding, out: &mut Vec<u8>) {
    assert_rows(log_probs.len(), classes);
    assert_size(1, classes, classes);
    out.reserve(log_probs.len() / classes * encoding.row_len(classes));
    match encoding {
        Encoding::F32 => dense::write(log_probs, out, f32::to_le_bytes),
        Encoding::F16 => dense::write_f16(log_probs, out),
        Encoding::Bf16 => dense::write_bf16(log_probs, out),
        Encoding::U8 => log_probs
            .chunks_exact(classes)
            .for_each(|row| dense::write_u8(row, out)),
        Encoding::TopK(_) => topk::write(log_probs, classes, encoding.kept(classes), out),
    }
}

/// Appends one frame of rows that [`encode_rows`] wrote with the header's encoding and classes, one row per item. It is
/// the frame that [`encode`] makes of the same rows.
///
/// # Panics
///
/// If there are not as many rows as the header says or one has another length, together more than [`MAX_VALUES`], or
/// the temperature is not a finite number above 0.
pub fn assemble<'a>(header: Header, rows: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let row_len = header.encoding.row_len(header.classes);
    frame(header, out, |out| {
        for row in rows {
            assert_eq!(row.len(), row_len, "bytes of a row");
            out.extend_from_slice(row);
        }
    });
}

/// Reads a frame; `bytes` must hold it and nothing else.
pub fn decode(bytes: &[u8]) -> Result<Frame, Error> {
    let mut frame = Frame::default();
    decode_into(bytes, &mut frame)?;
    Ok(frame)
}

/// Like [`decode`], into a frame whose buffers are used again if it holds the same kind of [`Targets`]. After an error
/// its content has no meaning.
pub fn decode_into(bytes: &[u8], frame: &mut Frame) -> Result<(), Error> {
    let header = Header::read(bytes)?;
    let Header {
        encoding, classes, ..
    } = header;
    let payload = &bytes[HEADER_LEN..];
    frame.temperature = header.temperature;
    frame.classes = classes;
    frame.rows = header.rows;
    if let Encoding::TopK(_) = encoding {
        if !matches!(frame.targets, Targets::TopK(_)) {
            frame.targets = Targets::TopK(TopK::default());
        }
    } else if !matches!(frame.targets, Targets::Dense(_)) {
        frame.targets = Targets::default();
    }
    match &mut frame.targets {
        Targets::TopK(top) => topk::read(payload, encoding, classes, top),
        Targets::Dense(log_probs) => {
            log_probs.resize(header.rows * classes, 0.0);
            let rows = payload.chunks_exact(encoding.row_len(classes));
            for (row, (bytes, values)) in rows.zip(log_probs.chunks_exact_mut(classes)).enumerate() {
                dense::read(row, encoding, bytes, values)?;
            }
            Ok(())
        }
    }
}

/// Whether [`decode`] takes the frame that [`encode`] makes of these rows in any encoding; if not, which row is to
/// blame. An encoding that tolerates more of a [mass](Encoding::mass_tolerance) than `f32` may get by with it.
///
/// # Panics
///
/// If the values are not whole rows.
pub fn check(log_probs: &[f32], classes: usize) -> Result<(), Error> {
    assert_rows(log_probs.len(), classes);
    // Probability 0 may still be -inf here: encoding raises it.
    let valid = |value: f32| at_least_floor(value).is_finite();
    for (row, values) in log_probs.chunks_exact(classes).enumerate() {
        if !all(values, valid) {
            let class = values.iter().position(|&value| !valid(value)).unwrap_or(0);
            let value = values[class];
            return Err(Error::NotFinite { row, class, value });
        }
        dense::checked_mass(row, mass(values), Encoding::F32.mass_tolerance())?;
    }
    Ok(())
}

/// Appends the header, what `fill` appends, and the checksum.
fn frame(header: Header, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let Header {
        encoding,
        temperature,
        rows,
        classes,
    } = header;
    let kept = encoding.kept(classes);
    assert_size(rows, kept, classes);
    assert_temperature(temperature);
    let start = out.len();
    let len = encoding.frame_len(rows, classes);
    out.reserve(len);
    out.extend(MAGIC);
    out.extend([VERSION, encoding.tag()]);
    out.extend(temperature.to_le_bytes());
    for number in [rows, classes, kept] {
        out.extend((number as u32).to_le_bytes()); // all within MAX_VALUES
    }
    out.extend([0; HEADER_LEN - CRC_AT]);
    fill(out);
    assert_eq!(out.len() - start, len, "bytes of a frame of {rows} rows");
    let crc = checksum(&out[start..]);
    out[start + CRC_AT..start + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

fn assert_size(rows: usize, kept: usize, classes: usize) {
    assert!(
        fits(rows as u64, kept as u64, classes as u64),
        "{rows} rows that keep {kept} of {classes} classes do not fit a frame: at most {MAX_VALUES} values"
    );
}

fn fits(rows: u64, kept: u64, classes: u64) -> bool {
    (1..=MAX_VALUES).contains(&classes) && rows.saturating_mul(kept) <= MAX_VALUES
}

impl Header {
    /// Checks all of a frame but its rows.
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
        let temperature = f32::from_le_bytes(word(4));
        let [rows, classes, kept] = [8, 12, 16].map(|at| u32::from_le_bytes(word(at)));
        let encoding = Encoding::read(header[3], kept, classes)?;
        if !fits(rows.into(), kept.into(), classes.into()) {
            return Err(Error::Size { rows, classes, kept });
        }
        let expected = HEADER_LEN as u64 + u64::from(rows) * encoding.row_len(classes as usize) as u64;
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
