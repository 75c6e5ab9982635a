use std::path::Path;

use retort_data::Shape;
use serde::Deserialize;

use super::*;
use crate::{Choice, Classifier, Preprocessing, Spec};

/// Of the networks in this folder, which PyTorch made (`make_cases.py`).
#[derive(Deserialize)]
struct Case {
    shape: [usize; 3],
    inputs: Vec<f32>,
    logits: Vec<f32>,
}

fn case(name: &str) -> (Case, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pytorch");
    let cases = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let mut cases: BTreeMap<String, Case> = serde_json::from_str(&cases).unwrap();
    let weights = std::fs::read(folder.join(name).with_extension("safetensors")).unwrap();
    (cases.remove(name).unwrap(), weights)
}

fn net(model: &str, [channels, height, width]: [usize; 3]) -> Net {
    let spec = Spec {
        model: toml::from_str(model).unwrap(),
        input: Shape {
            channels,
            height,
            width,
        },
        classes: 10,
        preprocessing: Preprocessing::none(channels),
        tokens: None,
        rows: 1,
        projection: None,
    };
    Net::new(&spec, 1, &Choice::Flex.open().unwrap()).unwrap()
}

fn names(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|&(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
        .collect()
}

const MLP: &str = "architecture = 'mlp'\nhidden = [5, 4]";
const MLP_NAMES: [(&str, &str); 3] = [("hidden.0", "1"), ("hidden.1", "3"), ("classifier", "5")];

#[test]
fn logits_are_those_of_pytorch() {
    for (name, model, pairs) in [
        ("mlp", MLP, &MLP_NAMES[..]),
        (
            "cnn",
            "architecture = 'cnn'\nwidth = 3\ndepth = 2",
            &[
                ("convolutions.0", "0"),
                ("convolutions.1", "3"),
                ("classifier", "7"),
            ],
        ),
        (
            "resnet",
            "architecture = 'resnet'\nwidth = 8\ndepth = 8",
            &[
                ("stem", "0.0"),
                ("stem_norm", "0.1"),
                ("blocks.0.conv1", "2.first.0"),
                ("blocks.0.norm1", "2.first.1"),
                ("blocks.0.conv2", "2.second.0"),
                ("blocks.0.norm2", "2.second.1"),
                ("blocks.1.conv1", "3.first.0"),
                ("blocks.1.norm1", "3.first.1"),
                ("blocks.1.conv2", "3.second.0"),
                ("blocks.1.norm2", "3.second.1"),
                ("blocks.1.shortcut.conv", "3.shortcut.0"),
                ("blocks.1.shortcut.norm", "3.shortcut.1"),
                ("blocks.2.conv1", "4.first.0"),
                ("blocks.2.norm1", "4.first.1"),
                ("blocks.2.conv2", "4.second.0"),
                ("blocks.2.norm2", "4.second.1"),
                ("blocks.2.shortcut.conv", "4.shortcut.0"),
                ("blocks.2.shortcut.norm", "4.shortcut.1"),
                ("classifier", "7"),
            ],
        ),
        // All names are the same but those of the norms.
        (
            "transformer",
            "architecture = 'transformer'\nwidth = 6\ndepth = 1\nheads = 2",
            &[],
        ),
    ] {
        let (case, weights) = case(name);
        let net = net(model, case.shape);
        let net = net
            .with_pytorch(&weights, &names(pairs))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let samples = case.logits.len() / 10;
        let logits = Classifier::from(&net).logits(&case.inputs, samples).unwrap();
        for (ours, theirs) in logits.iter().zip(&case.logits) {
            assert!((ours - theirs).abs() < 1e-4, "{name}: {ours} {theirs}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let (case, weights) = case("mlp");
    let refused = |model: &str, pairs: &[(&str, &str)]| {
        let net = net(model, case.shape);
        net.with_pytorch(&weights, &names(pairs)).unwrap_err().to_string()
    };
    assert_eq!(
        refused(MLP, &MLP_NAMES[..2]),
        "classifier.bias of this network is not in the file: names says which part of it stands for which of ours, and \
         5.bias, 5.weight is left over"
    );
    assert_eq!(
        refused(MLP, &[("hidden.0", "1"), ("hidden.1", "2"), ("classifier", "5")]),
        "hidden.1.bias of this network is not in the file as 2.bias: names says which part of it stands for which of ours, \
         and 3.bias, 3.weight is left over"
    );
    let unknown = refused(MLP, &[("hiden", "1")]);
    assert!(
        unknown.contains("\"hiden\" is no part of this network, which has classifier.bias, "),
        "{unknown}"
    );
    let smaller = "architecture = 'mlp'\nhidden = [5, 3]";
    assert_eq!(
        refused(smaller, &MLP_NAMES),
        "weight 5.weight is [10, 4], expected [10, 3]"
    );
    let shorter = "architecture = 'mlp'\nhidden = [5]";
    let more = refused(shorter, &[("hidden.0", "1"), ("classifier", "5")]);
    assert_eq!(more, "weight 5.weight is [10, 4], expected [10, 5]");
    let net = net(shorter, case.shape);
    let torn = net.with_pytorch(&weights[..100], &BTreeMap::new()).unwrap_err();
    assert_eq!(torn.to_string(), "not a safetensors file");
}
