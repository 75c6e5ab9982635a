//! Distillation losses, one file each: formula, reference, shapes.
//!
//! Everything works on tensors of any device, with or without autodiff, and never reads one back to the host: a caller
//! collects the scalars of a step and transfers them together. This crate knows burn and must never depend on a
//! runtime or a wire format.
//!
//! * [`CrossEntropy`]: the hard loss, over the labelled samples of a step.
//! * [`Distillation`]: the soft loss of Hinton et al., over all samples.
//! * [`SparseDistillation`]: the same over a teacher's k most probable classes and one bucket for the rest.
//! * [`Combined`]: `(1 - alpha) CE + alpha T² KL`, and what share of the gradient came from the teacher.

#![warn(missing_docs)]

mod combined;
mod hard;
mod kd;
mod sparse;
mod targets;

pub use combined::{Combined, Loss};
pub use hard::{CrossEntropy, Labels};
pub use kd::Distillation;
pub use sparse::{Sparse, SparseDistillation};
pub use targets::Targets;

#[cfg(test)]
mod reference;
