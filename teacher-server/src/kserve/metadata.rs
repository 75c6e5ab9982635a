//! What a server says of a model.

use std::fmt;

use retort_job::Foreign;
use retort_models::Spec;
use retort_models::foreign::{self, Adapter, Number, Port, Ports};
use retort_proto::inference::ModelMetadataResponse;
use retort_proto::inference::model_metadata_response::TensorMetadata;
use serde::{Deserialize, Serialize};

use super::Error;
use super::answer::FLOATS;

/// Input types by the protocol's names.
const NUMBERS: [(&str, Number); 4] = [
    ("FP32", Number::F32),
    ("UINT8", Number::U8),
    ("INT32", Number::I32),
    ("INT64", Number::I64),
];

/// A type's name.
pub(super) fn name(number: Number) -> &'static str {
    let known = NUMBERS.iter().find(|(_, known)| *known == number);
    known.map_or("", |(name, _)| name)
}

/// A model as its server describes it, in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub model: String,
    /// Empty where the server numbers none.
    pub version: String,
    /// What evaluates it, in the server's words.
    pub platform: String,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

/// An input or output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    pub name: String,
    /// `FP32`, `INT64`, ...
    pub datatype: String,
    /// Extents, the batch first; -1: any.
    pub shape: Vec<i64>,
}

/// `x: FP32[-1, 64]`
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{:?}", self.name, self.datatype, self.shape)
    }
}

impl Tensor {
    fn extents(&self) -> Vec<Option<usize>> {
        let extents = self.shape.iter();
        extents
            .map(|&n| usize::try_from(n).ok().filter(|&n| n > 0))
            .collect()
    }

    fn port(&self) -> Port {
        Port {
            name: self.name.clone(),
            shape: self.extents(),
        }
    }

    fn spoken(&self) -> String {
        format!("{} {:?}", self.datatype, self.shape)
    }
}

impl From<TensorMetadata> for Tensor {
    fn from(tensor: TensorMetadata) -> Self {
        Self {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
        }
    }
}

impl Metadata {
    /// Of a model, with the version that was asked for or the only one there is.
    pub(super) fn new(
        model: &str,
        version: Option<&str>,
        answer: ModelMetadataResponse,
    ) -> Result<Self, Error> {
        if answer.name != model {
            return Err(Error::Name {
                model: model.to_owned(),
                found: answer.name,
            });
        }
        let refused = |expected: String| Error::Version {
            model: model.to_owned(),
            found: answer.versions.clone(),
            expected,
        };
        let version = match (version, answer.versions.as_slice()) {
            // It numbers none, or does not say which.
            (asked, []) => asked.unwrap_or_default().to_owned(),
            (Some(asked), there) if there.iter().any(|v| v == asked) => asked.to_owned(),
            (Some(asked), _) => return Err(refused(format!("{asked:?} among them"))),
            (None, [only]) => only.clone(),
            (None, _) => return Err(refused("one, or version = \"...\" to name it".into())),
        };
        let tensors = |tensors: Vec<TensorMetadata>| tensors.into_iter().map(Tensor::from).collect();
        Ok(Self {
            model: model.to_owned(),
            version,
            platform: answer.platform,
            inputs: tensors(answer.inputs),
            outputs: tensors(answer.outputs),
        })
    }

    /// What it takes and gives.
    pub fn ports(&self) -> Ports {
        Ports {
            inputs: self.inputs.iter().map(Tensor::port).collect(),
            outputs: self.outputs.iter().map(Tensor::port).collect(),
        }
    }

    /// Brings samples to it and answers back, if both fit.
    pub(super) fn adapter(&self, spec: &Spec, ports: &Foreign) -> Result<Adapter, Error> {
        let input = find("input", &ports.input, &self.inputs)?;
        let output = find("output", &ports.output, &self.outputs)?;
        if self.inputs.len() > 1 {
            return Err(Error::Inputs {
                needs: self.inputs.iter().map(|tensor| tensor.name.clone()).collect(),
                input: ports.input.clone(),
            });
        }
        let number = NUMBERS.iter().find(|(name, _)| *name == input.datatype);
        let (_, number) = number.ok_or_else(|| Error::Type {
            key: "input",
            name: input.name.clone(),
            found: input.spoken(),
            expected: "FP32, UINT8, INT32 or INT64",
        })?;
        if !FLOATS.contains(&output.datatype.as_str()) {
            return Err(Error::Type {
                key: "output",
                name: output.name.clone(),
                found: output.spoken(),
                expected: "FP32, FP16 or FP64",
            });
        }
        let extents = input.extents();
        let adapter = Adapter::new(spec, ports, *number, Some(&extents), || input.spoken())?;
        // Extents that are open may turn out to be anything: each answer is measured.
        let rest = output.extents();
        let fits = match rest.split_first() {
            None => false,
            Some((batch, rest)) => {
                let sized: Option<usize> = rest.iter().copied().product();
                (batch.is_none() || adapter.batch().is_none() || *batch == adapter.batch())
                    && sized.is_none_or(|numbers| numbers == spec.classes)
            }
        };
        if fits {
            return Ok(adapter);
        }
        let batch = adapter.batch().map_or("n".to_owned(), |batch| batch.to_string());
        let refused = foreign::Error::Classes {
            name: output.name.clone(),
            batch,
            found: output.spoken(),
            classes: spec.classes,
        };
        Err(refused.into())
    }
}

fn find<'a>(key: &'static str, name: &str, tensors: &'a [Tensor]) -> Result<&'a Tensor, Error> {
    let found = tensors.iter().find(|tensor| tensor.name == name);
    found.ok_or_else(|| Error::Port {
        key,
        name: name.to_owned(),
        known: tensors.iter().map(|tensor| tensor.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> TensorMetadata {
        TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
        }
    }

    fn said(versions: &[&str], input: TensorMetadata, output: TensorMetadata) -> ModelMetadataResponse {
        ModelMetadataResponse {
            name: "m".into(),
            versions: versions.iter().map(|v| (*v).to_owned()).collect(),
            platform: "test".into(),
            inputs: vec![input],
            outputs: vec![output],
        }
    }

    fn plain(versions: &[&str]) -> ModelMetadataResponse {
        said(
            versions,
            tensor("x", "FP32", &[-1, 4]),
            tensor("y", "FP32", &[-1, 3]),
        )
    }

    fn spec() -> Spec {
        let model = "architecture = 'kserve'\n[kserve]\nendpoint = 'http://127.0.0.1:1'\nmodel = 'm'\nversion = '2'\n\
                     max_batch = 2\n[kserve.ports]\ninput = 'x'\nlayout = 'flat'\noutput = 'y'\ngives = 'logits'";
        Spec {
            model: toml::from_str(model).unwrap(),
            input: retort_data::Shape {
                channels: 1,
                height: 2,
                width: 2,
            },
            classes: 3,
            preprocessing: retort_models::Preprocessing::none(1),
            tokens: None,
            rows: 1,
            projection: None,
        }
    }

    #[test]
    fn one_version_is_pinned() {
        let version = |asked, there: &[&str]| Metadata::new("m", asked, plain(there)).map(|m| m.version);
        assert_eq!(version(None, &["7"]).unwrap(), "7");
        assert_eq!(version(Some("2"), &["1", "2"]).unwrap(), "2");
        assert_eq!(version(None, &[]).unwrap(), "");
        assert_eq!(version(Some("2"), &[]).unwrap(), "2");
        let several = version(None, &["1", "2"]).unwrap_err().to_string();
        assert!(
            several.contains("[\"1\", \"2\"]") && several.contains("version ="),
            "{several}"
        );
        let another = version(Some("3"), &["1"]).unwrap_err().to_string();
        assert!(another.contains("expected \"3\""), "{another}");
        let other = Metadata::new("n", None, plain(&[])).unwrap_err().to_string();
        assert!(other.contains("\"m\", expected \"n\""), "{other}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_was_expected() {
        let spec = spec();
        let ports = spec.model.foreign().unwrap();
        let adapter = |answer| Metadata::new("m", None, answer).unwrap().adapter(&spec, ports);
        let fine = adapter(plain(&[])).unwrap();
        assert_eq!((fine.number(), fine.batch()), (Number::F32, None));
        let fixed = said(&[], tensor("x", "UINT8", &[8, 4]), tensor("y", "FP16", &[8, -1]));
        let fixed = adapter(fixed).unwrap();
        assert_eq!((fixed.number(), fixed.batch()), (Number::U8, Some(8)));
        let x = || tensor("x", "FP32", &[-1, 4]);
        let y = || tensor("y", "FP32", &[-1, 3]);
        let mut two = plain(&[]);
        two.inputs.push(tensor("mask", "FP32", &[-1, 4]));
        for (answer, expected) in [
            (
                said(&[], tensor("x", "BYTES", &[-1, 4]), y()),
                "BYTES [-1, 4], expected FP32",
            ),
            (said(&[], tensor("x", "FP32", &[4]), y()), "expected batch x 4"),
            (
                said(&[], tensor("x", "FP32", &[-1, 5]), y()),
                "input \"x\" is FP32 [-1, 5]",
            ),
            (
                said(&[], tensor("z", "FP32", &[-1, 4]), y()),
                "input is \"x\", expected one of [\"z\"]",
            ),
            (
                said(&[], x(), tensor("y", "INT64", &[-1, 3])),
                "output \"y\" is INT64",
            ),
            (
                said(&[], x(), tensor("y", "FP32", &[-1, 4])),
                "expected n x 3, a number for each class",
            ),
            (said(&[], x(), tensor("y", "FP32", &[])), "expected n x 3"),
            (said(&[], x(), tensor("z", "FP32", &[-1, 3])), "output is \"y\""),
            (two, "needs the inputs [\"x\", \"mask\"]"),
        ] {
            let message = adapter(answer).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
