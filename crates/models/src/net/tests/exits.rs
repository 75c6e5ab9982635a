//! Classifiers on the way, and the models that end there.

use super::*;
use crate::{Card, DatasetReference, Export};

const EXITS: [(&str, &[u32]); 5] = [
    (
        "architecture = 'cnn'\nwidth = 3\ndepth = 4\nexits = { at = [1, 3], feature_weight = 0.1 }",
        &[1, 3],
    ),
    (
        "architecture = 'resnet'\nwidth = 3\ndepth = 14\nexits = { at = [1, 2] }",
        &[1, 2],
    ),
    (
        "architecture = 'resnet'\nwidth = 4\nstages = 2\nexits = { at = [1] }",
        &[1],
    ),
    (
        "architecture = 'mobilenet'\nwidth = 2\ndepth = 4\nexits = { at = [1, 3], feature_weight = 0.1 }",
        &[1, 3],
    ),
    (
        "architecture = 'transformer'\nwidth = 8\nheads = 2\ndepth = 3\nexits = { at = [1, 2], feature_weight = 0.1 }",
        &[1, 2],
    ),
];

fn build(model: &str, input: [usize; 3]) -> Net {
    Net::new(&fixture(model, input, 5), 3, &Device::flex()).unwrap()
}

#[test]
fn exits_are_in_order_and_leave_the_rest_as_it_is() {
    for (model, at) in EXITS {
        let net = build(model, [1, 8, 8]);
        let inputs = random(net.spec(), 3, 1, &Device::flex());
        let outputs = net.forward_all(inputs.clone(), None, None).unwrap();
        assert_eq!(outputs.exits.len(), at.len(), "{model}");
        let hinted = model.contains("feature_weight");
        assert_eq!(outputs.hints.len(), if hinted { at.len() } else { 0 });
        for hint in &outputs.hints {
            assert_eq!(hint.dims(), outputs.pooled.dims(), "{model}");
        }
        let mut plain = net.spec().clone();
        plain.model.exits = None;
        let plain = Net::new(&plain, 3, &Device::flex()).unwrap();
        let logits = values(outputs.logits);
        assert_eq!(values(plain.forward(inputs.clone(), None)), logits, "{model}");
        assert_eq!(values(net.forward(inputs, None)), logits, "{model}");
        for exit in outputs.exits {
            assert_ne!(values(exit), logits, "{model}");
        }
    }
}

#[test]
fn masks_of_the_last_classifier_do_not_depend_on_exits() {
    let device = Device::flex();
    let model = "architecture = 'cnn'\nwidth = 3\ndropout = 0.5\nexits = { at = [1] }";
    let net = build(model, [1, 6, 6]);
    let inputs = random(net.spec(), 8, 1, &device);
    let all = net
        .forward_all(inputs.clone(), Some(&mut Rng::new(1)), None)
        .unwrap();
    let alone = net.forward(inputs.clone(), Some(&mut Rng::new(1)));
    assert_eq!(values(all.logits), values(alone));
    let quiet = net.forward_all(inputs, None, None).unwrap();
    assert_ne!(values(all.exits[0].clone()), values(quiet.exits[0].clone()));
}

#[test]
fn a_model_cut_at_an_exit_answers_exactly_like_the_exit() {
    let device = Device::flex();
    for (model, at) in EXITS {
        for input in [[1, 8, 8], [2, 7, 5], [1, 1, 40]] {
            let net = build(model, input);
            let inputs = random(net.spec(), 4, 1, &device);
            let outputs = net.forward_all(inputs.clone(), None, None).unwrap();
            for (&exit, expected) in at.iter().zip(outputs.exits) {
                let cut = net.cut(exit).unwrap();
                let logits = cut.forward(inputs.clone(), None);
                assert_eq!(values(logits), values(expected), "exit {exit} of {model}");
                assert!(cut.parameters() < net.parameters());
                assert!(cut.spec().flops() < net.spec().flops());
                assert!(cut.spec().model.exits.is_none());
                let layers = cut.layers();
                assert_eq!(layers, net.layers()[..layers.len()]);
            }
        }
    }
}

#[test]
fn exits_that_are_not_there_are_refused_by_name() {
    let refuse = |model: &str| build(model, [1, 8, 8]).cut(2).unwrap_err().to_string();
    assert_eq!(refuse(EXITS[0].0), "no exit 2: expected one of 1, 3");
    assert_eq!(
        refuse("architecture = 'cnn'\nwidth = 3"),
        "no exit 2: expected one of none, the model has no exits"
    );
}

#[test]
fn an_export_is_cut_with_its_card() {
    let device = Device::flex();
    let net = build(EXITS[0].0, [1, 8, 8]);
    let dataset = DatasetReference {
        name: "none".into(),
        digest: String::new(),
    };
    let mut card = Card::new("small", net.spec(), net.parameters(), dataset);
    card.metrics.insert("test_accuracy".into(), 0.9);
    let whole = Export::new(card, net.to_safetensors());
    let folder = tempfile::tempdir().unwrap();
    whole.cut(3).unwrap().save(folder.path()).unwrap();
    let mut cut = Classifier::load(folder.path(), &device).unwrap();
    let loaded = Export::load(folder.path()).unwrap();
    assert!(loaded.card.metrics.is_empty(), "they were the whole model's");
    assert_eq!(loaded.card.model.depth, Some(3));
    assert_eq!(loaded.card.dataset, whole.card.dataset);
    let inputs = random(net.spec(), 64, 1, &device);
    let exits = net.forward_all(inputs.clone(), None, None).unwrap().exits;
    let plain = inputs.try_into_vec_as::<f32>().unwrap();
    assert_eq!(cut.logits(&plain, 64).unwrap(), values(exits[1].clone()));
    assert!(whole.cut(2).is_err());
}
