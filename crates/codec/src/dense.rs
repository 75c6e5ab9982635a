//! Rows that hold every class.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::encoding::{Encoding, U8_RANGE};
use crate::error::Error;
use crate::exp::{all, mass, range};
use crate::soften::at_least_floor;

/// Values converted at a time, in registers and the nearest cache.
const CHUNK: usize = 256;

/// The widest step of a `u8` row, with the last digit of f32 to spare.
const MAX_STEP: f32 = U8_RANGE / 255.0 * 1.000_001;

/// Appends what `convert` makes of each value, raised to the floor.
pub(crate) fn write<const N: usize>(values: &[f32], out: &mut Vec<u8>, convert: impl Fn(f32) -> [u8; N]) {
    let mut bytes = [[0; N]; CHUNK];
    for chunk in values.chunks(CHUNK) {
        for (bytes, &value) in bytes.iter_mut().zip(chunk) {
            *bytes = convert(at_least_floor(value));
        }
        out.extend_from_slice(bytes[..chunk.len()].as_flattened());
    }
}

/// As [`write`] does; chunks let `half` use the instructions that convert several values.
pub(crate) fn write_f16(values: &[f32], out: &mut Vec<u8>) {
    let mut raised = [0.0; CHUNK];
    let mut halves = [f16::ZERO; CHUNK];
    let mut bytes = [[0; 2]; CHUNK];
    for chunk in values.chunks(CHUNK) {
        for (raised, &value) in raised.iter_mut().zip(chunk) {
            *raised = at_least_floor(value);
        }
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(&raised[..chunk.len()]);
        for (bytes, half) in bytes.iter_mut().zip(&*halves) {
            *bytes = half.to_le_bytes();
        }
        out.extend_from_slice(bytes[..chunk.len()].as_flattened());
    }
}

pub(crate) fn write_bf16(values: &[f32], out: &mut Vec<u8>) {
    write(values, out, |value| bf16::from_f32(value).to_le_bytes());
}

/// The least value and the step, then the number of steps per class.
pub(crate) fn write_u8(row: &[f32], out: &mut Vec<u8>) {
    // Below 2^24 and at least 2^23 floats are the integers: adding this rounds and leaves the integer in the last bits.
    const TO_INTEGER: f32 = 8_388_608.0;
    let (least, most) = range(row);
    let low = if all(row, |value| !value.is_nan()) {
        at_least_floor(least).max(most - U8_RANGE)
    } else {
        f32::NAN // decoding refuses it
    };
    let step = (most - low) / 255.0;
    let steps = if step > 0.0 { 1.0 / step } else { 0.0 };
    out.extend(low.to_le_bytes());
    out.extend(step.to_le_bytes());
    write(row, out, |value| {
        let place = (value - low) * steps;
        let place = if place > 0.0 { place } else { 0.0 };
        [(place + TO_INTEGER).to_bits() as u8]
    });
}

/// The inverse of [`write_f16`].
pub(crate) fn read_f16(bytes: &[u8], values: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (bytes, values) in bytes.chunks(2 * CHUNK).zip(values.chunks_mut(CHUNK)) {
        let halves = &mut halves[..values.len()];
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(values);
    }
}

/// Reads row number `row` and normalises it.
pub(crate) fn read(row: usize, encoding: Encoding, bytes: &[u8], values: &mut [f32]) -> Result<(), Error> {
    match encoding {
        Encoding::F32 => {
            for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(bytes);
            }
        }
        Encoding::Bf16 => {
            for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = bf16::from_le_bytes(bytes).to_f32();
            }
        }
        Encoding::U8 => read_u8(row, bytes, values)?,
        Encoding::F16 | Encoding::TopK(_) => read_f16(bytes, values),
    }
    if let Some(class) = not_finite(values) {
        let value = values[class];
        return Err(Error::NotFinite { row, class, value });
    }
    let sum = checked_mass(row, mass(values), encoding.mass_tolerance())?;
    // What was not rounded stays as it was.
    normalise(values, if encoding == Encoding::F32 { 0.0 } else { sum.ln() });
    Ok(())
}

fn read_u8(row: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), Error> {
    let (words, places) = bytes.split_at(8);
    let &[low, step] = words.as_chunks().0 else {
        unreachable!("8 bytes are two words");
    };
    let (low, step) = (f32::from_le_bytes(low), f32::from_le_bytes(step));
    if step.is_finite() && !(0.0..=MAX_STEP).contains(&step) {
        return Err(Error::Step { row, step });
    }
    for (value, &place) in values.iter_mut().zip(places) {
        *value = low + step * f32::from(place);
    }
    Ok(())
}

/// Where the first value is that is NaN or infinite.
pub(crate) fn not_finite(values: &[f32]) -> Option<usize> {
    if all(values, f32::is_finite) {
        return None;
    }
    values.iter().position(|value| !value.is_finite())
}

/// The mass, if it is that of a distribution.
pub(crate) fn checked_mass(row: usize, mass: f32, tolerance: f32) -> Result<f32, Error> {
    if (mass - 1.0).abs() <= tolerance {
        Ok(mass)
    } else {
        Err(Error::Mass { row, mass, tolerance })
    }
}

/// Divides by the mass. Nothing stays nothing.
pub(crate) fn normalise(values: &mut [f32], log_mass: f32) {
    for value in values {
        let floor = at_least_floor(*value);
        *value = if floor == crate::FLOOR {
            floor
        } else {
            at_least_floor(floor - log_mass)
        };
    }
}
