//! How an ONNX file is used as a classifier: what the file itself does not say.

use serde::{Deserialize, Serialize};

/// Input, output and their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Onnx {
    /// Name of the input.
    pub input: String,
    pub layout: Layout,
    /// Name of the tensor that is read, which may be an inner one.
    pub output: String,
    pub gives: Gives,
    /// Of a model of bytes: the number that it takes where there is none. Bytes are 0..=255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<u32>,
}

/// Shape of the input, the batch first. Samples come as channels x height x width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[n, channels, height, width]`
    #[default]
    Nchw,
    /// `[n, height, width, channels]`
    Nhwc,
    /// `[n, channels * height * width]`
    Flat,
}

/// What the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gives {
    /// Numbers whose softmax are the probabilities.
    Logits,
    /// Numbers that sum to 1. Their logarithms are logits; what is 0 counts as the smallest normal `f32`, whose
    /// logarithm is -87.3.
    Probabilities,
}
