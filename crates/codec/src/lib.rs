//! Soft targets as bytes: the log-probabilities that a teacher sends and a student learns from.
//!
//! A teacher [`soften`]s its logits to log-probabilities at the temperature of the loss, [`encode`]s a block of rows
//! into a frame, and whoever receives the frame [`decode`]s it. The frame describes itself and carries a checksum;
//! decoding refuses whatever is not rows of log-probabilities, so that a damaged frame can never become a gradient.
//!
//! Whoever keeps soft targets by sample writes them with [`encode_rows`] and makes frames of any of them with
//! [`assemble`].
//!
//! # The frame, version 2
//!
//! Little endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | magic, `RT` |
//! | 1 | version, 2 |
//! | 1 | encoding: `f32` 1, `f16` 2, `bf16` 3, `u8` 4, `top-K` 5 |
//! | 4 | temperature, f32, finite and above 0 |
//! | 4 | rows, u32 |
//! | 4 | classes, u32, at least 1 |
//! | 4 | kept, u32: values per row; K of `top-K`, at most the classes; otherwise the classes |
//! | 4 | CRC-32 (IEEE) of the 20 bytes before it and of all that follow it |
//! | rest | the rows, [`Encoding::row_len`] bytes each |
//!
//! # Rows
//!
//! | encoding | bytes | what |
//! | --- | --- | --- |
//! | `f32`, `f16`, `bf16` | 4 or 2 x classes | log-probabilities |
//! | `u8` | 4 | the least value, f32 |
//! | | 4 | the step, f32, from 0 to 24 / 255 |
//! | | classes | u8 steps above the least value |
//! | `top-K` | 4 | log of the probability of all classes that were left out, f32; -10000 if none was |
//! | | 2 x kept | the largest log-probabilities, f16, by ascending class |
//! | | ceil(kept x bits / 8) | their classes, bits = ceil(log2(classes)) each, lowest bit first, padded with zeros |
//!
//! `top-K` keeps the lower of equally likely classes. Its tail is the log of the sum over the classes left out, never
//! 1 less the sum of the others, which would cancel.
//!
//! # Error bounds
//!
//! Log-probabilities below [`FLOOR`] are raised to it; probability 0 comes out as [`FLOOR`] (in `bf16` as -9984, in
//! `u8` 24 below the row's maximum). All encodings are within [`Encoding::error_bound`] of the normalised row. Rows are
//! normalised again on decoding, those of `top-K` together with their tail, except for `f32`, which is exact.
//!
//! # Features, version 1
//!
//! A teacher may send what one of its layers holds beside its soft targets, in [`Features`]:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | magic and version, `RF`, 1, 0 |
//! | 4, 4, 4 | rows, channels, positions, u32 each |
//! | 4 | CRC-32 (IEEE) of the 16 bytes before it and of all that follow it |
//! | rows x (4 + 2 x channels x positions) | the largest absolute value, f32, and all values in parts of it, f16 |
//!
//! This crate is pure: it must never depend on an async runtime, a network stack or a tensor library, and does no I/O.

#![warn(missing_docs)]

mod dense;
mod encoding;
mod error;
mod exp;
pub mod features;
mod frame;
mod soften;
mod topk;

pub use encoding::{Encoding, U8_RANGE, UnknownEncoding};
pub use error::{Error, FeaturesError};
pub use features::Features;
pub use frame::{
    Frame, HEADER_LEN, Header, MAX_VALUES, Targets, VERSION, assemble, check, decode, decode_into, encode,
    encode_rows,
};
pub use soften::{FLOOR, soften};
pub use topk::TopK;
