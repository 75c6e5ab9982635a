//! Networks of ours with weights that PyTorch trained: a `state_dict()` in a safetensors file.
//!
//! Weights are found by name. Where PyTorch's differ, the caller says which part stands for which of ours. PyTorch's linear layers
//! hold `[outputs, inputs]`, ours `[inputs, outputs]`; its norms call scale and shift `weight` and `bias`, ours `gamma` and `beta`.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::SafeTensors;
use thiserror::Error;

use crate::Net;
use crate::weights::{Error as WeightsError, numbers};

/// Names that are listed in an error, at most.
const LISTED: usize = 6;

/// Why a file's weights are not those of a network.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{ours} of this network is not in the file{}: names says which part of it stands for which of ours, and {left} is left over",
        if ours == theirs { String::new() } else { format!(" as {theirs}") })]
    Missing {
        ours: String,
        theirs: String,
        /// What the file has that stands for nothing so far.
        left: String,
    },
    #[error("{left} stands for nothing in this network")]
    Unexpected { left: String },
    #[error("names: {0:?} is no part of this network, which has {1}")]
    Unknown(String, String),
}

impl Net {
    /// The network with the weights of a PyTorch file. `names` are beginnings of our names, up to a dot or the end, and what
    /// stands in their place there.
    ///
    /// # Errors
    /// The file is no safetensors file of F32, lacks a weight, has another shape, or holds more than the network.
    pub fn with_pytorch(self, bytes: &[u8], names: &BTreeMap<String, String>) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(WeightsError::Format)?;
        let (layout, linear) = (self.layout(), self.linear_weights());
        if let Some(part) = names
            .keys()
            .find(|part| layout.iter().all(|(name, _)| rest(name, part).is_none()))
        {
            let ours: Vec<&str> = layout.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::Unknown(part.clone(), list(&ours)));
        }
        let mut used = BTreeSet::new();
        let mut values = BTreeMap::new();
        for (name, shape) in &layout {
            let candidates = theirs(name, names);
            let there = candidates.iter().find(|name| file.tensor(name).is_ok());
            let Some(there) = there else {
                let sought = layout.iter().flat_map(|(name, _)| theirs(name, names)).collect();
                return Err(Error::Missing {
                    ours: name.clone(),
                    theirs: candidates[0].clone(),
                    left: beside(&file, &sought).unwrap_or_else(|| "nothing".to_owned()),
                });
            };
            let transposed = linear.contains(name);
            let expected: Vec<usize> = if transposed {
                shape.iter().rev().copied().collect()
            } else {
                shape.clone()
            };
            let mut weight = numbers(&file, there, &expected)?;
            if let (true, &[inputs, _]) = (transposed, &shape[..]) {
                let column = |i: usize| weight.iter().skip(i).step_by(inputs).copied();
                weight = (0..inputs).flat_map(column).collect();
            }
            used.insert(there.clone());
            values.insert(name.clone(), weight);
        }
        match beside(&file, &used) {
            Some(left) => Err(Error::Unexpected { left }),
            None => Ok(self.assign(values)),
        }
    }
}

/// What follows `part` in a name that begins with it.
fn rest<'a>(name: &'a str, part: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(part)?;
    (rest.is_empty() || rest.starts_with('.')).then_some(rest)
}

/// How PyTorch may call a weight of ours, the likelier name first.
fn theirs(name: &str, names: &BTreeMap<String, String>) -> Vec<String> {
    let longest = names
        .iter()
        .filter_map(|(part, theirs)| Some((part.len(), theirs, rest(name, part)?)))
        .max_by_key(|(len, ..)| *len);
    let name = longest.map_or_else(|| name.to_owned(), |(_, theirs, rest)| format!("{theirs}{rest}"));
    let of_norm = [(".gamma", ".weight"), (".beta", ".bias")];
    let other = of_norm
        .iter()
        .find_map(|(ours, theirs)| Some(format!("{}{theirs}", name.strip_suffix(ours)?)));
    other.into_iter().chain([name]).collect()
}

/// What a file has beside these names.
fn beside(file: &SafeTensors<'_>, known: &BTreeSet<String>) -> Option<String> {
    let names = file.names().into_iter();
    let others: Vec<&str> = names.filter(|name| !known.contains(*name)).collect();
    (!others.is_empty()).then(|| list(&others))
}

/// The first names in their order.
fn list(names: &[&str]) -> String {
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let more = sorted.len().saturating_sub(LISTED);
    sorted.truncate(LISTED);
    match more {
        0 => sorted.join(", "),
        more => format!("{} and {more} more", sorted.join(", ")),
    }
}

#[cfg(test)]
mod tests;
