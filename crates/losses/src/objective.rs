//! Which soft loss a student minimises.

use std::error::Error;
use std::fmt;

use burn::tensor::Tensor;

use crate::{Dkd, Jsd, Labels, Mse, ReverseKl, Targets};

/// The soft loss of [`Combined`](crate::Combined).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// [`Distillation`](crate::Distillation), or [`SparseDistillation`](crate::SparseDistillation) of cut targets.
    Kd,
    /// [`ReverseKl`].
    ReverseKl,
    /// [`Jsd`].
    Jsd {
        /// The teacher's share of the mixture, within 0..=1.
        beta: f64,
    },
    /// [`Mse`], of whole distributions.
    Mse,
    /// [`Dkd`], of whole distributions and labelled samples.
    Dkd {
        /// Of the part about the label's class, at least 0.
        alpha: f64,
        /// Of the part about the other classes, at least 0.
        beta: f64,
    },
}

/// An objective was to compare all classes, and a teacher left some out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutTargets {
    /// The objective, by name.
    pub objective: &'static str,
}

impl fmt::Display for CutTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objective = self.objective;
        write!(
            f,
            "loss {objective} needs all classes of a teacher, and some are left out"
        )
    }
}

impl Error for CutTargets {}

impl Objective {
    /// The mean over the batch, over its labelled samples for [`Objective::Dkd`], with the factor T² for all but
    /// [`Objective::Mse`].
    ///
    /// # Shapes
    ///
    /// - logits: `[n, classes]`, the student's, unsoftened
    /// - labels: `[n]`
    /// - teacher: of `n` samples, at `temperature`
    /// - output: `[1]`
    pub fn forward(
        &self,
        logits: Tensor<2>,
        labels: &Labels,
        teacher: &Targets,
        temperature: f64,
    ) -> Result<Tensor<1>, CutTargets> {
        let whole = |objective| match teacher {
            Targets::Dense(teacher) => Ok(teacher.clone()),
            Targets::Sparse(_) => Err(CutTargets { objective }),
        };
        Ok(match *self {
            Self::Kd => teacher.divergence(logits, temperature).mean() * (temperature * temperature),
            Self::ReverseKl => ReverseKl { temperature }.forward(logits, teacher),
            Self::Jsd { beta } => Jsd { temperature, beta }.forward(logits, teacher),
            Self::Mse => Mse { temperature }.forward(logits, whole("mse")?),
            Self::Dkd { alpha, beta } => Dkd {
                temperature,
                alpha,
                beta,
            }
            .forward(logits, labels, whole("dkd")?),
        })
    }
}
