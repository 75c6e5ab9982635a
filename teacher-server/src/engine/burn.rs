//! [`TeacherEngine`] on burn, and on models from elsewhere.

use std::path::Path;

use retort_models::{Choice, Classifier, Spec};

use super::{Error, Layer, TeacherEngine};

/// A classifier on one device.
pub struct BurnEngine {
    classifier: Classifier,
}

impl BurnEngine {
    /// The model of an export folder.
    pub fn load(folder: &Path, device: Choice) -> Result<Self, Error> {
        let classifier = Classifier::load(folder, &device.open()?)?;
        Ok(Self { classifier })
    }

    /// The model with published weights, or what stands for them, as the specification says.
    pub fn from_weights(spec: &Spec, weights: &[u8], device: Choice) -> Result<Self, Error> {
        let classifier = super::classifier(spec, weights, &device.open()?)?;
        Ok(Self { classifier })
    }

    /// What is needed to build the same network.
    pub fn spec(&self) -> &Spec {
        self.classifier.spec()
    }
}

impl TeacherEngine for BurnEngine {
    fn input_len(&self) -> usize {
        self.spec().input_len()
    }

    fn classes(&self) -> usize {
        self.classifier.classes()
    }

    fn rows(&self) -> usize {
        self.classifier.rows()
    }

    fn logits(&mut self, inputs: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        Ok(self.classifier.logits(inputs, samples)?)
    }

    fn layers(&self) -> Vec<Layer> {
        self.spec().layers()
    }

    fn features(
        &mut self,
        inputs: &[f32],
        samples: usize,
        layer: &str,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        self.spec()
            .layer(layer)
            .map_err(|e| Error::Layer(e.to_string()))?;
        Ok(self.classifier.features(inputs, samples, layer)?)
    }
}
