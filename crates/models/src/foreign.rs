//! Classifiers from elsewhere, whoever evaluates them: what they take and give, and how a sample becomes the one and an
//! answer the other. What a model leaves unsaid, [`retort_job::Foreign`] says.
//!
//! An ONNX file is evaluated here ([`onnx`](crate::onnx)), a model on a server by a [`Remote`].

use std::fmt;

use retort_data::Shape;
use retort_job::{Foreign, Gives, Layout};
use thiserror::Error;

use crate::{Preprocessing, Spec};

/// How far a sum of probabilities may be from 1, for rounding in `f32` or `f16`.
const SUM_TOLERANCE: f32 = 1e-2;

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// Extents, the batch first; `None` where the model leaves one open.
    pub shape: Vec<Option<usize>>,
}

/// What a model takes and gives, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// Without those that have a value already.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// What a model and its use do not agree on.
#[derive(Debug, Error)]
pub enum Error {
    #[error("input {name:?} is {found}, expected {expected}")]
    Input {
        name: String,
        found: String,
        expected: String,
    },
    #[error(
        "output {name:?} of a batch of {batch} is {found}, expected {batch} x {classes}, a number for each class"
    )]
    Classes {
        name: String,
        batch: String,
        found: String,
        classes: usize,
    },
    #[error(
        "output {name:?} sums to {sum}, expected 1 and no part below 0: no probabilities (gives = \"logits\"?)"
    )]
    Sum { name: String, sum: f32 },
}

/// Types of numbers that an input may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    F32,
    U8,
    I32,
    I64,
}

impl Number {
    /// Values as they travel: little-endian, one after the other. Whole numbers beyond the type become its nearest.
    pub fn to_le_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::U8 => values.iter().map(|&v| v as u8).collect(),
            Self::I32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            Self::I64 => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
        }
    }
}

/// Brings samples to a model and its answers back.
#[derive(Debug, Clone)]
pub struct Adapter {
    spec: Spec,
    foreign: Foreign,
    number: Number,
    batch: Option<usize>,
    /// Extents of a sample in the model's layout.
    sample: Vec<usize>,
}

impl Adapter {
    /// `declared`: the extents of the input, the batch first, if the model says them; `found`: the input in the model's
    /// own words.
    pub fn new(
        spec: &Spec,
        foreign: &Foreign,
        number: Number,
        declared: Option<&[Option<usize>]>,
        found: impl FnOnce() -> String,
    ) -> Result<Self, Error> {
        let Shape {
            channels,
            height,
            width,
        } = spec.input;
        let sample = match foreign.layout {
            Layout::Nchw => vec![channels, height, width],
            Layout::Nhwc => vec![height, width, channels],
            Layout::Flat => vec![spec.input_len()],
        };
        let fits = |extents: &[Option<usize>]| {
            let needs = sample.iter();
            extents.len() == sample.len() + 1
                && needs
                    .zip(&extents[1..])
                    .all(|(needs, has)| has.is_none_or(|has| has == *needs))
        };
        if !declared.is_none_or(fits) {
            let dims: Vec<String> = sample.iter().map(usize::to_string).collect();
            return Err(Error::Input {
                name: foreign.input.clone(),
                found: found(),
                expected: format!(
                    "batch x {} for samples of {} in the layout {}",
                    dims.join(" x "),
                    spec.input,
                    format!("{:?}", foreign.layout).to_lowercase()
                ),
            });
        }
        Ok(Self {
            spec: spec.clone(),
            foreign: foreign.clone(),
            number,
            batch: declared.and_then(|extents| extents.first().copied().flatten()),
            sample,
        })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Names of input and output.
    pub fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    pub fn number(&self) -> Number {
        self.number
    }

    /// Samples of every pass, where the model fixes them.
    pub fn batch(&self) -> Option<usize> {
        self.batch
    }

    /// Extents of an input of so many samples.
    pub fn dims(&self, samples: usize) -> Vec<usize> {
        std::iter::once(samples)
            .chain(self.sample.iter().copied())
            .collect()
    }

    /// A sample as the model takes it: preprocessed, in its layout, whole numbers where it wants them. `out` holds as many
    /// values as the sample.
    pub fn write(&self, sample: &[f32], out: &mut [f32]) {
        let channels = self.spec.input.channels;
        let pixels = self.spec.input.height * self.spec.input.width;
        let Preprocessing { mean, std } = &self.spec.preprocessing;
        // Of ids that are bytes, the numbers that the model was trained with.
        let number = |value: f32| match self.foreign.padding {
            Some(padding) if value == 0.0 => padding as f32,
            Some(_) => value - 1.0,
            None => value,
        };
        for (i, &value) in sample.iter().enumerate() {
            let (channel, pixel) = (i / pixels, i % pixels);
            let place = match self.foreign.layout {
                Layout::Nchw | Layout::Flat => i,
                Layout::Nhwc => pixel * channels + channel,
            };
            let value = (number(value) - mean[channel]) / std[channel];
            out[place] = match self.number {
                Number::F32 => value,
                Number::U8 | Number::I32 | Number::I64 => value.round(),
            };
        }
    }

    /// Appends the logits of one sample's answer, a number for each class.
    pub fn read(&self, row: &[f32], logits: &mut Vec<f32>) -> Result<(), Error> {
        match self.foreign.gives {
            Gives::Logits => logits.extend_from_slice(row),
            Gives::Probabilities => {
                let sum: f32 = row.iter().sum();
                let near = (sum - 1.0).abs() <= SUM_TOLERANCE; // false of NaN
                if !near || row.iter().any(|&p| p < 0.0) {
                    let name = self.foreign.output.clone();
                    return Err(Error::Sum { name, sum });
                }
                logits.extend(row.iter().map(|p| p.max(f32::MIN_POSITIVE).ln()));
            }
        }
        Ok(())
    }
}

/// A model that another program evaluates.
pub trait Remote: fmt::Debug + Send {
    /// The output's numbers for whole samples, row by row, of what [`Adapter::write`] made of them, sample by sample. A
    /// sample's answer must not depend on what else is asked.
    fn infer(&mut self, values: Vec<f32>, samples: usize) -> Result<Vec<f32>, RemoteError>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RemoteError {
    /// Asking again later may help.
    #[error("{0}")]
    Away(String),
    /// It is not the model that was asked for, or of no use.
    #[error("{0}")]
    Wrong(String),
}

/// A classifier by a [`Remote`].
#[derive(Debug)]
pub(crate) struct Hosted {
    adapter: Adapter,
    remote: Box<dyn Remote>,
}

impl Hosted {
    pub(crate) fn new(adapter: Adapter, remote: Box<dyn Remote>) -> Self {
        Self { adapter, remote }
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.adapter.spec
    }

    /// Logits of whole samples, row by row.
    pub(crate) fn logits(&mut self, inputs: &[f32]) -> Result<Vec<f32>, crate::ClassifierError> {
        let (len, classes) = (self.spec().input_len(), self.spec().classes);
        let mut values = vec![0.0; inputs.len()];
        for (sample, out) in inputs.chunks_exact(len).zip(values.chunks_exact_mut(len)) {
            self.adapter.write(sample, out);
        }
        let samples = inputs.len() / len;
        if samples == 0 {
            return Ok(Vec::new());
        }
        let rows = self.remote.infer(values, samples)?;
        let mut logits = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(classes) {
            self.adapter.read(row, &mut logits)?;
        }
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Classifier;
    use crate::net::fixture;

    /// Answers with the first numbers of each sample, times a factor.
    #[derive(Debug)]
    struct Echo(f32);

    impl Remote for Echo {
        fn infer(&mut self, values: Vec<f32>, samples: usize) -> Result<Vec<f32>, RemoteError> {
            if self.0 == 0.0 {
                return Err(RemoteError::Away("gone".into()));
            }
            let rows = values.chunks_exact(values.len() / samples);
            Ok(rows.flat_map(|row| [row[0] * self.0, row[1] * self.0]).collect())
        }
    }

    fn adapter(gives: &str, number: Number, declared: Option<&[Option<usize>]>) -> Result<Adapter, Error> {
        let model = format!(
            "architecture = 'kserve'\n[kserve]\nendpoint = 'http://a:1'\nmodel = 'm'\nmax_batch = 4\n[kserve.ports]\n\
             input = 'x'\nlayout = 'nhwc'\noutput = 'y'\ngives = '{gives}'"
        );
        let mut spec = fixture(&model, [2, 1, 2], 2);
        spec.preprocessing = Preprocessing {
            mean: vec![0.0, 1.0],
            std: vec![0.5, 1.0],
        };
        let foreign = spec.model.foreign().unwrap().clone();
        Adapter::new(&spec, &foreign, number, declared, || "this".into())
    }

    fn hosted(gives: &str, factor: f32) -> Classifier {
        Classifier::remote(adapter(gives, Number::F32, None).unwrap(), Box::new(Echo(factor)))
    }

    #[test]
    fn samples_go_out_in_the_models_layout_and_type() {
        let sample = [1.0, 2.2, 3.0, 4.4];
        let mut out = [0.0; 4];
        adapter("logits", Number::F32, None)
            .unwrap()
            .write(&sample, &mut out);
        assert_eq!(out, [2.0, 2.0, 4.4, 3.4]);
        let declared = [Some(3), None, Some(2), Some(2)];
        let whole = adapter("logits", Number::I32, Some(&declared)).unwrap();
        whole.write(&sample, &mut out);
        assert_eq!(out, [2.0, 2.0, 4.0, 3.0]);
        assert_eq!((whole.batch(), whole.dims(3)), (Some(3), vec![3, 1, 2, 2]));
        let refused = adapter("logits", Number::F32, Some(&[None, Some(4)])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "input \"x\" is this, expected batch x 1 x 2 x 2 for samples of 2x1x2 in the layout nhwc"
        );
    }

    #[test]
    fn numbers_travel_in_their_type() {
        let values = [1.0, -2.0, 300.0];
        assert_eq!(Number::U8.to_le_bytes(&values), [1, 0, 255]);
        assert_eq!(Number::I32.to_le_bytes(&values[1..2]), (-2i32).to_le_bytes());
        assert_eq!(Number::I64.to_le_bytes(&values[1..2]), (-2i64).to_le_bytes());
        assert_eq!(Number::F32.to_le_bytes(&values[..1]), 1f32.to_le_bytes());
    }

    #[test]
    fn answers_come_back_as_logits() {
        // Preprocessed and channels last: 0.5, 0.5.
        let sample = [0.25, 1.0, 1.5, 2.0];
        let logits = hosted("logits", 1.0).logits(&sample, 1).unwrap();
        assert_eq!(logits, [0.5, 0.5]);
        let logits = hosted("probabilities", 1.0).logits(&sample.repeat(2), 2).unwrap();
        assert_eq!(logits, [0.5f32.ln(); 4]);
        assert!(hosted("logits", 1.0).logits(&[], 0).unwrap().is_empty());
        for (factor, expected) in [
            (2.0, "sums to 2, expected 1"),
            (f32::NAN, "sums to NaN"),
            (0.0, "gone"),
        ] {
            let error = hosted("probabilities", factor).logits(&sample, 1).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
