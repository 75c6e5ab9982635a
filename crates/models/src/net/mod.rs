//! Networks: from a configuration, a shape and a seed to logits.

mod bag;
mod causal;
mod cnn;
pub mod custom;
mod cut;
mod head;
mod init;
mod kernels;
mod layers;
mod mlp;
mod mobilenet;
mod pass;
mod resnet;
mod spec;
#[cfg(test)]
mod tests;
mod tokens;
mod transformer;
#[cfg(test)]
pub(crate) use tests::{fixture, random_values, text_fixture};

pub use self::layers::Layer;
pub use self::pass::{Pass, PassError};
pub use self::spec::{Preprocessing, Projection, Spec, SpecError};

use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use retort_data::rng::Rng;
use retort_job::Architecture;

use self::bag::EmbeddingBag;
use self::cnn::Cnn;
use self::head::{Exit, Head};
use self::init::Init;
use self::layers::Taps;
use self::mlp::Mlp;
use self::mobilenet::Mobilenet;
use self::resnet::Resnet;
pub(crate) use self::transformer::BERT_EPSILON;
use self::transformer::Transformer;

/// A classifier network.
#[derive(Module, Debug)]
pub struct Net {
    /// Makes of tokens a signal for the body; a body that takes tokens has its own.
    embedding: Option<Embedding>,
    body: Body,
    head: Head,
    exits: Vec<Exit>,
    projection: Option<Linear>,
    #[module(skip)]
    spec: Spec,
}

#[derive(Module, Debug)]
enum Body {
    Mlp(Mlp),
    Cnn(Cnn),
    Resnet(Resnet),
    Mobilenet(Mobilenet),
    Transformer(Transformer),
    EmbeddingBag(EmbeddingBag),
    Custom(custom::Layers),
}

/// Everything that a forward pass can tell.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// `[n * rows, classes]`, those of [`Net::forward`].
    pub logits: Tensor<2>,
    /// What the classifier sees, `[n * rows, channels]`: a mean over positions, without those of padding, or each of the last
    /// ones that has a row.
    pub pooled: Tensor<2>,
    /// Logits of each exit, in ascending order, `[n * rows, classes]`.
    pub exits: Vec<Tensor<2>>,
    /// With `exits.feature_weight`: what each exit's classifier sees, brought to the size of `pooled`.
    pub hints: Vec<Tensor<2>>,
    /// Output of the layer that was asked for, `[n, channels, positions]`; projected if it is that of the projection.
    pub features: Option<Tensor<3>>,
}

impl Outputs {
    /// Without the rows of logits that are not among these; features, which a sample has as a whole, stay.
    pub fn select(self, rows: &Tensor<1, Int>) -> Self {
        let these = |rows_of: Tensor<2>| rows_of.select(0, rows.clone());
        Self {
            logits: these(self.logits),
            pooled: these(self.pooled),
            exits: self.exits.into_iter().map(these).collect(),
            hints: self.hints.into_iter().map(these).collect(),
            features: self.features,
        }
    }
}

/// What a forward pass is asked for beside the logits.
#[derive(Default)]
struct Ask {
    /// Number of a layer.
    tap: Option<usize>,
    exits: bool,
}

impl Net {
    /// A network with initial weights from `seed`: the same ones on every machine and device, bit for bit. Those of the
    /// layers and the last classifier are the same with exits or a projection as without.
    ///
    /// On a device with autodiff its weights track gradients.
    pub fn new(spec: &Spec, seed: u64, device: &Device) -> Result<Self, SpecError> {
        spec.validate()?;
        let mut init = Init::new(seed, device);
        let embedding = spec.signal_of_tokens();
        let embedding = embedding.then(|| init.embedding(spec.vocabulary(), spec.channels()));
        let body = match spec.model.architecture {
            Architecture::Mlp => Body::Mlp(Mlp::new(spec.signal_len(), spec, &mut init)),
            Architecture::Cnn => Body::Cnn(Cnn::new(spec, &mut init)),
            Architecture::Resnet => Body::Resnet(Resnet::new(spec, &mut init)),
            Architecture::Mobilenet => Body::Mobilenet(Mobilenet::new(spec, &mut init)),
            Architecture::Transformer | Architecture::Bert => {
                Body::Transformer(Transformer::new(spec, &mut init))
            }
            Architecture::EmbeddingBag => Body::EmbeddingBag(EmbeddingBag::new(spec, &mut init)),
            Architecture::Custom => Body::Custom(custom::build(spec, &mut init, device)?),
            Architecture::Onnx | Architecture::Kserve => return Err(SpecError::Foreign),
        };
        let head = Head::new(spec, spec.features(), &mut init);
        let exits = spec.exit_layers();
        let exits = exits.iter().map(|(_, layer)| Exit::new(spec, layer, &mut init));
        let exits = exits.collect();
        let projection = match &spec.projection {
            Some(projection) => {
                let (_, layer) = spec.layer(&projection.layer)?;
                Some(init.linear(layer.channels, projection.channels))
            }
            None => None,
        };
        let net = Self {
            embedding,
            body,
            head,
            exits,
            projection,
            spec: spec.clone(),
        };
        net.check_names()?;
        Ok(net)
    }

    /// Names of weights that a program brings along may be the same, since some fields are no part of them.
    fn check_names(&self) -> Result<(), SpecError> {
        if !matches!(self.body, Body::Custom(_)) {
            return Ok(());
        }
        let layout = self.layout();
        match layout.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            None => Ok(()),
            Some(pair) => Err(SpecError::Custom {
                name: self.spec.model.custom.as_ref().map_or("", |c| &c.name).to_owned(),
                reason: format!("two weights are called {}: rename a field", pair[0].0),
            }),
        }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What its layers are called and what they put out.
    pub fn layers(&self) -> Vec<Layer> {
        self.spec.layers()
    }

    /// Logits of inputs before preprocessing. `noise` draws the dropout masks of a training step; without it nothing is
    /// dropped.
    ///
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`, or ids of tokens `[n, 1, 1, tokens]`
    /// - output: `[n * rows, classes]`, the rows of a sample one after the other
    pub fn forward(&self, inputs: Tensor<4>, noise: Option<&mut Rng>) -> Tensor<2> {
        self.run(inputs, noise, &Ask::default()).logits
    }

    /// Logits as [`Net::forward`] gives them, and with them those of the exits and, if asked for, the output of a layer.
    ///
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    pub fn forward_all(
        &self,
        inputs: Tensor<4>,
        noise: Option<&mut Rng>,
        tap: Option<&str>,
    ) -> Result<Outputs, SpecError> {
        let tap = match tap {
            Some(name) => Some(self.spec.layer(name)?.0),
            None => None,
        };
        Ok(self.run(inputs, noise, &Ask { tap, exits: true }))
    }

    /// Logits and the output of the layer with this number, without exits.
    pub(crate) fn forward_tapped(&self, inputs: Tensor<4>, layer: usize) -> (Tensor<2>, Option<Tensor<3>>) {
        let ask = Ask {
            tap: Some(layer),
            exits: false,
        };
        let outputs = self.run(inputs, None, &ask);
        (outputs.logits, outputs.features)
    }

    /// What the last classifier sees, `[n, channels]`.
    pub(crate) fn forward_pooled(&self, inputs: Tensor<4>) -> Tensor<2> {
        self.run(inputs, None, &Ask::default()).pooled
    }

    fn run(&self, inputs: Tensor<4>, noise: Option<&mut Rng>, ask: &Ask) -> Outputs {
        let mut dropout = Dropout {
            rate: self.spec.model.dropout,
            noise,
        };
        let at: Vec<usize> = if ask.exits {
            self.spec
                .exit_layers()
                .into_iter()
                .map(|(number, _)| number)
                .collect()
        } else {
            Vec::new()
        };
        let mut taps = Taps::new(at.iter().copied().chain(ask.tap));
        let inputs = self.spec.preprocessing.apply(inputs);
        // An embedding-bag takes its mean itself.
        let masked = self.spec.tokens.is_some() && matches!(self.body, Body::Transformer(_));
        let mask = masked.then(|| tokens::mask(&inputs));
        let mask = mask.as_ref();
        let inputs = match &self.embedding {
            Some(embedding) => tokens::signal(embedding, inputs),
            None => inputs,
        };
        let last = match &self.body {
            Body::Mlp(net) => net.forward(inputs.flatten(1, 3), 0, &mut dropout, &mut taps),
            Body::Cnn(net) => net.forward(inputs, &mut taps),
            Body::Resnet(net) => net.forward(inputs, &mut taps),
            Body::Mobilenet(net) => net.forward(inputs, &mut taps),
            Body::Transformer(net) => net.forward(inputs, mask, &mut dropout, &mut taps),
            Body::EmbeddingBag(net) => net.forward(inputs, &mut dropout, &mut taps),
            Body::Custom(net) => {
                let output = net.forward(inputs, &mut dropout);
                taps.offer(0, || output.clone());
                output
            }
        };
        let pooled = self.head.pool(last, mask);
        let mut outputs = Outputs {
            logits: self.head.classify(pooled.clone(), &mut dropout),
            pooled,
            exits: Vec::new(),
            hints: Vec::new(),
            features: ask
                .tap
                .and_then(|layer| Some(self.project(layer, taps.output(layer)?))),
        };
        for (exit, output) in self
            .exits
            .iter()
            .zip(at.iter().filter_map(|&layer| taps.output(layer)))
        {
            let pooled = exit.head.pool(output, mask);
            outputs
                .exits
                .push(exit.head.classify(pooled.clone(), &mut dropout));
            outputs
                .hints
                .extend(exit.hint.as_ref().map(|hint| hint.forward(pooled)));
        }
        outputs
    }

    fn project(&self, layer: usize, features: Tensor<3>) -> Tensor<3> {
        let of = self
            .spec
            .projection
            .as_ref()
            .and_then(|p| self.spec.layer(&p.layer).ok());
        match &self.projection {
            Some(map) if of.is_some_and(|(number, _)| number == layer) => {
                map.forward(features.swap_dims(1, 2)).swap_dims(1, 2)
            }
            _ => features,
        }
    }

    /// Where its weights are.
    pub(crate) fn device(&self) -> Device {
        self.head.classifier.weight.val().device()
    }
}

/// Dropout whose masks come from a generator of ours: burn's own would draw from a state that the whole process shares,
/// so that a resumed trainer could not go on as if it had never stopped.
pub struct Dropout<'a> {
    rate: f64,
    noise: Option<&'a mut Rng>,
}

impl Dropout<'_> {
    /// Some of the values are 0 in a training step, the others larger by as much.
    pub fn apply<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let Some(noise) = self.noise.as_deref_mut().filter(|_| self.rate > 0.0) else {
            return x;
        };
        let scale = (1.0 / (1.0 - self.rate)) as f32;
        let rate = self.rate as f32;
        let dims = x.dims();
        let mask =
            (0..dims.iter().product::<usize>()).map(|_| if noise.uniform_f32() < rate { 0.0 } else { scale });
        let mask = TensorData::new(mask.collect::<Vec<f32>>(), dims);
        let device = x.device();
        // The product may be written over its first operand; the gradient of what made x may need x.
        Tensor::from_data(mask, &device) * x
    }
}

/// 1 along a dimension of size 1, where there is nothing to convolve with or to pool, else `size`: signals are images of
/// height 1.
pub(crate) fn window(size: usize, height: usize, width: usize) -> [usize; 2] {
    [height, width].map(|extent| if extent > 1 { size } else { 1 })
}
