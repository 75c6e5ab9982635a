//! Classifiers from ONNX files. They evaluate on the processor, whatever the device, and never train.
//!
//! What a file leaves unsaid, [`retort_job::Onnx`] says. Running one needs the cargo feature `onnx`; without it such models
//! are known and refused.

#[cfg(not(feature = "onnx"))]
mod absent;
#[cfg(feature = "onnx")]
mod graph;
#[cfg(feature = "onnx")]
mod ports;
#[cfg(all(test, feature = "onnx"))]
mod tests;

#[cfg(not(feature = "onnx"))]
use absent as graph;

pub(crate) use graph::Graph;
pub use graph::ports;

use thiserror::Error;

/// An input or output of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// Extents, the batch first; `None` where the file leaves one open.
    pub shape: Vec<Option<usize>>,
}

/// What a file takes and gives, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// Without those that have a value in the file.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// Why an ONNX file cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    #[error(
        "this build runs no ONNX model: build with the cargo feature `onnx` (cargo run --release --features onnx -- ...)"
    )]
    NotCompiledIn,
    #[error("not a readable ONNX file: {0}")]
    Format(String),
    #[error("operators that are not supported here: {0}")]
    Operators(String),
    #[error("{key} is {name:?}, expected {known}")]
    Name {
        key: &'static str,
        name: String,
        known: String,
    },
    #[error("output {output:?} needs the inputs {needs}, expected {input:?} alone")]
    Inputs {
        output: String,
        input: String,
        needs: String,
    },
    #[error("input {name:?} is {found}, expected {expected}")]
    Input {
        name: String,
        found: String,
        expected: String,
    },
    #[error(
        "output {name:?} of a batch of {batch} is {found}, expected {batch} x {classes}, a number for each class"
    )]
    Classes {
        name: String,
        batch: usize,
        found: String,
        classes: usize,
    },
    #[error("the model cannot be prepared: {0}")]
    Prepare(String),
    #[error("the model failed: {0}")]
    Run(String),
    #[error(
        "output {name:?} sums to {sum}, expected 1 and no part below 0: no probabilities (gives = \"logits\"?)"
    )]
    Sum { name: String, sum: f32 },
}
