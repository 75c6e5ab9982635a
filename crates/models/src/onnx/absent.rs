//! What stands for a model in a build without the cargo feature `onnx`: nothing that could exist.

use super::Error;
use crate::Spec;
use crate::foreign::Ports;

#[derive(Debug)]
pub(crate) enum Graph {}

/// Refuses to look into the file.
pub fn ports(_: &[u8]) -> Result<Ports, Error> {
    Err(Error::NotCompiledIn)
}

impl Graph {
    pub(crate) fn new(_: &Spec, _: &[u8]) -> Result<Self, Error> {
        Err(Error::NotCompiledIn)
    }

    pub(crate) fn spec(&self) -> &Spec {
        match *self {}
    }

    pub(crate) fn parameters(&self) -> usize {
        match *self {}
    }

    pub(crate) fn logits(&self, _: &[f32]) -> Result<Vec<f32>, Error> {
        match *self {}
    }
}
