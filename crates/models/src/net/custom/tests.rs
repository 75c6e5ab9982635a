use burn::nn::Linear;
use burn::tensor::activation::relu;
use retort_data::rng::Rng;
use serde::Deserialize;

use super::*;
use crate::net::fixture;
use crate::{Classifier, Net};

/// One hidden layer on each row of the image: rows are positions.
#[derive(Module, Debug)]
struct Rows {
    up: Linear,
    norm: burn::nn::LayerNorm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Width {
    width: usize,
    #[serde(default)]
    twist: bool,
}

impl Network for Rows {
    const NAME: &'static str = "rows";
    type Parameters = Width;

    fn output(&Width { width, twist }: &Width, input: &Input) -> Result<[usize; 2], String> {
        if !(1..=64).contains(&width) {
            return Err(format!("width = {width}: expected 1..=64"));
        }
        Ok(if twist {
            [input.shape.height, width]
        } else {
            [width, input.shape.height]
        })
    }

    fn new(&Width { width, .. }: &Width, input: &Input, init: &mut Init<'_>) -> Self {
        Self {
            up: init.linear(input.shape.channels * input.shape.width, width),
            norm: init.layer_norm(width),
        }
    }

    fn forward(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3> {
        let rows = inputs.swap_dims(1, 2).flatten::<3>(2, 3);
        let rows = relu(self.norm.forward(self.up.forward(rows)));
        dropout.apply(rows).swap_dims(1, 2)
    }
}

/// Weights of burn's own making, and two of one name.
#[derive(Module, Debug)]
struct Wrong {
    head: Inner,
    inner: Linear,
}

#[derive(Module, Debug)]
struct Inner {
    inner: Linear,
}

impl Network for Wrong {
    const NAME: &'static str = "wrong";
    type Parameters = Seeded;

    fn output(_: &Seeded, _: &Input) -> Result<[usize; 2], String> {
        Ok([2, 1])
    }

    fn new(&Seeded { seeded }: &Seeded, input: &Input, init: &mut Init<'_>) -> Self {
        let own = burn::nn::LinearConfig::new(2, 2).init(&Device::flex());
        Self {
            head: Inner {
                inner: init.linear(input.shape.len(), 2),
            },
            inner: if seeded { init.linear(2, 2) } else { own },
        }
    }

    fn forward(&self, inputs: Tensor<4>, _: &mut Dropout<'_>) -> Tensor<3> {
        let x = self.head.inner.forward(inputs.flatten::<2>(1, 3));
        self.inner.forward(x).unsqueeze_dim(2)
    }
}

#[derive(Deserialize)]
struct Seeded {
    seeded: bool,
}

fn spec(custom: &str) -> Spec {
    let model = format!("architecture = 'custom'\ndropout = 0.1\ncustom = {{ {custom} }}");
    fixture(&model, [1, 4, 3], 5)
}

fn net(custom: &str, seed: u64) -> Result<Net, SpecError> {
    register::<Rows>();
    register::<Wrong>();
    Net::new(&spec(custom), seed, &Device::flex().autodiff())
}

#[test]
fn it_is_a_network_like_any_other() {
    let first = net("name = 'rows', width = 6", 1).unwrap();
    let names: Vec<String> = first.layout().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "classifier.bias",
        "classifier.weight",
        "custom.norm.beta",
        "custom.norm.gamma",
        "custom.up.bias",
        "custom.up.weight",
    ];
    assert_eq!(names, expected);
    assert_eq!(first.parameters(), 3 * 6 + 6 + 2 * 6 + 6 * 5 + 5);
    assert_eq!(first.flat(), net("name = 'rows', width = 6", 1).unwrap().flat());
    let other = net("name = 'rows', width = 6", 2).unwrap();
    assert_ne!(first.flat(), other.flat());

    let mut rng = Rng::new(3);
    let inputs: Vec<f32> = (0..2 * 12).map(|_| rng.uniform_f32()).collect();
    let logits = |net: &Net| Classifier::from(net).logits(&inputs, 2).unwrap();
    let moved = other.clone().with_safetensors(&first.to_safetensors()).unwrap();
    assert_eq!(logits(&moved), logits(&first));
    assert_eq!(
        logits(&other.clone().with_flat(&first.flat()).unwrap()),
        logits(&first)
    );
    assert_ne!(logits(&other), logits(&first), "the original is as it was");

    let (layers, flops) = (first.layers(), first.spec().flops());
    assert_eq!((layers, flops), (vec![Layer::new("output", 6, 4)], None));
    let (again, features) = Classifier::from(&first).features(&inputs, 2, "output").unwrap();
    assert_eq!((again, features.len()), (logits(&first), 2 * 6 * 4));
}

#[test]
fn every_weight_has_a_gradient() {
    let net = net("name = 'rows', width = 6", 1).unwrap();
    let device = Device::flex().autodiff();
    let inputs = Tensor::<4>::ones([2, 1, 4, 3], &device) * 0.3;
    let pass = net.pass(inputs, Some(&mut Rng::new(1)), None).unwrap();
    let weights = Tensor::<2>::from_data([[1.0, -2.0, 3.0, -4.0, 5.0]], &device);
    let loss = (pass.outputs.logits.clone() * weights).sum();
    let gradients = pass.gradients(&loss, &net).unwrap();
    assert_eq!(gradients.len(), 6);
}

#[test]
fn what_is_wrong_is_said() {
    for (custom, part) in [
        (
            "name = 'columns'",
            "architecture \"columns\": unknown to this program, which brings rows",
        ),
        (
            "name = 'rows', width = 65",
            "architecture \"rows\": width = 65: expected 1..=64",
        ),
        ("name = 'rows'", "missing field `width`"),
        ("name = 'rows', width = 6, depth = 2", "unknown field `depth`"),
        (
            "name = 'rows', width = 6, twist = true",
            "gives [1, 6, 4] for one sample, and `output` says [1, 4, 6]",
        ),
        (
            "name = 'wrong', seeded = false",
            "weights that `Init` did not make",
        ),
        (
            "name = 'wrong', seeded = true",
            "two weights are called custom.inner.bias: rename a field",
        ),
    ] {
        let message = net(custom, 1).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let mut none = spec("name = 'rows', width = 6");
    none.model.custom = None;
    let message = none.validate().unwrap_err().to_string();
    assert!(message.contains("model.custom is (absent)"), "{message}");
}
