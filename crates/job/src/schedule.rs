//! Values that may change over a run, by committed positions rather than by calls.

use serde::{Deserialize, Serialize};

/// A number, or a linear ramp over a share of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Schedule {
    Constant(f64),
    Ramp(Ramp),
}

/// `{ from = 0.0, to = 0.9, over = 0.5 }`: linear over the first half of the run, then constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    pub from: f64,
    pub to: f64,
    /// Share of the run, 0 < over <= 1.
    pub over: f64,
}

impl Schedule {
    /// The value after `progress` (0..=1) of the run's positions.
    pub fn at(&self, progress: f64) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Ramp(Ramp { from, to, over }) => from + (to - from) * (progress / over).clamp(0.0, 1.0),
        }
    }

    /// Smallest and largest value it can take.
    pub fn bounds(&self) -> (f64, f64) {
        match *self {
            Self::Constant(value) => (value, value),
            Self::Ramp(Ramp { from, to, .. }) => (from.min(to), from.max(to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramp_reaches_its_end_and_stays() {
        let ramp = Schedule::Ramp(Ramp {
            from: 0.0,
            to: 0.8,
            over: 0.5,
        });
        assert_eq!(ramp.at(0.0), 0.0);
        assert_eq!(ramp.at(0.25), 0.4);
        assert_eq!(ramp.at(0.5), 0.8);
        assert_eq!(ramp.at(1.0), 0.8);
    }
}
