//! Why bytes are not a frame.

use crate::encoding::UnknownEncoding;
use crate::frame::{MAGIC, MAX_VALUES, VERSION};
use crate::soften::FLOOR;

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
        "frame announces {rows} rows of {classes} classes, {kept} of them kept: expected 1 to {MAX_VALUES} classes and at most {MAX_VALUES} values"
    )]
    Size {
        /// Rows announced.
        rows: u32,
        /// Classes announced.
        classes: u32,
        /// Values per row announced.
        kept: u32,
    },
    /// Not as many values per row as the encoding keeps.
    #[error("frame keeps {kept} of {classes} classes: expected all, or 1 to 65535 of them in top-K")]
    Kept {
        /// Values per row announced.
        kept: u32,
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
    /// The classes that `top-K` left out have a probability that is NaN or infinite together, or have one though none
    /// was left out.
    #[error(
        "log-probability of what row {row} left out is {value}, expected a finite number, {FLOOR} for nothing"
    )]
    Tail {
        /// Which row.
        row: usize,
        /// Its value.
        value: f32,
    },
    /// The step of a `u8` row is negative or wider than it can be.
    #[error("step of row {row} is {step}, expected 0 to 24 / 255")]
    Step {
        /// Which row.
        row: usize,
        /// Its step.
        step: f32,
    },
    /// The classes that `top-K` kept are not below the number of classes, ascending, each once, padded with zeros.
    #[error("classes kept of row {row} are out of range, out of order or not padded with zeros")]
    Ids {
        /// Which row.
        row: usize,
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

/// Why bytes are no [`Features`](crate::Features). Whoever gets one asks the sender again, or gives up on it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FeaturesError {
    /// Too short for a header, or not as long as the header says.
    #[error("features hold {found} bytes, expected {expected}")]
    Length {
        /// Bytes expected.
        expected: u64,
        /// Bytes there.
        found: usize,
    },
    /// No features, or of another version.
    #[error("features start with {0:02x?}, expected [52, 46, 01, 00]: run the same release on both sides")]
    Magic([u8; 4]),
    /// No channels or positions, or more values than a frame may hold.
    #[error(
        "features announce {rows} rows of {channels} channels at {positions} positions: expected at least 1 of both and at most {MAX_VALUES} values"
    )]
    Size {
        /// Rows announced.
        rows: u32,
        /// Channels announced.
        channels: u32,
        /// Positions announced.
        positions: u32,
    },
    /// Damaged on the way.
    #[error("features have checksum {found:#010x}, expected {expected:#010x}: they were damaged on the way")]
    Checksum {
        /// Checksum of what arrived.
        found: u32,
        /// Checksum that the sender wrote.
        expected: u32,
    },
    /// A value is NaN or infinite.
    #[error("features of row {row} are not all finite numbers")]
    NotFinite {
        /// Which row.
        row: usize,
    },
}
