//! Weights in and out of a network: named tensors, safetensors, one flat vector. The order is that of the names.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData, Transaction};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use crate::Net;

/// Why weights do not fit a network.
#[derive(Debug, Error)]
pub enum Error {
    #[error("not a safetensors file")]
    Format(#[source] safetensors::SafeTensorError),
    #[error("weight {0} is missing")]
    Missing(String),
    #[error("weight {0} is not part of this network")]
    Unexpected(String),
    #[error("weight {name} is {found:?}, expected {expected:?}")]
    Shape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("weight {name} is {found:?}, expected F32")]
    Type { name: String, found: Dtype },
    #[error("{found} weights, expected {expected}")]
    Count { found: usize, expected: usize },
}

impl Net {
    /// How many numbers its weights are.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }

    /// Names and shapes of its weights, in the order of [`Net::flat`].
    pub fn layout(&self) -> Vec<(String, Vec<usize>)> {
        let mut collect = Collect::default();
        self.visit(&mut collect);
        let mut layout = collect.layout;
        layout.sort();
        layout
    }

    /// Names of the weights of its linear layers, which are `[inputs, outputs]`.
    pub(crate) fn linear_weights(&self) -> BTreeSet<String> {
        let mut collect = Collect::default();
        self.visit(&mut collect);
        collect.linear
    }

    /// All weights in one vector.
    ///
    /// # Panics
    ///
    /// If the device fails.
    pub fn flat(&self) -> Vec<f32> {
        self.named()
            .into_iter()
            .flat_map(|weight| weight.values)
            .collect()
    }

    /// The network with other weights, in the order of [`Net::flat`].
    pub fn with_flat(self, flat: &[f32]) -> Result<Self, Error> {
        let expected = self.parameters();
        if flat.len() != expected {
            return Err(Error::Count {
                found: flat.len(),
                expected,
            });
        }
        let mut rest = flat;
        let mut values = BTreeMap::new();
        for (name, shape) in self.layout() {
            let (head, tail) = rest.split_at(shape.iter().product());
            values.insert(name, head.to_vec());
            rest = tail;
        }
        Ok(self.assign(values))
    }

    /// All weights by name, as a safetensors file. A linear layer's weight is `[inputs, outputs]`.
    ///
    /// # Panics
    ///
    /// If the device fails.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let named: Vec<(Weight, Vec<u8>)> = self
            .named()
            .into_iter()
            .map(|weight| {
                let bytes = weight.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (weight, bytes)
            })
            .collect();
        let views = named.iter().map(|(weight, bytes)| {
            let view = TensorView::new(Dtype::F32, weight.shape.clone(), bytes);
            (
                weight.name.as_str(),
                view.expect("a weight has as many numbers as its shape says"),
            )
        });
        safetensors::serialize(views, None).expect("names and shapes always make a header")
    }

    /// The network with the weights of a safetensors file, which must hold exactly the right names and shapes; only the
    /// weights of a projection may be left over.
    pub fn with_safetensors(self, bytes: &[u8]) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(Error::Format)?;
        let layout = self.layout();
        let mut values = BTreeMap::new();
        for (name, expected) in layout {
            let numbers = numbers(&file, &name, &expected)?;
            values.insert(name, numbers);
        }
        let mut names = file.names();
        names.retain(|name| self.spec().projection.is_some() || !name.starts_with(PROJECTION));
        names.sort_unstable();
        match names.into_iter().find(|&name| !values.contains_key(name)) {
            Some(name) => Err(Error::Unexpected(name.into())),
            None => Ok(self.assign(values)),
        }
    }

    /// The network with other weights in its last classifier.
    ///
    /// # Shapes
    ///
    /// - weight: `[features, classes]`
    /// - bias: `[classes]`
    pub fn with_classifier(self, weight: Vec<f32>, bias: Vec<f32>) -> Result<Self, Error> {
        let mut values: BTreeMap<String, Vec<f32>> = self
            .named()
            .into_iter()
            .map(|weight| (weight.name, weight.values))
            .collect();
        for (name, new) in [("classifier.weight", weight), ("classifier.bias", bias)] {
            let old = values.get_mut(name).expect("every network has a classifier");
            if old.len() != new.len() {
                let (name, found, expected) = (name.into(), vec![new.len()], vec![old.len()]);
                return Err(Error::Shape {
                    name,
                    found,
                    expected,
                });
            }
            *old = new;
        }
        Ok(self.assign(values))
    }

    /// The network with weights of another one, each by the name that `source` gives for its own.
    ///
    /// # Panics
    ///
    /// If the other one has no weight of that name and size.
    pub(crate) fn with_weights_of(self, other: &Self, source: impl Fn(&str) -> String) -> Self {
        let mut theirs: BTreeMap<String, Vec<f32>> = other
            .named()
            .into_iter()
            .map(|weight| (weight.name, weight.values))
            .collect();
        let values = self.layout().into_iter().map(|(name, shape)| {
            let values = theirs.remove(&source(&name)).unwrap_or_default();
            assert_eq!(
                values.len(),
                shape.iter().product::<usize>(),
                "size of weight {name}"
            );
            (name, values)
        });
        let values = values.collect();
        self.assign(values)
    }

    fn named(&self) -> Vec<Weight> {
        let mut collect = Collect::default();
        self.visit(&mut collect);
        let data = collect.read.execute();
        let mut named: Vec<Weight> = collect
            .layout
            .into_iter()
            .zip(data)
            .map(|((name, shape), data)| Weight {
                name,
                shape,
                values: data.try_into_vec().expect("weights are f32 on every device"),
            })
            .collect();
        named.sort_by(|a, b| a.name.cmp(&b.name));
        named
    }

    /// Replaces every weight; `values` holds one of the right length for each name.
    pub(crate) fn assign(self, values: BTreeMap<String, Vec<f32>>) -> Self {
        self.map(&mut Assign {
            path: Path::default(),
            values,
        })
    }
}

/// The numbers of a tensor in a safetensors file.
pub(crate) fn numbers(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
    let view = file.tensor(name).map_err(|_| Error::Missing(name.into()))?;
    if view.shape() != shape {
        return Err(Error::Shape {
            name: name.into(),
            found: view.shape().to_vec(),
            expected: shape.to_vec(),
        });
    }
    if view.dtype() != Dtype::F32 {
        let (name, found) = (name.into(), view.dtype());
        return Err(Error::Type { name, found });
    }
    let (numbers, _) = view.data().as_chunks::<4>();
    Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

struct Weight {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Parts of a network that are no part of its weights' names.
const UNNAMED: [&str; 3] = ["body", "head", "perceptron"];

/// The beginning of the names of a projection's weights.
const PROJECTION: &str = "projection.";

/// A safetensors file without the weights of its projection, and how many numbers are left; `None` if it has no projection.
pub(crate) fn without_projection(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Error> {
    let file = SafeTensors::deserialize(bytes).map_err(Error::Format)?;
    if !file.names().iter().any(|name| name.starts_with(PROJECTION)) {
        return Ok(None);
    }
    let kept: Vec<_> = file
        .iter()
        .filter(|(name, _)| !name.starts_with(PROJECTION))
        .collect();
    let numbers = kept
        .iter()
        .map(|(_, view)| view.shape().iter().product::<usize>());
    let numbers = numbers.sum();
    let bytes = safetensors::serialize(kept, None).map_err(Error::Format)?;
    Ok(Some((bytes, numbers)))
}

/// Where a traversal is. The variant of an enum is no part of a name.
#[derive(Default)]
struct Path(Vec<Option<String>>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        let unnamed = container.starts_with("Enum:") || UNNAMED.contains(&name);
        self.0.push((!unnamed).then(|| name.into()));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        let parts: Vec<&str> = self.0.iter().flatten().map(String::as_str).collect();
        parts.join(".")
    }
}

/// Collects names and shapes, and reads all values in one transfer.
#[derive(Default)]
struct Collect {
    path: Path,
    /// Kinds of the modules that it is in.
    containers: Vec<String>,
    /// Weights of linear layers, by name.
    linear: BTreeSet<String>,
    layout: Vec<(String, Vec<usize>)>,
    read: Transaction,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        if D == 2 && self.containers.last().is_some_and(|kind| kind == "Struct:Linear") {
            self.linear.insert(self.path.name());
        }
        self.layout.push((self.path.name(), value.dims().to_vec()));
        self.read = std::mem::take(&mut self.read).register(value);
    }
}

struct Assign {
    path: Path,
    values: BTreeMap<String, Vec<f32>>,
}

impl ModuleMapper for Assign {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = self.values.remove(&self.path.name());
        let values = values.expect("every weight of the network has a value");
        param.map(|old| {
            let new = Tensor::from_data(TensorData::new(values, old.dims()), &old.device());
            new.set_require_grad(old.is_require_grad())
        })
    }
}
