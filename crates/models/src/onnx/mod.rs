//! Classifiers from ONNX files. They evaluate on the processor, whatever the device, and never train.
//!
//! Running one needs the cargo feature `onnx`; without it such models are known and refused.

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

use crate::foreign;

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
    #[error(transparent)]
    Foreign(#[from] foreign::Error),
    #[error("the model cannot be prepared: {0}")]
    Prepare(String),
    #[error("the model failed: {0}")]
    Run(String),
}
