//! Networks of tokens: values by hand, and nothing of padding in them.

use std::collections::BTreeMap;

use burn::optim::SgdConfig;

use super::*;
use crate::{Card, DatasetReference};

fn inputs(ids: &[&[f32]], device: &Device) -> Tensor<4> {
    let length = ids[0].len();
    let data = TensorData::new(ids.concat(), [ids.len(), 1, 1, length]);
    Tensor::from_data(data, device)
}

fn named(net: &Net) -> BTreeMap<String, Vec<f32>> {
    let flat = net.flat();
    let mut rest = flat.into_iter();
    let of = |(name, shape): (String, Vec<usize>)| {
        let values = rest.by_ref().take(shape.iter().product()).collect();
        (name, values)
    };
    net.layout().into_iter().map(of).collect()
}

fn with_named(net: Net, weights: BTreeMap<String, Vec<f32>>) -> Net {
    let flat: Vec<f32> = weights.into_values().flatten().collect();
    net.with_flat(&flat).unwrap()
}

/// Ids 0..=3 of two numbers each, two classes.
fn small(device: &Device) -> Net {
    let spec = Spec {
        tokens: Some(Tokens::WordsHashed {
            ngrams: [1, 1],
            buckets: 3,
        }),
        ..fixture("architecture = 'embedding-bag'\nembedding = 2", [1, 1, 4], 2)
    };
    let net = Net::new(&spec, 1, device).unwrap();
    let names: Vec<String> = named(&net).into_keys().collect();
    assert_eq!(
        names,
        ["classifier.bias", "classifier.weight", "embedding.weight"]
    );
    net.with_flat(&[
        0.5, -0.5, //
        1.0, 2.0, 3.0, 4.0, //
        9.0, 9.0, 1.0, 0.0, 0.0, 2.0, 7.0, 7.0,
    ])
    .unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], within: f32) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= within, "{found:?} {expected:?}");
    }
}

#[test]
fn a_bag_is_the_mean_of_its_tokens() {
    let device = Device::flex();
    let net = small(&device);
    // The mean of (1, 0), (0, 2) and (0, 2); nothing; (7, 7), also for an id that nobody has.
    let batch: [&[f32]; 4] = [
        &[1.0, 2.0, 2.0, 0.0],
        &[0.0; 4],
        &[3.0, 0.0, 0.0, 0.0],
        &[3.0, 4.0, 1e9, 70_000.0],
    ];
    let logits = values(net.forward(inputs(&batch, &device), None));
    let expected = [
        1.0 / 3.0 + 4.0 + 0.5,
        2.0 / 3.0 + 16.0 / 3.0 - 0.5,
        0.5,
        -0.5,
        28.5,
        41.5,
        28.5,
        41.5,
    ];
    assert_close(&logits, &expected, 1e-5);
    assert_eq!(net.spec().flops(), Some(2 * (4 * 2 + 2 * 2)));
}

#[test]
fn gradients_reach_the_vectors_of_tokens_that_are_there() {
    let device = Device::flex().autodiff();
    let net = small(&device);
    let before = named(&net);
    let batch: [&[f32]; 2] = [&[1.0, 2.0, 2.0, 0.0], &[0.0, 0.0, 0.0, 2.0]];
    // The first logit of both samples: by a vector's number it is the classifier's weight, (1, 3), times its share.
    let loss = net.forward(inputs(&batch, &device), None).narrow(1, 0, 1).sum();
    let grads = GradientsParams::from_grads(loss.backward(), &net);
    let after = named(&SgdConfig::new().init().step(1.0, net, grads));
    let gradient: Vec<f32> = before["embedding.weight"]
        .iter()
        .zip(&after["embedding.weight"])
        .map(|(before, after)| before - after)
        .collect();
    let (third, two) = (1.0 / 3.0, 2.0 / 3.0 + 1.0);
    assert_close(&gradient, &[0.0, 0.0, third, 1.0, two, 3.0 * two, 0.0, 0.0], 1e-5);
}

#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    for model in TEXT_MODELS.into_iter().chain(SIGNALS) {
        let spec = text_fixture(model, 6, 3);
        let net = Net::new(&spec, 1, &device).unwrap();
        let batch: [&[f32]; 3] = [
            &[4.0, 9.0, 20.0, 0.0, 0.0, 0.0],
            &[0.0; 6],
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        ];
        let outputs = |net: &Net| {
            let all = net.forward_all(inputs(&batch, &device), None, None).unwrap();
            let all = std::iter::once(all.logits).chain(all.exits).flat_map(values);
            all.collect::<Vec<f32>>()
        };
        let plain = outputs(&net);
        assert!(plain.iter().all(|z| z.is_finite()), "{model}");
        // Another vector of padding.
        let mut weights = named(&net);
        let width = weights["embedding.weight"].len() / 21;
        weights.get_mut("embedding.weight").unwrap()[..width].fill(5.0);
        let changed = outputs(&with_named(net.clone(), weights));
        let samples = [0, 2].map(|sample| sample * 3..(sample + 1) * 3);
        for sample in samples {
            assert_eq!(changed[sample.clone()], plain[sample], "{model}");
        }
        if SIGNALS.contains(&model) {
            continue; // to which the end of a text is one like the border of an image
        }
        // Room for fewer tokens.
        let short = Net::new(&text_fixture(model, 3, 3), 2, &device).unwrap();
        let mut weights = named(&net);
        if let Some(positions) = weights.get_mut("positions") {
            positions.truncate(3 * width);
        }
        let short = with_named(short, weights);
        let logits = values(short.forward(inputs(&[&[4.0, 9.0, 20.0]], &device), None));
        assert_close(&logits, &plain[..3], 1e-5);
    }
}

#[test]
fn the_place_of_a_token_matters_to_a_transformer_only() {
    let device = Device::flex();
    for (model, matters) in [(TEXT_MODELS[0], false), (TEXT_MODELS[2], true)] {
        let net = Net::new(&text_fixture(model, 4, 3), 1, &device).unwrap();
        let of = |ids: &[f32]| values(net.forward(inputs(&[ids], &device), None));
        let (a, b) = (of(&[1.0, 2.0, 3.0, 0.0]), of(&[3.0, 0.0, 1.0, 2.0]));
        let far = a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 1e-4);
        assert_eq!(far, matters, "{model}: {a:?} {b:?}");
    }
}

#[test]
fn layers_put_out_what_they_are_said_to_and_nothing_for_padding() {
    let device = Device::flex();
    for model in TEXT_MODELS {
        let spec = text_fixture(model, 5, 3);
        let net = Net::new(&spec, 1, &device).unwrap();
        let batch = inputs(&[&[4.0, 9.0, 0.0, 0.0, 0.0]], &device);
        for layer in net.layers() {
            let outputs = net.forward_all(batch.clone(), None, Some(&layer.name)).unwrap();
            let features = outputs.features.unwrap();
            assert_eq!(features.dims(), [1, layer.channels, layer.positions], "{model}");
            if layer.positions == 5 {
                let padding = features.narrow(2, 2, 3).try_into_vec_as::<f32>().unwrap();
                assert!(padding.iter().all(|&value| value == 0.0), "{model}");
            }
        }
    }
    let names = |model| {
        text_fixture(model, 5, 3)
            .layers()
            .into_iter()
            .map(|layer| layer.name)
    };
    assert_eq!(
        names(TEXT_MODELS[1]).collect::<Vec<_>>(),
        ["mean", "hidden1", "hidden2"]
    );
}

#[test]
fn architectures_take_the_inputs_that_they_are_for() {
    let refused = |spec: &Spec| Net::new(spec, 1, &Device::flex()).unwrap_err().to_string();
    assert_eq!(
        refused(&text_fixture("architecture = 'cnn'\nwidth = 2", 6, 3)),
        "model.architecture is cnn, expected an embedding for inputs that are tokens"
    );
    assert_eq!(
        refused(&fixture(
            "architecture = 'cnn'\nwidth = 2\nembedding = 2",
            [1, 8, 8],
            3
        )),
        "model.architecture is cnn, expected no embedding for inputs that are numbers"
    );
    assert_eq!(
        refused(&fixture(TEXT_MODELS[0], [1, 8, 8], 3)),
        "model.architecture is embedding-bag, expected mlp, cnn, resnet, mobilenet or transformer for inputs that are numbers"
    );
    let mut scaled = text_fixture(TEXT_MODELS[0], 6, 3);
    scaled.preprocessing.std = vec![2.0];
    assert_eq!(
        refused(&scaled),
        "inputs that are tokens have a shape of 1x1xL and no preprocessing, found 1x1x6"
    );
}

#[test]
fn a_card_says_how_texts_become_tokens() {
    let spec = text_fixture(TEXT_MODELS[0], 6, 3);
    let dataset = DatasetReference {
        name: "text".into(),
        digest: "00".into(),
    };
    let card = Card::new("small", &spec, 123, dataset);
    let json = serde_json::to_value(&card).unwrap();
    let expected = serde_json::json!({ "kind": "words-hashed", "ngrams": [1, 1], "buckets": 20 });
    assert_eq!(json["tokens"], expected);
    let read: Card = serde_json::from_value(json).unwrap();
    assert_eq!(read.spec(), spec);
}

#[test]
fn a_specification_follows_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..9).map(|i| format!("text {i},{}\n", i % 3)).collect();
    for name in ["train.csv", "test.csv"] {
        std::fs::write(folder.path().join(name), format!("text,label\n{lines}")).unwrap();
    }
    let load = |config: &str| {
        let config = toml::from_str(config).unwrap();
        retort_data::load(&config, folder.path(), 1).unwrap()
    };
    let texts = load("format = 'text'\npath = '.'\ntext = { length = 6, tokens = { kind = 'bytes' } }");
    let spec = Spec::of(&texts, toml::from_str(TEXT_MODELS[0]).unwrap());
    assert_eq!((spec.input.to_string().as_str(), spec.classes), ("1x1x6", 3));
    assert_eq!(
        (&spec.preprocessing, spec.vocabulary()),
        (&Preprocessing::none(1), 257)
    );
    spec.validate().unwrap();
    let digits = load("name = 'digits'");
    let spec = Spec::of(&digits, toml::from_str(MODELS[0]).unwrap());
    assert_eq!(spec.tokens, None);
    assert_eq!(
        (spec.preprocessing.mean, spec.preprocessing.std),
        digits.pixel_stats()
    );
}
