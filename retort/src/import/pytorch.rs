//! A network of ours with weights that PyTorch trained.

use std::path::Path;

use retort_models::{Card, Classifier, DatasetReference, Device, Export, Net};

use super::Config;
use crate::failure::Failure;

/// The content of the folder, checked, and what else to say of it.
pub(super) fn import(
    file: &Path,
    config: &Config,
    (name, class_names): (String, Vec<String>),
) -> Result<(Export, String), Failure> {
    let refused = |e: anyhow::Error| Failure::input(format!("{}: {e:#}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| refused(e.into()))?;
    let model = config
        .model
        .clone()
        .ok_or_else(|| refused(anyhow::anyhow!("no model")))?;
    let spec = config.spec(model, class_names.len());
    let net = Net::new(&spec, 0, &Device::flex()).map_err(|e| refused(e.into()))?;
    let net = net
        .with_pytorch(&bytes, &config.names)
        .map_err(|e| refused(e.into()))?;
    super::probe(&mut Classifier::from(&net)).map_err(|e| refused(anyhow::Error::msg(e)))?;
    let card = Card::new(name, &spec, net.parameters(), DatasetReference::default());
    let export = Export::new(Card { class_names, ..card }, net.to_safetensors());
    Ok((export, "; PyTorch's weights".to_owned()))
}
