//! How long a classifier takes, as its caller sees it.

use std::time::{Duration, Instant};

use crate::classifier::BATCH;
use crate::{Classifier, ClassifierError};

/// How much is measured: whichever of the two limits is met first, and one call in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    pub calls: usize,
    /// A call under way is not cut short.
    pub at_most: Duration,
}

impl Classifier {
    /// Samples of one forward pass of a network. Fewer cost as much, since a pass is always filled up. A pass of an ONNX
    /// model holds one sample.
    pub const PASS: usize = BATCH;

    /// The time of each of several calls of [`Classifier::logits`] with the same samples, one after the other from one
    /// thread. It is what such a call takes: copying the inputs to the device, whole passes of [`Classifier::PASS`]
    /// samples however few are asked for, and reading the logits back. The device may use more threads than that one.
    pub fn time(
        &mut self,
        inputs: &[f32],
        samples: usize,
        effort: Effort,
    ) -> Result<Vec<Duration>, ClassifierError> {
        let began = Instant::now();
        let mut calls = Vec::new();
        while calls.is_empty() || (calls.len() < effort.calls && began.elapsed() < effort.at_most) {
            let called = Instant::now();
            self.logits(inputs, samples)?;
            calls.push(called.elapsed());
        }
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fixture;
    use crate::{Device, Net};

    fn classifier() -> Classifier {
        let spec = fixture("architecture = 'mlp'\nhidden = [8]", [1, 2, 2], 3);
        Classifier::from(&Net::new(&spec, 0, &Device::flex()).unwrap())
    }

    #[test]
    fn calls_are_bounded_by_number_and_by_time() {
        let mut model = classifier();
        let effort = |calls, at_most| Effort { calls, at_most };
        let inputs = [0.5; 4];
        let few = model.time(&inputs, 1, effort(7, Duration::MAX)).unwrap();
        assert_eq!(few.len(), 7);
        assert!(few.iter().all(|call| !call.is_zero()));
        let hasty = model
            .time(&inputs, 1, effort(usize::MAX, Duration::ZERO))
            .unwrap();
        assert_eq!(hasty.len(), 1, "one call whatever the limits");
        let brief = Duration::from_millis(5);
        let calls = model.time(&inputs, 1, effort(usize::MAX, brief)).unwrap();
        let all_but_the_last: Duration = calls[..calls.len() - 1].iter().sum();
        assert!(all_but_the_last < brief);
    }

    #[test]
    fn what_cannot_be_evaluated_cannot_be_timed() {
        let effort = Effort {
            calls: 1,
            at_most: Duration::MAX,
        };
        assert!(classifier().time(&[0.0; 3], 1, effort).is_err());
    }
}
