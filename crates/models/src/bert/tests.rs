use retort_data::{Shape, Tokens};
use safetensors::tensor::TensorView;

use super::*;
use crate::{Classifier, Preprocessing};

/// `assets/bert/make.py` made them, and computed the reference.
const CONFIG: &str = include_str!("../../assets/bert/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../assets/bert/model.safetensors");
const REFERENCE: &str = include_str!("../../assets/bert/reference.json");

const LENGTH: usize = 8;
const IDS: Ids = Ids { count: 12, shift: 0 };

#[derive(Deserialize)]
struct Sample {
    ids: Vec<f32>,
    /// Block by block, token by token, without padding.
    layers: Vec<Vec<Vec<f64>>>,
    pooled: Vec<f64>,
}

fn spec(config: &Config, ids: Ids, length: usize) -> Spec {
    Spec {
        model: config.model(),
        input: Shape {
            channels: 1,
            height: 1,
            width: length,
        },
        classes: 3,
        rows: 1,
        preprocessing: Preprocessing::none(1),
        tokens: Some(Tokens::Tokenizer {
            path: "tokenizer.json".into(),
            blake3: Some("00".into()),
            ids: Some(ids.count as u32),
            border: None,
        }),
        projection: None,
    }
}

fn network(config: &str, ids: Ids, length: usize, weights: &[u8]) -> Result<Net, Error> {
    let config = Config::parse(config.as_bytes())?;
    config.network(&spec(&config, ids, length), ids, weights)
}

fn agrees(net: &Net, shift: f32) {
    let mut model = Classifier::from(net);
    let reference: Vec<Sample> = serde_json::from_str(REFERENCE).unwrap();
    for Sample { ids, layers, pooled } in &reference {
        let moved = ids.iter().map(|&id| if id > 0.0 { id + shift } else { id });
        let inputs: Vec<f32> = moved.collect();
        let close = |found: &f32, expected: &f64| {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5,
                "{ids:?}: {found} {expected}"
            );
        };
        let found = model.pooled(&inputs, 1).unwrap();
        assert_eq!(found.len(), pooled.len());
        found
            .iter()
            .zip(pooled)
            .for_each(|(found, expected)| close(found, expected));
        for (block, tokens) in layers.iter().enumerate() {
            let name = format!("block{}", block + 1);
            let (logits, features) = model.features(&inputs, 1, &name).unwrap();
            assert_eq!((logits, features.len()), (vec![0.0; 3], 8 * LENGTH));
            for (channel, row) in features.chunks_exact(LENGTH).enumerate() {
                for (position, found) in row.iter().enumerate() {
                    close(found, tokens.get(position).map_or(&0.0, |token| &token[channel]));
                }
            }
        }
    }
}

#[test]
fn an_encoder_puts_out_what_an_independent_one_does() {
    agrees(&network(CONFIG, IDS, LENGTH, WEIGHTS).unwrap(), 0.0);
}

#[test]
fn ids_may_be_one_greater_than_its_own() {
    let ids = Ids { count: 13, shift: 1 };
    agrees(&network(CONFIG, ids, LENGTH, WEIGHTS).unwrap(), 1.0);
}

/// The file with other names, and tensors of one number added.
fn renamed(name: impl Fn(&str) -> String, more: &[&str]) -> Vec<u8> {
    let file = SafeTensors::deserialize(WEIGHTS).unwrap();
    let one = 1f32.to_le_bytes();
    let new = |name: &&str| {
        let view = TensorView::new(safetensors::Dtype::F32, vec![1], &one).unwrap();
        (String::from(*name), view)
    };
    let tensors = file.iter().map(|(old, view)| (name(old), view));
    safetensors::serialize(tensors.chain(more.iter().map(new)), None).unwrap()
}

#[test]
fn files_of_models_with_heads_and_of_older_names_are_understood() {
    let old = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        let name = name.replace("LayerNorm.bias", "LayerNorm.beta");
        format!("bert.{name}")
    };
    let more = [
        "cls.predictions.bias",
        "classifier.weight",
        "bert.embeddings.position_ids",
    ];
    let weights = renamed(old, &more);
    agrees(&network(CONFIG, IDS, LENGTH, &weights).unwrap(), 0.0);
}

#[test]
fn what_is_no_such_encoder_is_refused_by_name() {
    let refused = |config: &str, weights: &[u8]| {
        let error = network(config, IDS, LENGTH, weights).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    };
    for (from, to, expected) in [
        (
            "\"model_type\": \"bert\"",
            "\"model_type\": \"roberta\"",
            "config.json: model_type is \"roberta\", expected \"bert\"",
        ),
        (
            "\"gelu\"",
            "\"relu\"",
            "config.json: hidden_act is \"relu\", expected \"gelu\"",
        ),
        (
            "1e-12",
            "1e-05",
            "config.json: layer_norm_eps is 1e-5, expected 1e-12",
        ),
        (
            "\"vocab_size\": 12",
            "\"vocab_size\": 13",
            "config.json: vocab_size is 13, expected 12, the tokens of its tokenizer",
        ),
        (
            "\"max_position_embeddings\": 10",
            "\"max_position_embeddings\": 7",
            "config.json: max_position_embeddings is 7, expected at least 8, the tokens of a sample (dataset.text.length)",
        ),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 3",
            "model.width is 8, expected a multiple of model.heads (3)",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "model.safetensors: weight encoder.layer.2.attention.self.query.weight is missing",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "model.safetensors: weight encoder.layer.1.attention.output.LayerNorm.bias is not part of this network",
        ),
        (
            "\"intermediate_size\": 12",
            "\"intermediate_size\": 16",
            "model.safetensors: weight encoder.layer.0.intermediate.dense.weight is [12, 8], expected [16, 8]",
        ),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        assert_eq!(refused(&CONFIG.replace(from, to), WEIGHTS), expected);
    }
    let message = refused("{}", WEIGHTS);
    assert!(
        message.starts_with("config.json is no configuration of a model: missing field"),
        "{message}"
    );
    let message = refused(CONFIG, b"PK");
    assert!(
        message.starts_with("model.safetensors: not a safetensors file"),
        "{message}"
    );
    let message = refused(
        CONFIG,
        &renamed(str::to_owned, &["encoder.layer.2.output.dense.bias"]),
    );
    assert!(
        message.contains("encoder.layer.2.output.dense.bias is not part"),
        "{message}"
    );
}
