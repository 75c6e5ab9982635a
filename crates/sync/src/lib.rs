//! The arithmetic that keeps the replicas of one model in step: what they send is [`encode`]d, [`mean`] merges it, and
//! [`Outer`] makes the next state of it.
//!
//! All of it works on plain numbers in a fixed order, in f32, so that whoever computes it from the same bytes gets the same
//! bits, whatever device the models are on. This crate must never depend on a runtime, a wire format or a tensor library.

#![warn(missing_docs)]

mod mean;
mod outer;
mod wire;

pub use mean::{Part, PartError, mean};
pub use outer::Outer;
pub use wire::{Wire, WireError, decode, encode};
