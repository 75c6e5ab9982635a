//! Model configuration: enough to build the same network anywhere.

use serde::{Deserialize, Serialize};

/// A network by its configuration. Sizes that an architecture does not use are refused by `check`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub architecture: Architecture,
    /// `mlp` (required): units of each hidden layer; may be empty (a linear classifier).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<u32>>,
    /// `cnn`, `resnet` (required): channels of the first stage; later stages double it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// `cnn`: convolution layers (1..=6, default 3); `resnet`: layers in all, 6n + 2 (8, 14, 20, ..., default 8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Dropout before the classifier (and between hidden layers of an `mlp`), 0..1.
    #[serde(default)]
    pub dropout: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    Mlp,
    Cnn,
    Resnet,
}

/// Bounds that keep a typing error from asking for terabytes.
const MAX_UNITS: u32 = 65_536;
const MAX_HIDDEN_LAYERS: usize = 64;
const MAX_WIDTH: u32 = 1024;
const MAX_CNN_DEPTH: u32 = 6;
const MAX_RESNET_DEPTH: u32 = 200;

impl Model {
    /// Layers, by the architecture's default where the configuration leaves them out.
    pub fn depth(&self) -> u32 {
        self.depth.unwrap_or(match self.architecture {
            Architecture::Mlp => 0,
            Architecture::Cnn => 3,
            Architecture::Resnet => 8,
        })
    }

    /// What is wrong with it, as (key, value, what is expected); empty if a network can be built from it.
    pub fn problems(&self) -> Vec<(String, String, String)> {
        let mut problems = match self.architecture {
            Architecture::Mlp => self.mlp_problems(),
            Architecture::Cnn | Architecture::Resnet => self.convolution_problems(),
        };
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(problem("dropout", self.dropout, "at least 0 and less than 1"));
        }
        problems
    }

    fn mlp_problems(&self) -> Vec<(String, String, String)> {
        let mut problems = Vec::new();
        match &self.hidden {
            None => problems.push(problem("hidden", "(absent)", "a list of layer sizes, like [128]")),
            Some(hidden) if hidden.len() > MAX_HIDDEN_LAYERS => {
                let expected = format!("at most {MAX_HIDDEN_LAYERS} layers");
                problems.push(problem("hidden", format!("{} layers", hidden.len()), &expected));
            }
            Some(hidden) => {
                let wrong = hidden
                    .iter()
                    .enumerate()
                    .filter(|(_, n)| !(1..=MAX_UNITS).contains(*n));
                let expected = format!("1..={MAX_UNITS} units");
                problems.extend(wrong.map(|(i, units)| problem(&format!("hidden.{i}"), units, &expected)));
            }
        }
        let unused = "absent: an mlp has its sizes in `hidden`";
        problems.extend(self.width.map(|width| problem("width", width, unused)));
        problems.extend(self.depth.map(|depth| problem("depth", depth, unused)));
        problems
    }

    fn convolution_problems(&self) -> Vec<(String, String, String)> {
        let mut problems = Vec::new();
        let widths = format!("1..={MAX_WIDTH} channels");
        match self.width {
            None => problems.push(problem("width", "(absent)", &widths)),
            Some(width) if !(1..=MAX_WIDTH).contains(&width) => {
                problems.push(problem("width", width, &widths));
            }
            Some(_) => {}
        }
        let depth = self.depth();
        if self.architecture == Architecture::Resnet {
            if !(8..=MAX_RESNET_DEPTH).contains(&depth) || depth % 6 != 2 {
                let expected = format!("6n + 2 layers: 8, 14, 20, ..., {MAX_RESNET_DEPTH}");
                problems.push(problem("depth", depth, &expected));
            }
        } else if !(1..=MAX_CNN_DEPTH).contains(&depth) {
            problems.push(problem("depth", depth, &format!("1..={MAX_CNN_DEPTH} layers")));
        }
        if let Some(hidden) = &self.hidden {
            let unused = "absent: only an mlp has hidden layers";
            problems.push(problem("hidden", format!("{hidden:?}"), unused));
        }
        problems
    }
}

fn problem(key: &str, value: impl ToString, expected: &str) -> (String, String, String) {
    (key.into(), value.to_string(), expected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let model: Model = toml::from_str(text).unwrap();
        model.problems().into_iter().map(|(key, ..)| key).collect()
    }

    #[test]
    fn sound_models_have_no_problems() {
        for text in [
            "architecture = 'mlp'\nhidden = []",
            "architecture = 'mlp'\nhidden = [32, 16]\ndropout = 0.5",
            "architecture = 'cnn'\nwidth = 8",
            "architecture = 'cnn'\nwidth = 1\ndepth = 6",
            "architecture = 'resnet'\nwidth = 16\ndepth = 200",
        ] {
            assert_eq!(keys(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn every_unsound_key_is_named() {
        for (text, expected) in [
            (
                "architecture = 'mlp'\nwidth = 8\ndepth = 2",
                vec!["hidden", "width", "depth"],
            ),
            (
                "architecture = 'mlp'\nhidden = [0, 8, 65537]",
                vec!["hidden.0", "hidden.2"],
            ),
            (
                "architecture = 'cnn'\ndepth = 7\nhidden = [3]",
                vec!["width", "depth", "hidden"],
            ),
            ("architecture = 'cnn'\nwidth = 0", vec!["width"]),
            ("architecture = 'resnet'\nwidth = 8\ndepth = 10", vec!["depth"]),
            (
                "architecture = 'mlp'\nhidden = []\ndropout = 1.0",
                vec!["dropout"],
            ),
            (
                "architecture = 'mlp'\nhidden = []\ndropout = nan",
                vec!["dropout"],
            ),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }
}
