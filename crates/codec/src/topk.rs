//! Rows that hold the most likely classes and the mass of the rest.

use crate::FLOOR;
use crate::dense::{checked_mass, normalise, not_finite, read_f16, write_f16};
use crate::encoding::{Encoding, id_bits};
use crate::error::Error;
use crate::exp::{exp, mass, range, sum};
use crate::soften::at_least_floor;

/// The most likely classes of each row, and how likely all others are together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopK {
    /// Classes per row, at least 1 and at most all.
    pub kept: usize,
    /// Rows x kept classes, ascending within a row.
    pub ids: Vec<u32>,
    /// Rows x kept log-probabilities, those of `ids`, finite, at least [`FLOOR`].
    pub log_probs: Vec<f32>,
    /// Per row the log of the probability of all other classes, finite; [`FLOOR`] if it is 0.
    pub log_tail: Vec<f32>,
}

/// Appends the `kept` most likely classes of each row.
pub(crate) fn write(log_probs: &[f32], classes: usize, kept: usize, out: &mut Vec<u8>) {
    let (mut best, mut ids) = (Vec::new(), Vec::new());
    let (mut values, mut rest) = (Vec::new(), Vec::new());
    for row in log_probs.chunks_exact(classes) {
        rest.clear();
        rest.extend(row.iter().copied().map(at_least_floor));
        select(&rest, kept, &mut best);
        ids.clear();
        ids.extend(best.iter().map(|&key| id(key)));
        ids.sort_unstable();
        values.clear();
        values.extend(
            ids.iter()
                .map(|&id| std::mem::replace(&mut rest[id as usize], f32::NEG_INFINITY)),
        );
        let tail = if kept == classes { FLOOR } else { log_mass(&rest) };
        out.extend(tail.to_le_bytes());
        write_f16(&values, out);
        pack(&ids, id_bits(classes), out);
    }
}

/// Fills `best` with the keys of the `kept` largest values of a row, in any order.
///
/// Reads the row once and compares it in chunks with the least value that still counts. What is larger is collected
/// and thinned out whenever it has doubled, so that the work is linear for any row.
fn select(row: &[f32], kept: usize, best: &mut Vec<u64>) {
    const CHUNK: usize = 16;
    let room = kept + kept.max(16 * CHUNK);
    let (mut bar, mut least) = (0, f32::NEG_INFINITY);
    best.clear();
    for (chunk, start) in row.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
        // NaN counts as large: decoding must see it.
        if chunk.iter().fold(true, |all, &value| all & (value <= least)) {
            continue;
        }
        let keys = chunk.iter().zip(start..).map(|(&value, id)| key(value, id));
        best.extend(keys.filter(|&key| key > bar));
        if best.len() + CHUNK > room {
            thin(best, kept);
            bar = best[kept - 1];
            least = row[id(bar) as usize];
        }
    }
    thin(best, kept);
}

/// Leaves the `kept` largest keys, the least of them last.
fn thin(best: &mut Vec<u64>, kept: usize) {
    if best.len() > kept {
        best.select_nth_unstable_by(kept - 1, |a, b| b.cmp(a));
        best.truncate(kept);
    }
}

/// Larger for larger values; among equal ones for lower classes. NaN of either sign is larger than any.
fn key(value: f32, id: u32) -> u64 {
    let bits = value.to_bits();
    let ordered = if value.is_sign_negative() && !value.is_nan() {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(ordered) << 32 | u64::from(!id)
}

fn id(key: u64) -> u32 {
    !(key as u32)
}

/// The log of the probability of `rest`, where what was kept is -inf.
fn log_mass(rest: &[f32]) -> f32 {
    let (_, most) = range(rest);
    let log_sum = sum(rest, |value| exp(value - most)).ln();
    if most == FLOOR && !log_sum.is_nan() {
        FLOOR
    } else {
        most + log_sum
    }
}

/// Appends `bits` of each id, the lowest first, and fills the last byte with zeros.
fn pack(ids: &[u32], bits: u32, out: &mut Vec<u8>) {
    let (mut pending, mut filled) = (0u64, 0);
    for &id in ids {
        pending |= u64::from(id) << filled;
        filled += bits;
        while filled >= 8 {
            out.push(pending as u8);
            pending >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(pending as u8);
    }
}

/// The inverse of [`pack`]; whether the last byte is filled with zeros.
fn unpack(mut bytes: impl Iterator<Item = u8>, bits: u32, ids: &mut [u32]) -> bool {
    let (mut pending, mut filled) = (0u64, 0);
    for id in ids {
        while filled < bits {
            pending |= u64::from(bytes.next().unwrap_or(0)) << filled;
            filled += 8;
        }
        *id = (pending & ((1 << bits) - 1)) as u32;
        pending >>= bits;
        filled -= bits;
    }
    pending == 0
}

/// Reads and normalises rows. All of `payload` is rows.
pub(crate) fn read(payload: &[u8], encoding: Encoding, classes: usize, top: &mut TopK) -> Result<(), Error> {
    let kept = encoding.kept(classes);
    let row_len = encoding.row_len(classes);
    let rows = payload.len() / row_len;
    top.kept = kept;
    top.ids.resize(rows * kept, 0);
    top.log_probs.resize(rows * kept, 0.0);
    top.log_tail.resize(rows, 0.0);
    let outputs = (top.ids.chunks_exact_mut(kept))
        .zip(top.log_probs.chunks_exact_mut(kept))
        .zip(&mut top.log_tail);
    for (row, (bytes, ((ids, values), tail))) in payload.chunks_exact(row_len).zip(outputs).enumerate() {
        let (word, rest) = bytes.split_first_chunk().expect("a row begins with its tail");
        let (halves, packed) = rest.split_at(2 * kept);
        *tail = f32::from_le_bytes(*word);
        read_f16(halves, values);
        let padded = unpack(packed.iter().copied(), id_bits(classes), ids);
        // Ascending, so the last is the largest.
        let ascending =
            ids.is_sorted_by(|a, b| a < b) && ids.last().is_some_and(|&id| (id as usize) < classes);
        if !padded || !ascending {
            return Err(Error::Ids { row });
        }
        if let Some(at) = not_finite(values) {
            let (class, value) = (ids[at] as usize, values[at]);
            return Err(Error::NotFinite { row, class, value });
        }
        if !tail.is_finite() || (kept == classes && *tail > FLOOR) {
            return Err(Error::Tail { row, value: *tail });
        }
        let sum = checked_mass(row, mass(values) + exp(*tail), encoding.mass_tolerance())?;
        normalise(values, sum.ln());
        normalise(std::slice::from_mut(tail), sum.ln());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
