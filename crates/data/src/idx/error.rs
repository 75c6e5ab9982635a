//! What can be wrong with a file.

use std::io;
use std::path::PathBuf;

use crate::dataset::Shape;
use crate::store;

/// What is wrong with an IDX file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room for the samples.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Neither it nor its gzipped form exists.
    #[error("{file} is missing, plain and with .gz: {hint}")]
    Missing {
        /// The file, without `.gz`.
        file: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// It is another kind of file.
    #[error("{file} starts with {found:#010x}, expected {expected:#010x}: it is not this kind of idx file")]
    Magic {
        /// The file.
        file: PathBuf,
        /// The magic number of what it should be.
        expected: u32,
        /// What it starts with.
        found: u32,
    },
    /// It ends too early or too late.
    #[error("{file} holds {found} bytes, expected {expected}: copy it again")]
    Size {
        /// The file.
        file: PathBuf,
        /// Bytes that its header announces, header included.
        expected: u64,
        /// Bytes it has; one more than expected if it does not end there.
        found: u64,
    },
    /// Its dimensions are empty or beyond all use.
    #[error(
        "{file} announces dimensions {dimensions:?}, expected 1 to 4294967295 samples and at most 2^40 bytes"
    )]
    Dimensions {
        /// The file.
        file: PathBuf,
        /// Its dimensions.
        dimensions: Vec<u32>,
    },
    /// Images and labels do not belong together.
    #[error("{file} holds {labels} labels for {images} images")]
    Count {
        /// The labels' file.
        file: PathBuf,
        /// Number of labels.
        labels: usize,
        /// Number of images.
        images: usize,
    },
    /// Other images differ in size from the training images.
    #[error("{file} holds images of {found}, expected {expected} like the training images")]
    ShapeMismatch {
        /// The others' file.
        file: PathBuf,
        /// The training images' shape.
        expected: Shape,
        /// Their shape.
        found: Shape,
    },
    /// A label is not a class.
    #[error(
        "{file} holds label {label} at index {index}, expected less than {classes}, the number of classes"
    )]
    Label {
        /// The labels' file.
        file: PathBuf,
        /// Which sample.
        index: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// It is not the published file.
    #[error(
        "{file} has md5 {found} when decompressed, expected {expected}: install it again, or use format = \"idx\""
    )]
    Content {
        /// The file.
        file: PathBuf,
        /// The published hash.
        expected: &'static str,
        /// The hash of what is there.
        found: String,
    },
}
