//! Networks that Retort trains and serves, the devices they run on, and their exports.
//!
//! * [`Choice`] is a device by name; [`Choice::open`] makes it usable.
//! * [`Spec`] says everything about a network but its weights; [`Net`] is the network, a burn module.
//! * Weights travel as safetensors ([`Net::to_safetensors`]) or as one flat vector ([`Net::flat`]), always in the order of
//!   their names.
//! * [`Export`] is a folder with `model.safetensors` (or what stands for weights of a model from elsewhere) and its
//!   [`Card`]; [`Classifier`] evaluates one with plain data.
//! * [`Net::with_pytorch`] takes weights that PyTorch trained, [`bert`] brings in an encoder of Hugging Face's, [`probe`] fits a classifier to what one puts out.
//!
//! This crate knows burn and must never depend on a runtime or a wire format.

pub mod bert;
mod card;
mod classifier;
pub mod device;
pub mod foreign;
pub mod host;
mod net;
pub mod onnx;
pub mod probe;
mod pytorch;
mod timing;
mod weights;

pub use card::{CARD_FILE, Card, DatasetReference, Error as CardError, Export};
pub use classifier::{Classifier, Error as ClassifierError, Evaluation};
pub use device::Choice;
pub use net::custom;
pub use net::{Layer, Net, Outputs, Pass, PassError, Preprocessing, Projection, Spec, SpecError};
pub use pytorch::Error as PytorchError;
pub use timing::Effort;
pub use weights::Error as WeightsError;

/// The device that tensors live on.
pub use burn::tensor::Device;
