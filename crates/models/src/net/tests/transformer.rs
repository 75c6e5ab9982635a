//! The encoder against a slow one in `f64`.

use std::collections::BTreeMap;

use super::*;

const MODEL: &str = "architecture = 'transformer'\nwidth = 6\nheads = 2\ndepth = 2";

/// Rows of numbers.
type Matrix = Vec<Vec<f64>>;

/// The same network in `f64`, one sample at a time.
struct Reference {
    weights: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    heads: usize,
    depth: usize,
}

impl Reference {
    fn new(net: &Net) -> Self {
        let flat = net.flat();
        let mut rest = flat.iter().map(|&w| f64::from(w));
        let weights = net.layout().into_iter().map(|(name, shape)| {
            let values = rest.by_ref().take(shape.iter().product()).collect();
            (name, (shape, values))
        });
        Self {
            weights: weights.collect(),
            heads: net.spec().model.heads() as usize,
            depth: net.spec().model.depth() as usize,
        }
    }

    fn weight(&self, name: String) -> &[f64] {
        &self.weights[&name].1
    }

    /// `weight` is `[inputs, outputs]`; queries, keys and values have no bias.
    fn linear(&self, name: &str, x: &Matrix) -> Matrix {
        let (shape, weight) = &self.weights[&format!("{name}.weight")];
        let bias = self.weights.get(&format!("{name}.bias"));
        let cell = |row: &Vec<f64>, o: usize| {
            let products = row.iter().enumerate().map(|(i, v)| v * weight[i * shape[1] + o]);
            products.sum::<f64>() + bias.map_or(0.0, |(_, bias)| bias[o])
        };
        x.iter()
            .map(|row| (0..shape[1]).map(|o| cell(row, o)).collect())
            .collect()
    }

    fn norm(&self, name: &str, x: &Matrix) -> Matrix {
        let (gamma, beta) = (
            self.weight(format!("{name}.gamma")),
            self.weight(format!("{name}.beta")),
        );
        x.iter()
            .map(|row| {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                (0..row.len())
                    .map(|i| (row[i] - mean) * scale * gamma[i] + beta[i])
                    .collect()
            })
            .collect()
    }

    fn attend(&self, name: &str, x: &Matrix) -> Matrix {
        let qkv = self.linear(&format!("{name}.qkv"), x);
        let width = qkv[0].len() / 3;
        let size = width / self.heads;
        let mut mixed = vec![vec![0.0; width]; x.len()];
        for head in 0..self.heads {
            let part = |token: usize, which: usize, i: usize| qkv[token][which * width + head * size + i];
            for (query, mixed) in mixed.iter_mut().enumerate() {
                let score = |key: usize| {
                    let product: f64 = (0..size).map(|i| part(query, 0, i) * part(key, 1, i)).sum();
                    (product / (size as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..x.len()).map(score).collect();
                let sum: f64 = scores.iter().sum();
                for i in 0..size {
                    mixed[head * size + i] =
                        (0..x.len()).map(|key| scores[key] / sum * part(key, 2, i)).sum();
                }
            }
        }
        self.linear(&format!("{name}.out"), &mixed)
    }

    /// Logits of tokens, as `embedding` takes them.
    fn logits(&self, tokens: &Matrix) -> Vec<f64> {
        let mut x = self.linear("embedding", tokens);
        let positions = self.weight("positions".into()).to_vec();
        let width = x[0].len();
        add(&mut x, &positions.chunks(width).map(<[f64]>::to_vec).collect());
        for block in 0..self.depth {
            let name = |part: &str| format!("blocks.{block}.{part}");
            let attended = self.attend(&format!("blocks.{block}"), &self.norm(&name("norm1"), &x));
            add(&mut x, &attended);
            let mut up = self.linear(&name("up"), &self.norm(&name("norm2"), &x));
            up.iter_mut().flatten().for_each(|v| *v = gelu(*v));
            let down = self.linear(&name("down"), &up);
            add(&mut x, &down);
        }
        let x = self.norm("norm", &x);
        let mean = |i: usize| x.iter().map(|row| row[i]).sum::<f64>() / x.len() as f64;
        let pooled = vec![(0..width).map(mean).collect()];
        self.linear("classifier", &pooled).remove(0)
    }
}

fn add(x: &mut Matrix, y: &Matrix) {
    for (x, y) in x.iter_mut().zip(y) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

/// With the error function by its series, which is exact for the small numbers of an untrained network.
fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..60 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * std::f64::consts::FRAC_2_SQRT_PI)
}

/// The tokens of one sample: rows of an image with the channels side by side, or pieces of a signal.
fn tokens(input: &[f64], [channels, tokens, piece]: [usize; 3]) -> Matrix {
    let token = |t: usize| {
        (0..channels)
            .flat_map(|c| input[(c * tokens + t) * piece..][..piece].to_vec())
            .collect()
    };
    (0..tokens).map(token).collect()
}

const INPUTS: [([usize; 3], [usize; 3]); 3] = [
    ([1, 4, 3], [1, 4, 3]),
    ([2, 3, 4], [2, 3, 4]),
    // The greatest divisor of 12 up to its root is 3.
    ([2, 1, 12], [2, 4, 3]),
];

#[test]
fn agrees_with_the_reference_and_its_gradient_with_finite_differences() {
    let device = Device::flex().autodiff();
    for (input, cut) in INPUTS {
        let spec = fixture(MODEL, input, 3);
        let net = Net::new(&spec, 5, &device).unwrap();
        let reference = Reference::new(&net);
        let inputs = random(&spec, 2, 1, &device).require_grad();
        let plain: Vec<f64> = inputs
            .clone()
            .try_into_vec_as::<f32>()
            .unwrap()
            .iter()
            .map(|&v| f64::from(v))
            .collect();
        let len = spec.input_len();
        let expected: Vec<f64> = plain
            .chunks(len)
            .flat_map(|sample| reference.logits(&tokens(sample, cut)))
            .collect();
        let logits = net.forward(inputs.clone(), None);
        for (found, expected) in values(logits.clone()).iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5,
                "{input:?}: {found} {expected}"
            );
        }

        let weigh = |logits: &[f64]| logits[0] - 2.0 * logits[1] + 0.5 * logits[2];
        let by_class = Tensor::<2>::from_floats([[1.0, -2.0, 0.5]], &device);
        let gradient = inputs.grad(&(logits * by_class).sum().backward()).unwrap();
        let gradient = gradient.try_into_vec_as::<f32>().unwrap();
        for (i, found) in gradient.iter().enumerate() {
            let at = |shift: f64| {
                let mut sample = plain[i / len * len..][..len].to_vec();
                sample[i % len] += shift;
                weigh(&reference.logits(&tokens(&sample, cut)))
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4,
                "{input:?} {i}: {found} {expected}"
            );
        }
    }
}

#[test]
fn a_signal_is_cut_into_pieces_no_longer_than_there_are_of_them() {
    let cut = |input| fixture(MODEL, input, 3).layers()[0].positions;
    assert_eq!(
        [cut([1, 1, 40]), cut([3, 1, 784]), cut([1, 1, 41]), cut([1, 1, 1])],
        [8, 28, 41, 1]
    );
    assert_eq!([cut([1, 28, 28]), cut([3, 7, 5]), cut([1, 6, 1])], [28, 7, 6]);
}

#[test]
fn tokens_know_where_they_are() {
    let device = Device::flex();
    let spec = fixture(MODEL, [1, 4, 3], 3);
    let net = Net::new(&spec, 5, &device).unwrap();
    let inputs = random(&spec, 1, 1, &device);
    let turned = inputs.clone().flip([2]);
    assert_ne!(
        values(net.forward(inputs, None)),
        values(net.forward(turned, None))
    );
}

#[test]
fn weights_are_named_by_block_and_part() {
    let spec = fixture("architecture = 'transformer'\nwidth = 4\ndepth = 1", [1, 2, 3], 3);
    let net = Net::new(&spec, 5, &Device::flex()).unwrap();
    let names: Vec<String> = net.layout().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "blocks.0.down.bias",
            "blocks.0.down.weight",
            "blocks.0.norm1.beta",
            "blocks.0.norm1.gamma",
            "blocks.0.norm2.beta",
            "blocks.0.norm2.gamma",
            "blocks.0.out.bias",
            "blocks.0.out.weight",
            "blocks.0.qkv.weight",
            "blocks.0.up.bias",
            "blocks.0.up.weight",
            "classifier.bias",
            "classifier.weight",
            "embedding.bias",
            "embedding.weight",
            "norm.beta",
            "norm.gamma",
            "positions",
        ]
    );
}
