//! Classifiers from ONNX files. They evaluate on the processor, whatever the device, and never train.
//!
//! Running one needs the cargo feature `onnx`; without it such models are known and refused. With `onnxruntime` the user's
//! library of ONNX Runtime does it where the environment names one.

#[cfg(not(feature = "onnx"))]
mod absent;
#[cfg(feature = "onnx")]
mod graph;
#[cfg(feature = "onnx")]
mod ports;
#[cfg(feature = "onnxruntime")]
mod runtime;
#[cfg(all(test, feature = "onnx"))]
mod tests;

#[cfg(not(feature = "onnx"))]
use absent as graph;

pub(crate) use graph::Graph;
pub use graph::ports;

use std::path::PathBuf;

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
    #[error("ORT_DYLIB_PATH = {}: expected the shared library of ONNX Runtime 1.{oldest} or newer: {reason}", library.display())]
    Library {
        library: PathBuf,
        oldest: u32,
        reason: String,
    },
    #[error("the model cannot be prepared: {0}")]
    Prepare(String),
    #[error("the model failed: {0}")]
    Run(String),
}
