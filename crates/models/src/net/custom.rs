//! Architectures that a program of somebody else's brings along.
//!
//! Such a program registers them by [`register`] before any network is built. It starts the processes of a fleet from itself,
//! so that all of them know the same ones.

mod erased;

/// The very release that networks here are made with.
pub use ::burn;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use retort_data::{Custom, Shape};
use serde::de::DeserializeOwned;

pub use super::init::Init;
pub use super::{Dropout, Layer};
pub(super) use erased::Layers;

use super::{Spec, SpecError};
use erased::Erased;

/// What a network is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    pub shape: Shape,
    /// Number of token ids, where the inputs are ids of tokens; 0 where they are numbers.
    pub vocabulary: usize,
}

/// The layers of an architecture in front of its classifier: a burn module whose weights [`Init`] made.
pub trait Network: Module + Sync + 'static {
    /// What models call it, in `custom.name`.
    const NAME: &'static str;

    /// The other keys of `custom`.
    type Parameters: DeserializeOwned;

    /// Channels and positions of what [`Network::forward`] gives for these inputs.
    ///
    /// # Errors
    ///
    /// What is wrong with the parameters, in words: their bounds are for this function to check.
    fn output(parameters: &Self::Parameters, input: &Input) -> Result<[usize; 2], String>;

    /// The layers with initial weights.
    fn new(parameters: &Self::Parameters, input: &Input, init: &mut Init<'_>) -> Self;

    /// What the classifier sees: its mean over positions goes through one linear layer.
    ///
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`, preprocessed, or ids of tokens `[n, 1, 1, tokens]`
    /// - output: `[n, channels, positions]`
    fn forward(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3>;
}

/// What is known of a [`Network`] without its type.
#[derive(Clone, Copy)]
struct Entry {
    output: fn(&Custom, &Input) -> Result<[usize; 2], String>,
    build: Build,
}

type Build = fn(&Custom, &Input, &mut Init<'_>) -> Result<Box<dyn Erased>, String>;

// A lock: written before a program begins its work, read when networks are built.
static KNOWN: Mutex<BTreeMap<&'static str, Entry>> = Mutex::new(BTreeMap::new());

fn known() -> MutexGuard<'static, BTreeMap<&'static str, Entry>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an architecture known by its name; a later one of the same name takes its place.
pub fn register<N: Network>() {
    let entry = Entry {
        output: |custom, input| N::output(&custom.parameters()?, input),
        build: |custom, input, init| Ok(Box::new(N::new(&custom.parameters()?, input, init)) as _),
    };
    known().insert(N::NAME, entry);
}

/// The table that names it, who that is, and what it is made for.
fn find(spec: &Spec) -> Result<(&Custom, Entry, Input), SpecError> {
    let custom = spec.model.custom.as_ref();
    let custom = custom.ok_or_else(|| refused("", "the model has no table `custom`"))?;
    let known = known();
    let entry = known.get(custom.name.as_str()).copied().ok_or_else(|| {
        let names: Vec<&str> = known.keys().copied().collect();
        let names = match names.as_slice() {
            [] => "which brings no architecture".to_owned(),
            names => format!("which brings {}", names.join(", ")),
        };
        let reason = format!("unknown to this program, {names}: run the program that brings it");
        refused(&custom.name, reason)
    })?;
    let input = Input {
        shape: spec.input,
        vocabulary: spec.vocabulary(),
    };
    Ok((custom, entry, input))
}

fn refused(name: &str, reason: impl Into<String>) -> SpecError {
    SpecError::Custom {
        name: name.to_owned(),
        reason: reason.into(),
    }
}

/// What the classifier sees, by the name `output`: the one layer that can be asked for.
pub(super) fn output(spec: &Spec) -> Result<Layer, SpecError> {
    let (custom, entry, input) = find(spec)?;
    match (entry.output)(custom, &input) {
        Ok([channels, positions]) if channels * positions > 0 => {
            Ok(Layer::new("output", channels, positions))
        }
        Ok([channels, positions]) => Err(refused(
            &custom.name,
            format!("an output of {channels} x {positions} holds nothing"),
        )),
        Err(reason) => Err(refused(&custom.name, reason)),
    }
}

/// The layers of a sound specification, tried once.
pub(super) fn build(spec: &Spec, init: &mut Init<'_>, device: &Device) -> Result<Layers, SpecError> {
    let layer = output(spec)?;
    let (custom, entry, input) = find(spec)?;
    let refused = |reason: String| refused(&custom.name, reason);
    let layers = Layers((entry.build)(custom, &input, init).map_err(refused)?);
    let mut weights = Weights {
        made: init.made(),
        strange: 0,
    };
    layers.visit(&mut weights);
    if weights.strange > 0 {
        let reason = "weights that `Init` did not make: they would differ from process to process";
        return Err(refused(reason.into()));
    }
    let Shape {
        channels,
        height,
        width,
    } = spec.input;
    let zeros = Tensor::zeros([1, channels, height, width], device);
    let mut dropout = Dropout {
        rate: 0.0,
        noise: None,
    };
    let found = layers.forward(zeros, &mut dropout).dims();
    let expected = [1, layer.channels, layer.positions];
    if found == expected {
        Ok(layers)
    } else {
        let reason = format!("`forward` gives {found:?} for one sample, and `output` says {expected:?}");
        Err(refused(reason))
    }
}

/// Counts weights with identities of their own.
struct Weights {
    made: u64,
    strange: usize,
}

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.strange += usize::from(param.id.val() >= self.made);
    }
}

#[cfg(test)]
mod tests;
