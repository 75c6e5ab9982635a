//! Teachers on servers that speak the Open Inference Protocol (KServe v2) over gRPC, such as Triton: what they say of
//! themselves, and their answers.
//!
//! [`inspect`] asks a server what a model takes and gives; that is kept as `kserve.json` beside the card of an imported
//! teacher and pins it. [`open`] makes the classifier of both; nothing is asked before it is used.

mod answer;
mod client;
mod metadata;

pub use self::client::inspect;
pub use self::metadata::{Metadata, Tensor};

use retort_models::{Classifier, Spec, foreign};
use thiserror::Error;

use self::client::Client;

/// Why a model on a server cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Address(#[from] retort_client::BadAddress),
    #[error("{endpoint}: {reason}: is a server of the Open Inference Protocol (gRPC) there?")]
    Away { endpoint: String, reason: String },
    #[error("{endpoint}: {model} is not ready there: {reason}")]
    NotReady {
        endpoint: String,
        model: String,
        reason: String,
    },
    #[error("the server has versions {found:?} of {model}, expected {expected}")]
    Version {
        model: String,
        found: Vec<String>,
        expected: String,
    },
    #[error("the server calls the model {found:?}, expected {model:?}")]
    Name { model: String, found: String },
    #[error("{key} is {name:?}, expected one of {known:?}")]
    Port {
        key: &'static str,
        name: String,
        known: Vec<String>,
    },
    #[error("the model needs the inputs {needs:?}, expected {input:?} alone")]
    Inputs { needs: Vec<String>, input: String },
    #[error("{key} {name:?} is {found}, expected {expected}")]
    Type {
        key: &'static str,
        name: String,
        found: String,
        expected: &'static str,
    },
    #[error("a sample of {bytes} bytes does not fit a message of {most}")]
    Size { bytes: usize, most: usize },
    #[error("the server describes the model otherwise than when it was imported: {now}; import it again")]
    Changed { now: String },
    #[error(transparent)]
    Foreign(#[from] foreign::Error),
    #[error("kserve.json: {0}")]
    Pinned(#[source] serde_json::Error),
    #[error("nothing says how the model is used")]
    NoUse,
    #[error("start a thread for the connection")]
    Thread(#[source] std::io::Error),
}

/// The classifier that a model on a server is. `pinned`: the bytes of `kserve.json`.
pub fn open(spec: &Spec, pinned: &[u8]) -> Result<Classifier, Error> {
    let kserve = spec.model.kserve.as_ref().ok_or(Error::NoUse)?;
    let metadata: Metadata = serde_json::from_slice(pinned).map_err(Error::Pinned)?;
    let adapter = metadata.adapter(spec, &kserve.ports)?;
    let client = Client::new(kserve, &adapter)?;
    Ok(Classifier::remote(adapter, Box::new(client)))
}

/// Whether the server has the model still as it was when it was imported.
pub fn verify(spec: &Spec, pinned: &[u8]) -> Result<(), Error> {
    let kserve = spec.model.kserve.as_ref().ok_or(Error::NoUse)?;
    let before: Metadata = serde_json::from_slice(pinned).map_err(Error::Pinned)?;
    let version = Some(kserve.version.as_str()).filter(|version| !version.is_empty());
    let now = inspect(&kserve.endpoint, &kserve.model, version)?;
    if (&now.inputs, &now.outputs) == (&before.inputs, &before.outputs) {
        return Ok(());
    }
    let now = format!("inputs {:?}, outputs {:?}", now.inputs, now.outputs);
    Err(Error::Changed { now })
}
