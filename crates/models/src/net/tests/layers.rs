//! Layers by name: descriptions against what runs, taps, projections, costs by hand.

use super::*;
use crate::{Export, Projection};

fn tapped(net: &Net, inputs: &Tensor<4>, layer: &str) -> Tensor<3> {
    let outputs = net.forward_all(inputs.clone(), None, Some(layer)).unwrap();
    outputs.features.unwrap()
}

#[test]
fn every_layer_puts_out_what_it_is_said_to() {
    let device = Device::flex();
    for model in MODELS {
        for input in [[1, 8, 8], [3, 7, 5], [2, 1, 40], [1, 6, 1], [1, 1, 1]] {
            let spec = fixture(model, input, 3);
            let net = Net::new(&spec, 1, &device).unwrap();
            let inputs = random(&spec, 2, 1, &device);
            let plain = values(net.forward(inputs.clone(), None));
            for layer in net.layers() {
                let name = &layer.name;
                let outputs = net.forward_all(inputs.clone(), None, Some(name)).unwrap();
                let dims = outputs.features.unwrap().dims();
                let expected = [2, layer.channels, layer.positions];
                assert_eq!(dims, expected, "{name} of {model} {input:?}");
                assert_eq!(values(outputs.logits), plain, "a tap changes nothing");
            }
        }
    }
}

#[test]
fn layers_are_called_by_architecture_and_number() {
    let names = |model: &str| -> Vec<String> {
        let layers = fixture(model, [1, 8, 8], 3).layers();
        layers.into_iter().map(|layer| layer.name).collect()
    };
    assert_eq!(names(MODELS[0]), [""; 0]);
    assert_eq!(names(MODELS[1]), ["hidden1", "hidden2"]);
    assert_eq!(
        names("architecture = 'cnn'\nwidth = 2"),
        ["conv1", "conv2", "conv3"]
    );
    assert_eq!(names(MODELS[4]), ["stem", "stage1", "stage2", "stage3"]);
    assert_eq!(names(MODELS[7]), ["block1", "block2"]);
    assert_eq!(
        names("architecture = 'mobilenet'\nwidth = 2\ndepth = 2"),
        ["stem", "block1", "block2"]
    );

    let device = Device::flex();
    let spec = fixture("architecture = 'cnn'\nwidth = 2\ndepth = 2", [1, 4, 4], 3);
    let net = Net::new(&spec, 1, &device).unwrap();
    let refuse = |net: &Net| {
        let inputs = random(net.spec(), 1, 1, &device);
        net.forward_all(inputs, None, Some("conv3"))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refuse(&net), "no layer \"conv3\": expected one of conv1, conv2");
    let linear = Net::new(&fixture(MODELS[0], [1, 4, 4], 3), 1, &device).unwrap();
    assert!(refuse(&linear).ends_with("none, the model has no layers before its classifier"));
}

#[test]
fn the_last_layer_is_what_the_classifier_sees() {
    let device = Device::flex();
    for model in ["architecture = 'cnn'\nwidth = 3", MODELS[1], MODELS[4]] {
        let spec = fixture(model, [1, 6, 6], 3);
        let net = Net::new(&spec, 1, &device).unwrap();
        let inputs = random(&spec, 4, 1, &device);
        let last = net.layers().pop().unwrap();
        let outputs = net.forward_all(inputs, None, Some(&last.name)).unwrap();
        let pooled = outputs.features.unwrap().mean_dim(2).squeeze_dim::<2>(2);
        assert_eq!(values(pooled.clone()), values(outputs.pooled));
        assert_eq!(
            values(net.head.classifier.forward(pooled)),
            values(outputs.logits)
        );
    }
}

#[test]
fn features_of_a_classifier_do_not_depend_on_the_company() {
    let device = Device::flex();
    for (model, layer) in [
        (MODELS[1], "hidden2"),
        (MODELS[4], "stage2"),
        (MODELS[7], "block1"),
    ] {
        let spec = fixture(model, [1, 6, 6], 3);
        let net = Net::new(&spec, 1, &device).unwrap();
        let mut classifier = Classifier::from(&net);
        let inputs = random(&spec, 70, 2, &device).try_into_vec_as::<f32>().unwrap();
        let (logits, features) = classifier.features(&inputs, 70, layer).unwrap();
        assert_eq!(logits, classifier.logits(&inputs, 70).unwrap(), "{layer}");
        let (_, described) = spec.layer(layer).unwrap();
        let row = described.channels * described.positions;
        assert_eq!(features.len(), 70 * row);
        for sample in [0, 65] {
            let input = &inputs[sample * 36..(sample + 1) * 36];
            let (_, alone) = classifier.features(input, 1, layer).unwrap();
            assert_eq!(alone, features[sample * row..(sample + 1) * row], "{layer}");
        }
        let error = classifier.features(&inputs, 69, layer).unwrap_err().to_string();
        assert_eq!(error, "inputs: 2520 values, expected 2484");
        let error = classifier.features(&inputs, 70, "conv1").unwrap_err().to_string();
        assert!(
            error.starts_with("no layer \"conv1\": expected one of"),
            "{error}"
        );
    }
}

fn projected(channels: usize) -> Spec {
    Spec {
        projection: Some(Projection {
            layer: "conv1".into(),
            channels,
        }),
        ..fixture("architecture = 'cnn'\nwidth = 2\ndepth = 2", [1, 4, 4], 3)
    }
}

#[test]
fn a_projection_maps_channels_and_nothing_else() {
    let device = Device::flex();
    let net = Net::new(&projected(5), 1, &device).unwrap();
    let plain = net.clone().without_projection();
    let inputs = random(net.spec(), 2, 1, &device);
    let (mapped, raw) = (tapped(&net, &inputs, "conv1"), tapped(&plain, &inputs, "conv1"));
    assert_eq!((mapped.dims(), raw.dims()), ([2, 5, 16], [2, 2, 16]));
    let (mapped, raw) = (
        mapped.try_into_vec_as::<f32>().unwrap(),
        raw.try_into_vec_as::<f32>().unwrap(),
    );
    // Sorted by name, its bias and its weight [2, 5] are the last of the flat vector.
    let flat = net.flat();
    let (weight, bias) = (&flat[flat.len() - 10..], &flat[flat.len() - 15..flat.len() - 10]);
    for (sample, channel, position) in [(0, 0, 0), (1, 4, 15), (1, 2, 7)] {
        let at = |c: usize, channels: usize| (sample * channels + c) * 16 + position;
        let expected = raw[at(0, 2)] * weight[channel] + raw[at(1, 2)] * weight[5 + channel] + bias[channel];
        assert!((mapped[at(channel, 5)] - expected).abs() < 1e-6);
    }
    let other = |net: &Net| tapped(net, &inputs, "conv2").try_into_vec_as::<f32>().unwrap();
    assert_eq!(other(&net), other(&plain));
    assert_eq!(
        values(net.forward(inputs.clone(), None)),
        values(plain.forward(inputs.clone(), None))
    );
}

#[test]
fn a_projection_is_trained_and_kept_but_no_part_of_the_model() {
    let device = Device::flex();
    let net = Net::new(&projected(5), 1, &device).unwrap();
    let plain = Net::new(&net.clone().without_projection().spec, 1, &device).unwrap();
    assert_eq!(plain.flat(), net.clone().without_projection().flat());
    assert_eq!(net.parameters(), plain.parameters() + 15);
    let names: Vec<String> = net.layout().into_iter().map(|(name, _)| name).collect();
    assert!(names.ends_with(&["projection.bias".into(), "projection.weight".into()]));

    let bytes = net.to_safetensors();
    let loaded = plain.clone().with_safetensors(&bytes).unwrap();
    assert_eq!(loaded.to_safetensors(), plain.to_safetensors());
    let refused = net.clone().with_safetensors(&plain.to_safetensors()).unwrap_err();
    assert_eq!(refused.to_string(), "weight projection.bias is missing");
    let narrow = Net::new(&projected(4), 1, &device).unwrap();
    let refused = narrow.with_safetensors(&bytes).unwrap_err().to_string();
    assert_eq!(refused, "weight projection.bias is [5], expected [4]");

    let dataset = crate::DatasetReference {
        name: "none".into(),
        digest: String::new(),
    };
    let card = crate::Card::new("small", net.spec(), net.parameters(), dataset);
    let export = Export::new(card, bytes).without_projection().unwrap();
    assert_eq!(export.card.parameters, plain.parameters());
    assert_eq!(export.weights, plain.to_safetensors());
    assert_eq!(export.card.spec(), plain.spec);
    assert_eq!(export.clone().without_projection().unwrap(), export);
}

#[test]
fn a_projection_that_cannot_be_says_why() {
    let refuse = |spec: &Spec| Net::new(spec, 1, &Device::flex()).unwrap_err().to_string();
    assert_eq!(
        refuse(&projected(0)),
        "a projection of layer \"conv1\" needs at least 1 channel"
    );
    let mut spec = projected(1);
    spec.projection.as_mut().unwrap().layer = "block1".into();
    assert_eq!(refuse(&spec), "no layer \"block1\": expected one of conv1, conv2");
}

#[test]
fn operations_by_hand() {
    let flops = |model: &str, input| fixture(model, input, 3).flops().unwrap();
    assert_eq!(flops("architecture = 'mlp'\nhidden = []", [1, 2, 2]), 2 * 4 * 3);
    assert_eq!(
        flops("architecture = 'mlp'\nhidden = [5, 7]", [1, 2, 2]),
        2 * (4 * 5 + 5 * 7 + 7 * 3)
    );
    // 3 x 3 on 5 x 4 from 2 to 3 channels, then on 2 x 2 to 6.
    let cnn = "architecture = 'cnn'\nwidth = 3\ndepth = 2";
    assert_eq!(
        flops(cnn, [2, 5, 4]),
        2 * (9 * 2 * 3 * 20 + 9 * 3 * 6 * 4 + 6 * 3)
    );
    // A signal: kernels of 3, and no pooling across it.
    assert_eq!(flops(cnn, [1, 1, 9]), 2 * (3 * 3 * 9 + 3 * 3 * 6 * 4 + 6 * 3));
    // Stem and a block of 2 channels on 5 x 4, blocks of 4 on 3 x 2 and of 8 on 2 x 1, both with shortcuts.
    let stages = [
        9 * 2 * 20 + 2 * 9 * 2 * 2 * 20,
        (9 * 2 * 4 + 9 * 4 * 4 + 2 * 4) * 6,
        (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) * 2,
    ];
    assert_eq!(
        flops("architecture = 'resnet'\nwidth = 2", [1, 5, 4]),
        2 * (stages.iter().sum::<u64>() + 8 * 3)
    );
    assert_eq!(
        flops("architecture = 'resnet'\nwidth = 2\nstages = 2", [1, 5, 4]),
        2 * (stages[0] + stages[1] + 4 * 3)
    );
    // Stem of 2 channels on 5 x 4; each with itself and then to 4 on 5 x 4, to 8 and to 8 on 3 x 2.
    let mobilenet = "architecture = 'mobilenet'\nwidth = 2\ndepth = 3";
    let blocks = [(9 * 2 + 2 * 4) * 20, (9 * 4 + 4 * 8) * 6, (9 * 8 + 8 * 8) * 6];
    assert_eq!(
        flops(mobilenet, [1, 5, 4]),
        2 * (9 * 2 * 20 + blocks.iter().sum::<u64>() + 8 * 3)
    );
    // A large signal: its stem halves it, the second block once more.
    let blocks = [(3 * 2 + 2 * 4) * 32, (3 * 4 + 4 * 8) * 16, (3 * 8 + 8 * 8) * 16];
    assert_eq!(
        flops(mobilenet, [1, 1, 64]),
        2 * (3 * 2 * 32 + blocks.iter().sum::<u64>() + 8 * 3)
    );
    // 5 tokens of 2 x 4 numbers; one block of width 6 with 2 heads of 3.
    let attention = 2 * (2 * 5 * 5 * 3);
    let block = 5 * 6 * 18 + attention + 5 * 6 * 6 + 5 * (6 * 24 + 24 * 6);
    assert_eq!(
        flops(
            "architecture = 'transformer'\nwidth = 6\nheads = 2\ndepth = 1",
            [2, 5, 4]
        ),
        2 * (5 * 8 * 6 + block + 6 * 3)
    );
}

#[test]
fn exits_cost_an_ordinary_forward_pass_nothing() {
    let with = fixture(
        "architecture = 'cnn'\nwidth = 2\nexits = { at = [1] }",
        [1, 8, 8],
        3,
    );
    let without = fixture("architecture = 'cnn'\nwidth = 2", [1, 8, 8], 3);
    assert_eq!(with.flops(), without.flops());
}
