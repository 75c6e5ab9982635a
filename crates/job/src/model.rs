//! Model configuration: enough to build the same network anywhere.

mod foreign;
mod problems;

pub use self::foreign::{Foreign, Gives, Kserve, Layout};

use std::fmt;

use retort_data::Custom;
use serde::{Deserialize, Serialize};

/// A network by its configuration. Sizes that an architecture does not use are refused by `check`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub architecture: Architecture,
    /// `embedding-bag`, `mlp` or `cnn` of tokens (required): numbers that stand for one token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<u32>,
    /// `mlp` (required): units of each hidden layer; may be empty (a linear classifier). `embedding-bag`: those behind the
    /// mean, none unless given. `bert`: one, of the perceptron in each block, four times `width` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<u32>>,
    /// `cnn`, `resnet` (required): channels of the first stage; later stages double it. `mobilenet` (required): channels of
    /// the stem, up to 32 times as many behind it. `transformer` (required): numbers that stand for one token, a multiple of
    /// `heads`; so of a `bert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// `cnn`: convolution layers (1..=6, default 3); `resnet`: layers in all, 2n for each stage + 2 (with three stages 8,
    /// 14, 20, ..., default n = 1); `mobilenet`: separable convolutions (1..=13, default 6); `transformer`, `bert`: blocks
    /// (1..=64, default 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// `resnet`: stages (1..=3, default 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<u32>,
    /// `transformer`, `bert`: heads of each attention (1..=64, default 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<u32>,
    /// Dropout before the classifier (and between hidden layers, on both branches of a `transformer`'s or `bert`'s block), 0..1.
    #[serde(default)]
    pub dropout: f64,
    /// `cnn`, `resnet`, `mobilenet`, `transformer`, `bert`: further classifiers on the way, which learn from the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits: Option<Exits>,
    /// `onnx` (required): how the file is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<Foreign>,
    /// `kserve` (required): where the model is, and how it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kserve: Option<Kserve>,
    /// `custom` (required): which one, and parameters that only the program knows that brings it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,
}

/// Classifiers on the way, and what each is taught: `(1 - alpha) CE(y, exit) + alpha T² KL(last || exit) +
/// feature_weight MSE(exit's pooled features, the last one's)`, beside the loss of the last classifier. Zhang et al., Be
/// Your Own Teacher, 2019, <https://arxiv.org/abs/1905.08094>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exits {
    /// Behind which convolutions, stages or blocks, counted from 1: ascending, and before the last one.
    pub at: Vec<u32>,
    /// Share of the last classifier's answer, 0..=1.
    #[serde(default = "Exits::alpha")]
    pub alpha: f64,
    /// T, which softens both.
    #[serde(default = "Exits::temperature")]
    pub temperature: f64,
    /// 0 (the default) leaves features alone.
    #[serde(default)]
    pub feature_weight: f64,
}

impl Exits {
    fn alpha() -> f64 {
        0.3
    }

    fn temperature() -> f64 {
        3.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    Mlp,
    Cnn,
    Resnet,
    /// Of depthwise separable convolutions.
    Mobilenet,
    /// Of images and signals, or of tokens.
    Transformer,
    /// Of tokens only: the encoder of BERT, which `retort import` fills.
    Bert,
    /// Of tokens only: a perceptron behind the mean of their vectors.
    EmbeddingBag,
    /// A file from elsewhere, which teaches and is never trained.
    Onnx,
    /// A model on a server, likewise.
    Kserve,
    /// What the program brings along.
    Custom,
}

/// As a job spells it.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Resnet => "resnet",
            Self::Mobilenet => "mobilenet",
            Self::Transformer => "transformer",
            Self::Bert => "bert",
            Self::EmbeddingBag => "embedding-bag",
            Self::Onnx => "onnx",
            Self::Kserve => "kserve",
            Self::Custom => "custom",
        })
    }
}

impl Architecture {
    /// From elsewhere: it teaches and is never trained, and nobody sees its layers.
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Onnx | Self::Kserve)
    }
}

impl Model {
    /// A model with nothing said of it but its architecture.
    pub fn of(architecture: Architecture) -> Self {
        Self {
            architecture,
            embedding: None,
            hidden: None,
            width: None,
            depth: None,
            stages: None,
            heads: None,
            dropout: 0.0,
            exits: None,
            onnx: None,
            kserve: None,
            custom: None,
        }
    }

    /// How a model from elsewhere is used.
    pub fn foreign(&self) -> Option<&Foreign> {
        let served = self.kserve.as_ref().map(|kserve| &kserve.ports);
        self.onnx.as_ref().or(served)
    }

    /// Layers, by the architecture's default where the configuration leaves them out.
    pub fn depth(&self) -> u32 {
        self.depth.unwrap_or(match self.architecture {
            Architecture::Mlp
            | Architecture::EmbeddingBag
            | Architecture::Onnx
            | Architecture::Kserve
            | Architecture::Custom => 0,
            Architecture::Cnn => 3,
            Architecture::Resnet => 2 * self.stages() + 2,
            Architecture::Mobilenet => 6,
            Architecture::Transformer | Architecture::Bert => 2,
        })
    }

    /// Stages of a `resnet`.
    pub fn stages(&self) -> u32 {
        self.stages.unwrap_or(3)
    }

    /// Heads of a `transformer` or a `bert`.
    pub fn heads(&self) -> u32 {
        self.heads.unwrap_or(4)
    }

    /// Parts behind which an exit may stand, but for the last one: convolutions, stages or blocks.
    pub fn segments(&self) -> u32 {
        match self.architecture {
            Architecture::Mlp
            | Architecture::EmbeddingBag
            | Architecture::Onnx
            | Architecture::Kserve
            | Architecture::Custom => 0,
            Architecture::Cnn | Architecture::Mobilenet | Architecture::Transformer | Architecture::Bert => {
                self.depth()
            }
            Architecture::Resnet => self.stages(),
        }
    }

    /// Where its exits are, in order.
    pub fn exits_at(&self) -> &[u32] {
        self.exits.as_ref().map_or(&[], |exits| &exits.at)
    }

    /// The model that ends behind so many segments, without exits: what an exit there is, once it stands alone.
    pub fn cut(&self, segments: u32) -> Self {
        let depth = match self.architecture {
            Architecture::Resnet => (self.depth() - 2) / self.stages() * segments + 2,
            _ => segments,
        };
        Self {
            depth: Some(depth),
            stages: (self.architecture == Architecture::Resnet).then_some(segments),
            exits: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_model_is_sound_and_as_deep_as_the_exit() {
        for (text, expected) in [
            (
                "architecture = 'cnn'\nwidth = 8\nexits = { at = [2] }",
                "architecture = 'cnn'\nwidth = 8\ndepth = 2",
            ),
            (
                "architecture = 'resnet'\nwidth = 4\ndepth = 14\ndropout = 0.1\nexits = { at = [2] }",
                "architecture = 'resnet'\nwidth = 4\ndepth = 10\nstages = 2\ndropout = 0.1",
            ),
            (
                "architecture = 'mobilenet'\nwidth = 4\nexits = { at = [2, 3] }",
                "architecture = 'mobilenet'\nwidth = 4\ndepth = 2",
            ),
            (
                "architecture = 'transformer'\nwidth = 6\nheads = 2\ndepth = 3\nexits = { at = [2] }",
                "architecture = 'transformer'\nwidth = 6\nheads = 2\ndepth = 2",
            ),
        ] {
            let parse = |text| toml::from_str::<Model>(text).unwrap();
            let cut = parse(text).cut(2);
            assert_eq!(cut, parse(expected));
            assert!(cut.problems().is_empty());
        }
    }
}
