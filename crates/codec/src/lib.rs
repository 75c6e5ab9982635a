//! Soft targets as bytes: the log-probabilities that a teacher sends and a student learns from.
//!
//! A teacher [`soften`]s its logits to log-probabilities at the temperature of the loss, [`encode`]s a block of rows
//! into a frame, and whoever receives the frame [`decode`]s it. The frame describes itself and carries a checksum;
//! decoding refuses whatever is not rows of log-probabilities, so that a damaged frame can never become a gradient.
//!
//! # The frame, version 1
//!
//! Little endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | magic, `RT` |
//! | 1 | version, 1 |
//! | 1 | [`Encoding`] |
//! | 4 | temperature, f32, finite and above 0 |
//! | 4 | rows, u32 |
//! | 4 | classes, u32, at least 1 |
//! | 4 | CRC-32 (IEEE) of the 16 bytes before it and of all that follow it |
//! | rest | rows x classes log-probabilities, row by row |
//!
//! # Error bounds
//!
//! Log-probabilities below [`FLOOR`] are raised to it; probability 0 comes out as [`FLOOR`]. Above it `f32` is exact,
//! and `f16` is within [`Encoding::error_bound`] of the normalised row. Rows of `f16` are normalised again on decoding.
//!
//! This crate is pure: it must never depend on an async runtime, a network stack or a tensor library, and does no I/O.

#![warn(missing_docs)]

mod encoding;
mod frame;
mod soften;

pub use encoding::{Encoding, UnknownEncoding};
pub use frame::{Error, Frame, HEADER_LEN, Header, MAX_VALUES, VERSION, check, decode, decode_into, encode};
pub use soften::{FLOOR, soften};
