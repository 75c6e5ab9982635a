//! What is kept of a finished run.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::report::Curves;

/// A run's report, and what that leaves out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    pub(super) report: Value,
    pub(super) curves: Curves,
    /// Of each model, seed by seed, the class that it names for each test sample.
    pub(super) predictions: BTreeMap<String, Vec<Vec<usize>>>,
}

impl From<Value> for Measured {
    fn from(report: Value) -> Self {
        Self {
            report,
            ..Self::default()
        }
    }
}

impl Measured {
    /// Samples that a group trained on until it was measured to be this accurate on held-out data; none if it never was.
    pub(super) fn samples_to(&self, group: &str, accuracy: f64) -> Option<f64> {
        let curve = self.curves.groups.iter().find(|g| g.group == group)?;
        let reached = |p: &&crate::report::Point| p.held_out_accuracy.is_some_and(|a| a >= accuracy);
        Some(curve.points.iter().find(reached)?.positions as f64)
    }

    /// Of a run with one seed.
    pub(super) fn predictions(&self, model: &str) -> Option<Vec<usize>> {
        self.predictions.get(model)?.first().cloned()
    }
}
