use burn::optim::{AdamConfig, GradientsParams};
use retort_data::{HeldOut, Shape, Tokens};
use retort_losses::{CrossEntropy, Labels};

use super::*;
use crate::{Classifier, WeightsError};

mod decoder;
mod exits;
mod layers;
mod mobilenet;
mod pass;
mod tokens;
mod transformer;

/// A specification from the model's TOML, for the tests of this crate.
pub(crate) fn fixture(model: &str, input: [usize; 3], classes: usize) -> Spec {
    let [channels, height, width] = input;
    Spec {
        model: toml::from_str(model).unwrap(),
        input: Shape {
            channels,
            height,
            width,
        },
        classes,
        preprocessing: Preprocessing::none(channels),
        tokens: None,
        rows: 1,
        projection: None,
    }
}

const MODELS: [&str; 12] = [
    "architecture = 'mlp'\nhidden = []",
    "architecture = 'mlp'\nhidden = [9, 7]\ndropout = 0.3",
    "architecture = 'cnn'\nwidth = 3\ndepth = 1",
    "architecture = 'cnn'\nwidth = 2\ndepth = 6\ndropout = 0.3",
    "architecture = 'resnet'\nwidth = 3\ndepth = 8",
    "architecture = 'resnet'\nwidth = 16\ndepth = 8",
    "architecture = 'resnet'\nwidth = 2\ndepth = 14\ndropout = 0.3",
    "architecture = 'transformer'\nwidth = 8",
    "architecture = 'transformer'\nwidth = 6\nheads = 3\ndepth = 1\ndropout = 0.3",
    "architecture = 'cnn'\nwidth = 3\nexits = { at = [1, 2], feature_weight = 0.1 }",
    "architecture = 'mobilenet'\nwidth = 3",
    "architecture = 'mobilenet'\nwidth = 2\ndepth = 13\ndropout = 0.3\nexits = { at = [4], feature_weight = 0.1 }",
];

/// A specification for texts of so many tokens, of 20 words and padding.
pub(crate) fn text_fixture(model: &str, length: usize, classes: usize) -> Spec {
    Spec {
        tokens: Some(Tokens::WordsHashed {
            ngrams: [1, 1],
            buckets: 20,
        }),
        ..fixture(model, [1, 1, length], classes)
    }
}

const TEXT_MODELS: [&str; 5] = [
    "architecture = 'embedding-bag'\nembedding = 5",
    "architecture = 'embedding-bag'\nembedding = 6\nhidden = [9, 7]\ndropout = 0.3",
    "architecture = 'transformer'\nwidth = 8",
    "architecture = 'transformer'\nwidth = 6\nheads = 3\ndepth = 3\nexits = { at = [1], feature_weight = 0.1 }",
    "architecture = 'bert'\nwidth = 6\nheads = 3\nhidden = [7]\ndropout = 0.3",
];

/// To which tokens are a signal of as many channels as a vector has numbers.
const SIGNALS: [&str; 2] = [
    "architecture = 'cnn'\nwidth = 3\ndepth = 2\nembedding = 4",
    "architecture = 'mlp'\nhidden = [5]\nembedding = 4",
];

/// Numbers from 0 to 1, or ids of tokens and padding.
pub(crate) fn random_values(spec: &Spec, samples: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let ids = spec.vocabulary() as f32;
    let value = |_| match spec.tokens {
        Some(_) => (rng.uniform_f32() * ids).floor(),
        None => rng.uniform_f32(),
    };
    (0..samples * spec.input_len()).map(value).collect()
}

fn random(spec: &Spec, samples: usize, seed: u64, device: &Device) -> Tensor<4> {
    let values = random_values(spec, samples, seed);
    let Shape {
        channels,
        height,
        width,
    } = spec.input;
    Tensor::from_data(
        TensorData::new(values, [samples, channels, height, width]),
        device,
    )
}

fn values(logits: Tensor<2>) -> Vec<f32> {
    logits.try_into_vec_as::<f32>().unwrap()
}

#[test]
fn every_architecture_takes_every_shape() {
    let device = Device::flex();
    for model in MODELS {
        for input in [[1, 8, 8], [1, 28, 28], [1, 1, 40], [3, 32, 32], [1, 1, 1]] {
            let spec = fixture(model, input, 10);
            let net = Net::new(&spec, 1, &device).unwrap();
            let logits = net.forward(random(&spec, 2, 1, &device), None);
            assert_eq!(logits.dims(), [2, 10], "{model} {input:?}");
            assert!(values(logits).iter().all(|z| z.is_finite()), "{model} {input:?}");
        }
    }
}

#[test]
fn initial_weights_are_a_function_of_the_seed() {
    for model in MODELS {
        let spec = fixture(model, [2, 5, 6], 4);
        let flat = |seed, device: &Device| Net::new(&spec, seed, device).unwrap().flat();
        let plain = flat(7, &Device::flex());
        assert_eq!(plain, flat(7, &Device::flex().autodiff()));
        assert_ne!(plain, flat(8, &Device::flex()));
    }
    let spec = fixture("architecture = 'mlp'\nhidden = []", [1, 1, 4], 1);
    let bits: Vec<u32> = Net::new(&spec, 7, &Device::flex())
        .unwrap()
        .flat()
        .iter()
        .map(|w| w.to_bits())
        .collect();
    assert_eq!(
        bits, PINNED,
        "runs are reproducible across releases only if these stay"
    );
}

/// The same for the other architectures, by hash.
#[test]
fn initial_weights_of_every_architecture_stay() {
    let hash = |spec: &Spec| {
        let net = Net::new(spec, 7, &Device::flex()).unwrap();
        blake3::hash(&net.to_safetensors()).to_hex()
    };
    for (model, expected) in [
        ("architecture = 'mlp'\nhidden = [5]", "402cd87f61623428"),
        ("architecture = 'cnn'\nwidth = 2", "da350eaed4133d69"),
        (
            "architecture = 'resnet'\nwidth = 2\ndepth = 14",
            "b037a96a79672daa",
        ),
        (
            "architecture = 'mobilenet'\nwidth = 2\ndepth = 3",
            "b68ea14f5cacbcb7",
        ),
        ("architecture = 'transformer'\nwidth = 4", "4900b31885ce2094"),
    ] {
        let spec = fixture(model, [2, 5, 6], 3);
        assert_eq!(&hash(&spec)[..16], expected, "{model}");
    }
}

const PINNED: [u32; 5] = [
    3_199_832_640,
    3_197_371_520,
    1_038_051_896,
    1_053_254_008,
    1_049_073_556,
];

#[test]
fn layers_have_the_customary_initial_range() {
    let spec = fixture("architecture = 'mlp'\nhidden = []", [1, 10, 10], 50);
    let flat = Net::new(&spec, 1, &Device::flex()).unwrap().flat();
    let variance = flat.iter().map(|w| w * w).sum::<f32>() / flat.len() as f32;
    assert!(flat.iter().all(|w| w.abs() <= 0.1));
    assert!((variance * 300.0 - 1.0).abs() < 0.05, "{variance}");
}

#[test]
fn weights_round_trip_flat_and_as_safetensors() {
    let of_numbers = MODELS.map(|model| fixture(model, [1, 4, 6], 3));
    let of_tokens = TEXT_MODELS.map(|model| text_fixture(model, 7, 3));
    for spec in of_numbers.into_iter().chain(of_tokens) {
        let device = Device::flex();
        let net = Net::new(&spec, 1, &device).unwrap();
        let flat = net.flat();
        assert_eq!(flat.len(), net.parameters());
        let names: Vec<String> = net.layout().into_iter().map(|(name, _)| name).collect();
        assert!(
            names.is_sorted() && names.contains(&"classifier.weight".into()),
            "{names:?}"
        );
        let bytes = net.to_safetensors();
        let other = || Net::new(&spec, 2, &device.clone().autodiff()).unwrap();
        let loaded = other().with_safetensors(&bytes).unwrap();
        assert_eq!(loaded.flat(), flat);
        assert_eq!(loaded.to_safetensors(), bytes);
        assert_eq!(other().with_flat(&flat).unwrap().flat(), flat);
        let inputs = random(&spec, 3, 2, &device);
        let expected = values(net.forward(inputs.clone(), None));
        assert_eq!(values(loaded.valid().forward(inputs, None)), expected);
    }
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let device = Device::flex();
    let build = |model, classes| Net::new(&fixture(model, [1, 2, 2], classes), 1, &device).unwrap();
    let small = build("architecture = 'mlp'\nhidden = [3]", 2);
    let refuse = |other: Net| {
        small
            .clone()
            .with_safetensors(&other.to_safetensors())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse(build("architecture = 'mlp'\nhidden = [3]", 4)),
        "weight classifier.bias is [4], expected [2]"
    );
    assert_eq!(
        refuse(build("architecture = 'mlp'\nhidden = []", 2)),
        "weight classifier.weight is [4, 2], expected [3, 2]"
    );
    assert_eq!(
        refuse(build("architecture = 'mlp'\nhidden = [3, 3]", 2)),
        "weight hidden.1.bias is not part of this network"
    );
    assert_eq!(
        refuse(build("architecture = 'cnn'\nwidth = 3\ndepth = 1", 2)),
        "weight hidden.0.bias is missing"
    );
    assert!(matches!(
        small.clone().with_safetensors(b"no"),
        Err(WeightsError::Format(_))
    ));
    assert_eq!(
        small.with_flat(&[0.0]).unwrap_err().to_string(),
        "1 weights, expected 23"
    );
}

#[test]
fn a_spec_that_cannot_be_built_says_why() {
    let sound = fixture("architecture = 'mlp'\nhidden = [3]", [1, 2, 2], 2);
    let refuse = |change: &dyn Fn(&mut Spec)| {
        let mut spec = sound.clone();
        change(&mut spec);
        Net::new(&spec, 1, &Device::flex()).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(&|s| s.model.hidden = Some(vec![0])),
        "model.hidden.0 is 0, expected 1..=65536 units"
    );
    assert_eq!(
        refuse(&|s| s.input.width = 0),
        "an input of 1 x 2 x 0 holds nothing"
    );
    assert_eq!(refuse(&|s| s.classes = 0), "a classifier needs at least 1 class");
    assert_eq!(
        refuse(&|s| s.preprocessing.mean = vec![]),
        "preprocessing has 0 means and 1 deviations for 1 channels"
    );
    assert!(refuse(&|s| s.preprocessing.std = vec![0.0]).contains("greater than 0"));
}

#[test]
fn preprocessing_comes_first() {
    let device = Device::flex();
    let plain = fixture("architecture = 'cnn'\nwidth = 2", [2, 4, 4], 3);
    let mut scaled = plain.clone();
    scaled.preprocessing = Preprocessing {
        mean: vec![0.5, -1.0],
        std: vec![2.0, 4.0],
    };
    let raw = random(&plain, 2, 3, &device);
    let by_channel = |v: [f32; 2]| Tensor::<1>::from_floats(v, &device).reshape([1, 2, 1, 1]);
    let prepared = (raw.clone() - by_channel([0.5, -1.0])) / by_channel([2.0, 4.0]);
    let net = |spec: &Spec| Net::new(spec, 1, &device).unwrap();
    assert_eq!(
        values(net(&scaled).forward(raw, None)),
        values(net(&plain).forward(prepared, None))
    );
}

#[test]
fn dropout_is_a_function_of_its_generator_and_only_there_in_training() {
    let device = Device::flex().autodiff();
    let of_numbers = [1, 3, 6, 8].map(|i| fixture(MODELS[i], [1, 4, 4], 5));
    for spec in of_numbers.into_iter().chain([text_fixture(TEXT_MODELS[1], 7, 5)]) {
        let model = &spec.model;
        let net = Net::new(&spec, 1, &device).unwrap();
        let inputs = random(&spec, 8, 4, &device);
        let noisy = |seed| values(net.forward(inputs.clone(), Some(&mut Rng::new(seed))));
        let quiet = values(net.forward(inputs.clone(), None));
        assert_eq!(noisy(1), noisy(1));
        assert_ne!(noisy(1), noisy(2));
        assert_ne!(noisy(1), quiet);
        // Only without autodiff are softmax and layer norm one operation each, which rounds differently.
        let valid = values(net.valid().forward(inputs.clone().without_autodiff(), None));
        for (quiet, valid) in quiet.iter().zip(valid) {
            assert!((quiet - valid).abs() < 1e-5, "{model:?}: {quiet} {valid}");
        }
    }
}

#[test]
fn every_architecture_can_learn() {
    let device = Device::flex().autodiff();
    let of_numbers = [
        "architecture = 'mlp'\nhidden = [16]",
        "architecture = 'cnn'\nwidth = 4",
        "architecture = 'resnet'\nwidth = 4",
        "architecture = 'mobilenet'\nwidth = 4\ndepth = 3",
        "architecture = 'transformer'\nwidth = 8",
    ];
    let of_numbers = of_numbers.map(|model| fixture(model, [1, 6, 6], 3));
    let of_tokens = [0, 1, 2].map(|i| text_fixture(TEXT_MODELS[i], 7, 3));
    for spec in of_numbers.into_iter().chain(of_tokens) {
        let mut net = Net::new(&spec, 1, &device).unwrap();
        let mut optimizer = AdamConfig::new().init();
        let inputs = random(&spec, 12, 9, &device);
        let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
        let targets: Vec<Option<u32>> = labels.iter().copied().map(Some).collect();
        let targets = Labels::new(&targets, &device);
        let plain = inputs.clone().try_into_vec_as::<f32>().unwrap();
        let held_out = HeldOut::new(plain, labels);
        let evaluate = |net: &Net| Classifier::from(net).evaluate(&held_out).unwrap();
        let before = evaluate(&net);
        for _ in 0..150 {
            let loss = CrossEntropy.forward(net.forward(inputs.clone(), None), &targets);
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = optimizer.step(0.02, net, grads);
        }
        let after = evaluate(&net);
        let model = &spec.model;
        assert!(after.loss < 0.3 * before.loss, "{model:?}: {before:?} {after:?}");
    }
}
