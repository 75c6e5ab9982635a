//! Distillation losses, one file each: formula, reference, shapes.
//!
//! Everything works on tensors of any device, with or without autodiff, and never reads one back to the host: a caller
//! collects the scalars of a step and transfers them together. This crate knows burn and must never depend on a
//! runtime or a wire format.
//!
//! * [`CrossEntropy`]: the hard loss, over the labelled samples of a step.
//! * [`Distillation`]: the soft loss of Hinton et al., over all samples.
//! * [`SparseDistillation`]: the same over a teacher's k most probable classes and one bucket for the rest.
//! * [`ReverseKl`], [`Jsd`], [`Mse`], [`Dkd`]: other soft losses, chosen by [`Objective`].
//! * [`Combined`]: `(1 - alpha)` hard + `alpha` soft, and what share of the gradient came from the teacher.
//! * [`FeatureLoss`]: what layers hold rather than what the model answers: [`Hint`], [`Attention`], [`Cosine`],
//!   [`Relational`].

#![warn(missing_docs)]

mod combined;
mod dkd;
mod feature;
mod hard;
mod jsd;
mod kd;
mod mse;
mod objective;
mod reverse_kl;
mod sparse;
mod targets;

pub use combined::{Combined, Loss};
pub use dkd::Dkd;
pub use feature::{Attention, Cosine, FeatureLoss, Hint, Relational};
pub use hard::{CrossEntropy, Labels, Second};
pub use jsd::Jsd;
pub use kd::Distillation;
pub use mse::Mse;
pub use objective::{CutTargets, Objective};
pub use reverse_kl::ReverseKl;
pub use sparse::{Sparse, SparseDistillation};
pub use targets::Targets;

#[cfg(test)]
mod reference;
