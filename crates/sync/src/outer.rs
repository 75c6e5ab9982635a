//! The outer step of DiLoCo: what many inner steps of several replicas amount to is one gradient.

use serde::{Deserialize, Serialize};

/// Nesterov's momentum on the mean displacement d of the replicas since the last round, of how far they came from the
/// shared weights θ: `m = μ m + d`, `θ = θ - η (d + μ m)`. With η = 1 and μ = 0 the weights become the mean of the replicas'.
///
/// Reference: Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, 2023,
/// <https://arxiv.org/abs/2311.08105>.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outer {
    /// η, greater than 0.
    pub learning_rate: f32,
    /// μ, 0 <= μ < 1.
    pub momentum: f32,
}

impl Default for Outer {
    /// The paper's.
    fn default() -> Self {
        Self {
            learning_rate: 0.7,
            momentum: 0.9,
        }
    }
}

impl Outer {
    /// One step. The displacement is `θ at the round's start - θ at its end`, a descent direction's opposite like a
    /// gradient.
    ///
    /// # Panics
    ///
    /// If the three are not of one length.
    pub fn step(self, weights: &mut [f32], momentum: &mut [f32], displacement: &[f32]) {
        assert_eq!(
            (weights.len(), momentum.len()),
            (displacement.len(), displacement.len()),
            "numbers of one model"
        );
        for ((weight, momentum), d) in weights.iter_mut().zip(momentum).zip(displacement) {
            *momentum = self.momentum * *momentum + d;
            *weight -= self.learning_rate * (d + self.momentum * *momentum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_computed_by_hand() {
        let outer = Outer {
            learning_rate: 0.5,
            momentum: 0.5,
        };
        let (mut weights, mut momentum) = ([1.0, -1.0], [0.0, 2.0]);
        outer.step(&mut weights, &mut momentum, &[1.0, 0.0]);
        // m = 0.5 m + d = 1, 1; θ -= 0.5 (d + 0.5 m) = 0.75, 0.25.
        assert_eq!((weights, momentum), ([0.25, -1.25], [1.0, 1.0]));
    }

    #[test]
    fn without_momentum_the_weights_become_the_replicas_mean() {
        let outer = Outer {
            learning_rate: 1.0,
            momentum: 0.0,
        };
        let (mut weights, mut momentum) = ([4.0], [0.0]);
        outer.step(&mut weights, &mut momentum, &[4.0 - 2.5]);
        assert_eq!(weights, [2.5]);
    }
}
