//! BERT from a folder of Hugging Face's `transformers`: `config.json` and `model.safetensors`.
//!
//! What it puts out is the mean over its last layer's tokens, as sentence-transformers has it; the classifier behind that is
//! ours. A pooler and heads of other tasks stay behind.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use retort_job::{Architecture, Model};
use safetensors::tensor::SafeTensors;
use serde::Deserialize;
use thiserror::Error;

use crate::net::BERT_EPSILON;
use crate::weights::numbers;
use crate::{Net, Spec, SpecError, WeightsError};

/// Why a folder's encoder cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    #[error("config.json is no configuration of a model")]
    Format(#[from] serde_json::Error),
    #[error("config.json: {key} is {value}, expected {expected}")]
    Config {
        key: &'static str,
        value: String,
        expected: String,
    },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("model.safetensors")]
    Weights(#[from] WeightsError),
}

/// What `config.json` says, as far as it matters; where it may be silent, the default of `transformers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    intermediate_size: u32,
    max_position_embeddings: usize,
    #[serde(default = "Config::hidden_act")]
    hidden_act: String,
    #[serde(default = "Config::layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "Config::position_embedding_type")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
}

/// What makes ids for it.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// Number of ids, padding included.
    pub count: usize,
    /// How much greater they are than the encoder's own.
    pub shift: usize,
}

impl Config {
    fn hidden_act() -> String {
        "gelu".into()
    }

    fn layer_norm_eps() -> f64 {
        BERT_EPSILON
    }

    fn position_embedding_type() -> String {
        "absolute".into()
    }

    /// Reads a `config.json` and refuses what is no BERT, or one that computes otherwise.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let config: Self = serde_json::from_slice(json)?;
        let text = |text: &str| format!("{text:?}");
        let found = [
            ("model_type", text(&config.model_type), text("bert")),
            ("hidden_act", text(&config.hidden_act), text("gelu")),
            (
                "layer_norm_eps",
                format!("{:e}", config.layer_norm_eps),
                format!("{BERT_EPSILON:e}"),
            ),
            (
                "position_embedding_type",
                text(&config.position_embedding_type),
                text("absolute"),
            ),
            ("is_decoder", config.is_decoder.to_string(), false.to_string()),
        ];
        match found.into_iter().find(|(_, value, expected)| value != expected) {
            None => Ok(config),
            Some((key, value, expected)) => Err(Error::Config { key, value, expected }),
        }
    }

    pub fn model(&self) -> Model {
        Model {
            width: Some(self.hidden_size),
            depth: Some(self.num_hidden_layers),
            heads: Some(self.num_attention_heads),
            hidden: Some(vec![self.intermediate_size]),
            ..Model::of(Architecture::Bert)
        }
    }

    /// The network of this specification with the weights of a `model.safetensors`, and a classifier of zeros.
    ///
    /// # Errors
    ///
    /// Texts are longer than it has positions, its vocabulary is not that of the ids, a weight is missing, has another shape
    /// or type, or is none of its parts.
    pub fn network(&self, spec: &Spec, ids: Ids, weights: &[u8]) -> Result<Net, Error> {
        let refused = |key, value: usize, expected| {
            let value = value.to_string();
            Err(Error::Config { key, value, expected })
        };
        let length = spec.input.width;
        if length > self.max_position_embeddings {
            let expected = format!("at least {length}, the tokens of a sample (dataset.text.length)");
            return refused("max_position_embeddings", self.max_position_embeddings, expected);
        }
        if ids.count != self.vocab_size + ids.shift {
            let expected = format!("{}, the tokens of its tokenizer", ids.count - ids.shift);
            return refused("vocab_size", self.vocab_size, expected);
        }
        let net = Net::new(spec, 0, &Device::flex())?;
        let file = SafeTensors::deserialize(weights).map_err(WeightsError::Format)?;
        let mut values = Parts::new(&file).all(self, length, ids.shift)?;
        for (name, shape) in net.layout() {
            if name.starts_with("classifier.") {
                values.insert(name, vec![0.0; shape.iter().product()]);
            }
        }
        Ok(net.assign(values))
    }
}

/// Beginnings of tensors that are no part of the encoder.
const OTHERS: [&str; 3] = ["pooler.", "cls.", "embeddings.position_ids"];

/// Reads a file of theirs part by part.
struct Parts<'a> {
    file: &'a SafeTensors<'a>,
    /// What stands before every name of the encoder, in files of models with a head.
    prefix: &'static str,
    used: BTreeSet<String>,
}

impl<'a> Parts<'a> {
    fn new(file: &'a SafeTensors<'a>) -> Self {
        const PREFIX: &str = "bert.";
        let prefixed = file.names().iter().any(|name| name.starts_with(PREFIX));
        Self {
            file,
            prefix: if prefixed { PREFIX } else { "" },
            used: BTreeSet::new(),
        }
    }

    /// All weights but the classifier's, by the names that our network has for them.
    fn all(
        mut self,
        config: &Config,
        length: usize,
        shift: usize,
    ) -> Result<BTreeMap<String, Vec<f32>>, WeightsError> {
        let width = config.hidden_size as usize;
        let units = config.intermediate_size as usize;
        let mut values = BTreeMap::new();
        // No id of theirs stands for our padding, whose vector nobody sees.
        let mut vectors = vec![0.0; shift * width];
        vectors.extend(self.take("embeddings.word_embeddings.weight", &[config.vocab_size, width])?);
        values.insert("embedding.weight".to_owned(), vectors);
        values.insert("positions".to_owned(), self.positions(config, length)?);
        let (gamma, beta) = self.norm("embeddings.LayerNorm", width)?;
        values.insert("embedding_norm.gamma".to_owned(), gamma);
        values.insert("embedding_norm.beta".to_owned(), beta);
        for block in 0..config.num_hidden_layers {
            let theirs = |part: &str| format!("encoder.layer.{block}.{part}");
            let mut ours = |part: &str, numbers| values.insert(format!("blocks.{block}.{part}"), numbers);
            let of = ["query", "key", "value"];
            let qkv = of.map(|part| self.linear(&theirs(&format!("attention.self.{part}")), [width, width]));
            let [query, key, value] = qkv;
            let parts = [query?, key?, value?];
            let row = |i: usize| {
                parts
                    .iter()
                    .flat_map(move |(w, _)| &w[i * width..(i + 1) * width])
            };
            ours("qkv.weight", (0..width).flat_map(row).copied().collect());
            ours(
                "qkv.bias",
                parts.iter().flat_map(|(_, bias)| bias).copied().collect(),
            );
            for (name, part, sizes) in [
                ("out", "attention.output.dense", [width, width]),
                ("up", "intermediate.dense", [width, units]),
                ("down", "output.dense", [units, width]),
            ] {
                let (weight, bias) = self.linear(&theirs(part), sizes)?;
                ours(&format!("{name}.weight"), weight);
                ours(&format!("{name}.bias"), bias);
            }
            for (name, part) in [
                ("norm1", "attention.output.LayerNorm"),
                ("norm2", "output.LayerNorm"),
            ] {
                let (gamma, beta) = self.norm(&theirs(part), width)?;
                ours(&format!("{name}.gamma"), gamma);
                ours(&format!("{name}.beta"), beta);
            }
        }
        self.finish()?;
        Ok(values)
    }

    /// As many as a text has tokens, each with the vector of the first token type added.
    fn positions(&mut self, config: &Config, length: usize) -> Result<Vec<f32>, WeightsError> {
        const TYPES: &str = "embeddings.token_type_embeddings.weight";
        let width = config.hidden_size as usize;
        let shape = [config.max_position_embeddings, width];
        let mut positions = self.take("embeddings.position_embeddings.weight", &shape)?;
        positions.truncate(length * width);
        // However many types there are.
        let name = self.name(TYPES);
        let types = self
            .file
            .tensor(&name)
            .map_or(1, |view| view.shape().first().copied().unwrap_or(0).max(1));
        let first = self.take(TYPES, &[types, width])?;
        for row in positions.chunks_exact_mut(width) {
            row.iter_mut().zip(&first).for_each(|(x, t)| *x += t);
        }
        Ok(positions)
    }

    /// Weight, as `[inputs, outputs]`, and bias. PyTorch's is `[outputs, inputs]`.
    fn linear(
        &mut self,
        part: &str,
        [inputs, outputs]: [usize; 2],
    ) -> Result<(Vec<f32>, Vec<f32>), WeightsError> {
        let theirs = self.take(&format!("{part}.weight"), &[outputs, inputs])?;
        let column = |i: usize| theirs.iter().skip(i).step_by(inputs).copied();
        let weight = (0..inputs).flat_map(column).collect();
        Ok((weight, self.take(&format!("{part}.bias"), &[outputs])?))
    }

    /// Scale and shift, by the names of PyTorch or the older ones of TensorFlow.
    fn norm(&mut self, part: &str, width: usize) -> Result<(Vec<f32>, Vec<f32>), WeightsError> {
        let old = self.file.tensor(&self.name(&format!("{part}.gamma"))).is_ok();
        let [scale, shift] = if old {
            ["gamma", "beta"]
        } else {
            ["weight", "bias"]
        };
        let scale = self.take(&format!("{part}.{scale}"), &[width])?;
        Ok((scale, self.take(&format!("{part}.{shift}"), &[width])?))
    }

    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    fn take(&mut self, part: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let name = self.name(part);
        let numbers = numbers(self.file, &name, shape)?;
        self.used.insert(name);
        Ok(numbers)
    }

    /// Refuses a file with more layers than the configuration knows of.
    fn finish(self) -> Result<(), WeightsError> {
        let mut names = self.file.names();
        names.sort_unstable();
        let foreign = names.into_iter().find(|&name| {
            let plain = name.strip_prefix(self.prefix).unwrap_or(name);
            let head = plain == name && !self.prefix.is_empty();
            !self.used.contains(name) && !head && !OTHERS.iter().any(|other| plain.starts_with(other))
        });
        match foreign {
            Some(name) => Err(WeightsError::Unexpected(name.into())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
