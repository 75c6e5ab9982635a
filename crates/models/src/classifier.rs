//! Evaluation with plain data: inputs and logits are slices, tensors stay inside.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use retort_data::{HeldOut, Shape};
use retort_job::Architecture;
use thiserror::Error;

use crate::foreign::{self, Adapter, Hosted, Remote, RemoteError};
use crate::onnx::{self, Graph};
use crate::{CardError, Export, Net, Spec, SpecError, WeightsError};

/// Samples of every forward pass; a last partial one is filled up with zeros. Matrix products may sum in an order that
/// depends on the number of rows, so only a fixed number makes a sample's logits independent of its company. 64 is the
/// usual size of a batch, and costs a single sample milliseconds.
pub(crate) const BATCH: usize = 64;

/// Why a classifier cannot be built or used.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Card(#[from] CardError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    Foreign(#[from] foreign::Error),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("a model on a server evaluates where the server can be asked")]
    NotAsked,
    #[error("model card: parameters is {found}, expected {expected}")]
    Parameters { found: usize, expected: usize },
    #[error("{what}: {found} values, expected {expected}")]
    Size {
        what: &'static str,
        found: usize,
        expected: usize,
    },
    #[error("read logits from the device")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A model that evaluates: a network on a device without autodiff, an ONNX file on the processor, or one on a server.
#[derive(Debug)]
pub struct Classifier {
    model: Model,
}

#[derive(Debug)]
enum Model {
    Net(Box<Net>),
    Onnx(Box<Graph>),
    Hosted(Box<Hosted>),
}

impl Classifier {
    /// The classifier of an export folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, Error> {
        let Export { card, weights, .. } = Export::load(folder)?;
        let classifier = Self::from_parts(&card.spec(), &weights, device)?;
        let (found, expected) = (card.parameters, classifier.parameters());
        if found == expected {
            Ok(classifier)
        } else {
            Err(Error::Parameters { found, expected })
        }
    }

    /// The classifier with the weights of a safetensors file, or the one that an ONNX file is.
    pub fn from_parts(spec: &Spec, weights: &[u8], device: &Device) -> Result<Self, Error> {
        let model = match spec.model.architecture {
            Architecture::Onnx => {
                spec.validate()?;
                Model::Onnx(Box::new(Graph::new(spec, weights)?))
            }
            Architecture::Kserve => return Err(Error::NotAsked),
            _ => {
                let net = Net::new(spec, 0, &device.clone().without_autodiff())?;
                Model::Net(Box::new(net.with_safetensors(weights)?))
            }
        };
        Ok(Self { model })
    }

    /// The classifier that another program evaluates.
    pub fn remote(adapter: Adapter, remote: Box<dyn Remote>) -> Self {
        let model = Model::Hosted(Box::new(Hosted::new(adapter, remote)));
        Self { model }
    }

    pub fn spec(&self) -> &Spec {
        match &self.model {
            Model::Net(net) => net.spec(),
            Model::Onnx(graph) => graph.spec(),
            Model::Hosted(hosted) => hosted.spec(),
        }
    }

    /// How many numbers its weights are; 0 of a model on a server, which does not say.
    pub fn parameters(&self) -> usize {
        match &self.model {
            Model::Net(net) => net.parameters(),
            Model::Onnx(graph) => graph.parameters(),
            Model::Hosted(_) => 0,
        }
    }

    pub fn classes(&self) -> usize {
        self.spec().classes
    }

    /// Rows of logits that it gives for each sample.
    pub fn rows(&self) -> usize {
        self.spec().rows
    }

    /// Logits, row by row, those of a sample one after the other. They depend on the sample alone, not on what it is evaluated with.
    pub fn logits(&mut self, inputs: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        self.check(inputs, samples)?;
        match &mut self.model {
            Model::Net(net) => Ok(net.passes(inputs, None)?.0),
            Model::Onnx(graph) => Ok(graph.logits(inputs)?),
            Model::Hosted(hosted) => hosted.logits(inputs),
        }
    }

    /// Logits as [`Classifier::logits`] gives them, and for each sample the output of a layer, channel by channel. They too
    /// depend on the sample alone.
    pub fn features(
        &mut self,
        inputs: &[f32],
        samples: usize,
        layer: &str,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (number, _) = self.spec().layer(layer)?;
        self.check(inputs, samples)?;
        match &self.model {
            Model::Net(net) => net.passes(inputs, Some(number)),
            Model::Onnx(_) | Model::Hosted(_) => Err(SpecError::Foreign.into()),
        }
    }

    /// What the last layer of a network hands its classifier, row by row. They too depend on the sample alone.
    pub fn pooled(&mut self, inputs: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        self.check(inputs, samples)?;
        let Model::Net(net) = &self.model else {
            return Err(SpecError::Foreign.into());
        };
        let mut pooled = Vec::new();
        net.in_passes(inputs, |inputs, samples| {
            read(&mut pooled, net.forward_pooled(inputs), samples)
        })?;
        Ok(pooled)
    }

    fn check(&self, inputs: &[f32], samples: usize) -> Result<(), Error> {
        let (found, expected) = (inputs.len(), samples * self.spec().input_len());
        if found == expected {
            Ok(())
        } else {
            Err(Error::Size {
                what: "inputs",
                found,
                expected,
            })
        }
    }

    /// Logits of the rows that have a target.
    pub fn counted(&mut self, samples: &HeldOut) -> Result<Vec<f32>, Error> {
        let count = samples.inputs.len() / self.spec().input_len();
        let logits = self.logits(&samples.inputs, count)?;
        Ok(samples.counted(logits, self.classes()))
    }

    /// Loss and accuracy over the targets of labelled samples.
    pub fn evaluate(&mut self, samples: &HeldOut) -> Result<Evaluation, Error> {
        let logits = self.counted(samples)?;
        Ok(Evaluation::new(&logits, &samples.labels, self.classes()))
    }
}

impl From<&Net> for Classifier {
    /// A classifier with the present weights of a network, which may be in training.
    fn from(net: &Net) -> Self {
        let model = Model::Net(Box::new(net.valid()));
        Self { model }
    }
}

impl Net {
    /// Logits of whole samples, and the output of a layer if one is asked for, in passes of [`BATCH`].
    fn passes(&self, inputs: &[f32], layer: Option<usize>) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (mut logits, mut features) = (Vec::new(), Vec::new());
        self.in_passes(inputs, |inputs, samples| match layer {
            None => read(&mut logits, self.forward(inputs, None), samples),
            Some(layer) => {
                let (outputs, tapped) = self.forward_tapped(inputs, layer);
                read(&mut logits, outputs, samples)?;
                match tapped {
                    Some(tapped) => read(&mut features, tapped, samples),
                    None => Ok(()),
                }
            }
        })?;
        Ok((logits, features))
    }

    /// Hands on [`BATCH`] samples at a time, and how many of them count.
    fn in_passes(
        &self,
        inputs: &[f32],
        mut pass: impl FnMut(Tensor<4>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Shape {
            channels,
            height,
            width,
        } = self.spec().input;
        let device = self.device();
        let len = self.spec().input_len();
        for chunk in inputs.chunks(BATCH * len) {
            let mut batch = chunk.to_vec();
            batch.resize(BATCH * len, 0.0);
            let data = TensorData::new(batch, [BATCH, channels, height, width]);
            let inputs = Tensor::from_data(data, &device);
            pass(inputs, chunk.len() / len)?;
        }
        Ok(())
    }
}

/// Appends what a tensor of a pass has of its first samples.
fn read<const D: usize>(to: &mut Vec<f32>, tensor: Tensor<D>, samples: usize) -> Result<(), Error> {
    let values = tensor
        .try_into_vec_as::<f32>()
        .map_err(|e| Error::Device(Box::new(e)))?;
    to.extend_from_slice(&values[..values.len() / BATCH * samples]);
    Ok(())
}

/// How well logits match labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean negative log-likelihood at temperature 1.
    pub loss: f64,
    /// Share of targets whose greatest logit (the first one among equals) is that of the label.
    pub accuracy: f64,
    /// Targets: as many as samples where each has one.
    pub samples: usize,
}

impl Evaluation {
    /// Compares `labels.len()` rows of logits with their labels, in `f64`; both measures are 0 for no sample. A label
    /// beyond the classes, which no data set has, counts as never met.
    pub fn new(logits: &[f32], labels: &[u32], classes: usize) -> Self {
        assert_eq!(
            logits.len(),
            labels.len() * classes,
            "one row of logits for each label"
        );
        let (mut loss, mut hits) = (0.0, 0_usize);
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            let label = label as usize;
            let best = (1..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            hits += usize::from(best == label);
            let top = f64::from(row[best]);
            let sum: f64 = row.iter().map(|&z| (f64::from(z) - top).exp()).sum();
            let own = row.get(label).map_or(f64::NEG_INFINITY, |&z| f64::from(z));
            loss += top + sum.ln() - own;
        }
        let count = labels.len().max(1) as f64;
        Self {
            loss: loss / count,
            accuracy: hits as f64 / count,
            samples: labels.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use retort_data::Tokens;

    use super::*;
    use crate::net::{fixture, random_values, text_fixture};

    #[test]
    fn logits_do_not_depend_on_the_company() {
        let specs = [
            fixture("architecture = 'mlp'\nhidden = [33]", [1, 8, 8], 10),
            fixture("architecture = 'cnn'\nwidth = 5", [1, 1, 40], 3),
            fixture("architecture = 'resnet'\nwidth = 4", [3, 8, 8], 7),
            fixture("architecture = 'mobilenet'\nwidth = 4", [3, 8, 8], 7),
            fixture("architecture = 'transformer'\nwidth = 12", [3, 7, 8], 7),
            text_fixture("architecture = 'transformer'\nwidth = 12", 9, 7),
            text_fixture(
                "architecture = 'embedding-bag'\nembedding = 12\nhidden = [33]",
                9,
                7,
            ),
            Spec {
                tokens: Some(Tokens::Bytes {}),
                rows: 4,
                ..text_fixture("architecture = 'transformer'\nwidth = 12", 9, 7)
            },
        ];
        for spec in specs {
            let net = Net::new(&spec, 3, &Device::flex().autodiff()).unwrap();
            let mut classifier = Classifier::from(&net);
            let len = spec.input_len();
            let inputs = random_values(&spec, 150, 5);
            let together = classifier.logits(&inputs, 150).unwrap();
            let len_of_rows = spec.rows * spec.classes;
            assert_eq!(together.len(), 150 * len_of_rows);
            for sample in [0, 1, 63, 64, 100, 149] {
                let input = &inputs[sample * len..(sample + 1) * len];
                let alone = classifier.logits(input, 1).unwrap();
                let row = &together[sample * len_of_rows..(sample + 1) * len_of_rows];
                assert_eq!(alone, row, "sample {sample} of {:?}", spec.model.architecture);
            }
        }
    }

    #[test]
    fn inputs_of_the_wrong_size_are_refused() {
        let spec = fixture("architecture = 'mlp'\nhidden = []", [1, 2, 2], 2);
        let net = Net::new(&spec, 0, &Device::flex()).unwrap();
        let mut classifier = Classifier::from(&net);
        assert!(classifier.logits(&[], 0).unwrap().is_empty());
        let error = classifier.logits(&[0.0; 7], 2).unwrap_err();
        assert_eq!(error.to_string(), "inputs: 7 values, expected 8");
    }

    #[test]
    fn evaluation_by_hand() {
        let evaluation = Evaluation::new(&[0.0, 0.0, 1e4, -1e4, 2.0, 1.0], &[0, 1, 0], 2);
        let expected = (std::f64::consts::LN_2 + 2e4 + (1.0 + (-1f64).exp()).ln()) / 3.0;
        assert!((evaluation.loss - expected).abs() < 1e-9);
        assert_eq!((evaluation.accuracy, evaluation.samples), (2.0 / 3.0, 3));
        assert_eq!(Evaluation::new(&[], &[], 3).loss, 0.0);
    }
}
