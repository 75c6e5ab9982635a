//! How a model from elsewhere is used as a classifier: what the model itself does not say.

use serde::{Deserialize, Serialize};

/// Input, output and their meaning: of an ONNX file, or of a model on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreign {
    /// Name of the input.
    pub input: String,
    pub layout: Layout,
    /// Name of the tensor that is read. Of an ONNX file it may be an inner one.
    pub output: String,
    pub gives: Gives,
    /// Of a model of bytes: the number that it takes where there is none. Bytes are 0..=255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<u32>,
}

/// A model on a server that speaks the Open Inference Protocol (KServe v2) over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kserve {
    /// Where the server is, `http://host:port`.
    pub endpoint: String,
    /// Name of the model there.
    pub model: String,
    /// The version that must answer; empty where the server numbers none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Samples of one request, at most (1..=4,096).
    pub max_batch: u32,
    pub ports: Foreign,
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
