//! What the replicas of a model send each other at the end of a round, and what they make of the merge.
//!
//! Weights are held here as plain numbers and changed by [`retort_sync`] alone, so that replicas on different devices end
//! a round with the same bits. Only `step` lets each device apply the merge: its replicas must be of one kind.

use bytes::Bytes;
use retort_job::{Outer, Strategy, Sync, Wire};

use crate::trainer::{Error, Trainer};

/// The outer momentum of `diloco` in a version: little-endian f32 in the order of the weights.
pub(crate) const OUTER_FILE: &str = "outer.bin";

/// One replica's side of `[sync]`.
pub(crate) struct Exchange {
    wire: Wire,
    /// blake3 of the weights at the start of the round.
    hash: String,
    kind: Kind,
}

/// What differs between the strategies.
enum Kind {
    /// `local-sgd`: weights up, their mean down. Each replica's optimizer has a state of its own.
    Weights,
    /// `diloco`: how far the weights came up, the mean of that down, and an outer step. Each replica's inner optimizer has a
    /// state of its own; the outer momentum is the same everywhere.
    Displacement {
        outer: Outer,
        /// Weights at the start of the round.
        base: Vec<f32>,
        momentum: Vec<f32>,
    },
    /// `step`: gradient up, the mean gradient down. The optimizer's state is the same everywhere.
    Gradient,
}

/// What a replica sends.
pub(crate) struct Outgoing {
    pub(crate) update: Bytes,
    /// The state at the start of the round, for a replica that joins; empty unless it was asked for.
    pub(crate) state: Bytes,
    pub(crate) hash: String,
}

impl Outgoing {
    /// Of a replica that joins, or has nobody to exchange anything with.
    pub(crate) fn nothing() -> Self {
        Self {
            update: Bytes::new(),
            state: Bytes::new(),
            hash: String::new(),
        }
    }
}

impl Exchange {
    /// Of a trainer that is at the start of a round; `None`: the job has replicas exchange nothing.
    pub(crate) fn new(sync: &Sync, trainer: &dyn Trainer) -> Option<Self> {
        let flat = trainer.flat();
        let kind = match sync.strategy {
            Strategy::None => return None,
            Strategy::LocalSgd => Kind::Weights,
            Strategy::Step => Kind::Gradient,
            Strategy::Diloco => Kind::Displacement {
                outer: sync.outer.unwrap_or_default(),
                momentum: vec![0.0; flat.len()],
                base: flat.clone(),
            },
        };
        Some(Self {
            wire: sync.wire(),
            hash: hash(&flat),
            kind,
        })
    }

    /// Whether batches only add to a gradient, which the merge applies.
    pub(crate) fn accumulates(&self) -> bool {
        matches!(self.kind, Kind::Gradient)
    }

    /// Weights came from a version; so did the momentum, if it has one.
    pub(crate) fn restored(&mut self, trainer: &mut dyn Trainer, outer: Option<&[u8]>) -> Result<(), Error> {
        trainer.forget_gradient(); // of a state that was given up
        let flat = trainer.flat();
        self.hash = hash(&flat);
        if let Kind::Displacement { base, momentum, .. } = &mut self.kind {
            *momentum = match outer {
                Some(bytes) => numbers(bytes, flat.len())?,
                None => vec![0.0; flat.len()],
            };
            *base = flat;
        }
        Ok(())
    }

    /// What goes with a snapshot, which stands at the start of a round.
    pub(crate) fn file(&self) -> Option<(String, Bytes)> {
        match &self.kind {
            Kind::Displacement { momentum, .. } => Some((OUTER_FILE.to_owned(), bytes(momentum).into())),
            Kind::Weights | Kind::Gradient => None,
        }
    }

    /// What the round came to here.
    pub(crate) fn export(&mut self, trainer: &mut dyn Trainer, hand_over: bool) -> Result<Outgoing, Error> {
        let state = if hand_over {
            self.state(trainer)?
        } else {
            Bytes::new()
        };
        let update = match &self.kind {
            Kind::Weights => trainer.flat(),
            Kind::Gradient => trainer.gradient(),
            Kind::Displacement { base, .. } => {
                let mut flat = trainer.flat();
                flat.iter_mut()
                    .zip(base)
                    .for_each(|(now, then)| *now = then - *now);
                flat
            }
        };
        Ok(Outgoing {
            update: retort_sync::encode(&update, self.wire).into(),
            state,
            hash: self.hash.clone(),
        })
    }

    /// Takes the merge over; `learning_rate` is that of a step of all replicas together.
    pub(crate) fn import(
        &mut self,
        trainer: &mut dyn Trainer,
        merged: &[u8],
        learning_rate: f64,
    ) -> Result<(), Error> {
        let merged = retort_sync::decode(merged, self.wire)?;
        match &mut self.kind {
            Kind::Weights => trainer.set_flat(&merged)?,
            Kind::Gradient => trainer.apply(&merged, learning_rate)?,
            Kind::Displacement {
                outer,
                base,
                momentum,
            } => {
                if merged.len() != base.len() {
                    return Err(size(merged.len(), base.len()));
                }
                outer.step(base, momentum, &merged);
                trainer.set_flat(base)?;
            }
        }
        self.hash = hash(&trainer.flat());
        Ok(())
    }

    /// Weights, then what the strategy keeps beside them: the outer momentum, or the optimizer's state.
    fn state(&self, trainer: &dyn Trainer) -> Result<Bytes, Error> {
        let (weights, rest) = match &self.kind {
            Kind::Displacement { base, momentum, .. } => (bytes(base), bytes(momentum)),
            Kind::Weights => (bytes(&trainer.flat()), Vec::new()),
            Kind::Gradient => {
                let mut rest = trainer.steps().to_le_bytes().to_vec();
                rest.extend(trainer.optimizer_state()?);
                (bytes(&trainer.flat()), rest)
            }
        };
        Ok([weights, rest].concat().into())
    }

    /// Becomes what another replica handed over.
    pub(crate) fn take_over(&mut self, trainer: &mut dyn Trainer, state: &[u8]) -> Result<(), Error> {
        let len = trainer.flat().len();
        let (weights, rest) = state
            .split_at_checked(4 * len)
            .ok_or_else(|| size(state.len() / 4, len))?;
        let weights = numbers(weights, len)?;
        trainer.forget_gradient(); // of a state that was given up
        trainer.set_flat(&weights)?;
        match &mut self.kind {
            Kind::Displacement { base, momentum, .. } => {
                *momentum = numbers(rest, len)?;
                *base = weights;
            }
            Kind::Gradient => {
                let (steps, optimizer) = rest.split_first_chunk::<8>().ok_or(Error::OptimizerState)?;
                trainer.load_optimizer_state(optimizer)?;
                trainer.set_steps(u64::from_le_bytes(*steps));
            }
            Kind::Weights => {}
        }
        self.hash = hash(&trainer.flat());
        Ok(())
    }
}

fn size(found: usize, expected: usize) -> Error {
    Error::Size {
        what: "merged numbers",
        found,
        expected,
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    retort_sync::encode(values, Wire::F32)
}

fn numbers(bytes: &[u8], expected: usize) -> Result<Vec<f32>, Error> {
    let values = retort_sync::decode(bytes, Wire::F32)?;
    if values.len() == expected {
        Ok(values)
    } else {
        Err(size(values.len(), expected))
    }
}

fn hash(values: &[f32]) -> String {
    blake3::hash(&bytes(values)).to_hex().to_string()
}

#[cfg(test)]
mod tests;
