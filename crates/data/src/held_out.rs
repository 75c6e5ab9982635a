//! The parts of a data set as they are, and samples that models are measured on.

use crate::split::{Samples, UNLABELLED};
use crate::store::Store;

/// One part of a [`Dataset`](crate::Dataset), as it is: all labels, no views.
#[derive(Clone, Copy)]
pub struct SplitRef<'a> {
    pub(crate) store: &'a Store,
    pub(crate) samples: &'a Samples,
}

impl<'a> SplitRef<'a> {
    /// Number of samples.
    pub fn len(&self) -> u32 {
        self.samples.len()
    }

    /// Whether the part has no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of a sample that have a target, ascending, and the true label of each.
    ///
    /// # Panics
    ///
    /// If there is no such sample, or it has no label, which happens in the training part only
    /// ([`Dataset::targets`](crate::Dataset::targets) knows).
    pub fn targets(&self, sample: u32) -> impl Iterator<Item = (usize, u32)> + 'a {
        let targets = self.samples.targets(sample);
        targets.inspect(move |(_, label)| assert_ne!(*label, UNLABELLED, "sample {sample} has no label"))
    }

    /// The true label of a sample's first target.
    ///
    /// # Panics
    ///
    /// As [`SplitRef::targets`].
    pub fn label(&self, sample: u32) -> u32 {
        let first = self.targets(sample).next();
        first.expect("a loader lets no sample in without a target").1
    }

    /// Bytes of text that all targets of the part stand for, what stands between documents counted as one. `None` unless the
    /// part is the test part of a language model's text that its tokens tell whole.
    pub fn text_bytes(&self) -> Option<u64> {
        let bytes = &self.samples.bytes;
        (!bytes.is_empty()).then(|| bytes.iter().map(|&bytes| u64::from(bytes)).sum())
    }

    /// The first samples of the part, at most so many, to measure models on.
    ///
    /// # Panics
    ///
    /// As [`SplitRef::targets`].
    pub fn held_out(&self, most: u32) -> HeldOut {
        let (values, rows) = (self.store.values(), self.samples.targets_each());
        let samples = self.len().min(most);
        let mut inputs = vec![0.0; samples as usize * values];
        for (sample, out) in (0..samples).zip(inputs.chunks_exact_mut(values)) {
            self.write(sample, out);
        }
        let targets = (0..samples).flat_map(|sample| {
            let first = sample as usize * rows;
            self.targets(sample).map(move |(row, label)| (first + row, label))
        });
        HeldOut::of_rows(inputs, samples as usize * rows, targets)
    }

    /// Writes a sample's plain values: pixels from 0 to 1, the signal of `mnist1d`, a spectrum, or token ids.
    ///
    /// # Panics
    ///
    /// If there is no such sample, `out` is not as long as [`Shape::len`](crate::Shape::len) says, or samples lie in a file
    /// (`dataset.memory`) and the disk fails.
    pub fn write(&self, sample: u32, out: &mut [f32]) {
        self.store.read(self.samples.rows[sample as usize], out);
    }
}

/// Held-out samples side by side, with the targets that count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldOut {
    /// Plain values, sample by sample.
    pub inputs: Vec<f32>,
    /// The label of each row that has a target.
    pub labels: Vec<u32>,
    /// Rows of logits that a model gives for them.
    rows: usize,
    /// Which of them have a target, ascending; `None`: all.
    counted: Option<Vec<usize>>,
}

impl HeldOut {
    /// Samples with one target each.
    pub fn new(inputs: Vec<f32>, labels: Vec<u32>) -> Self {
        Self {
            rows: labels.len(),
            inputs,
            labels,
            counted: None,
        }
    }

    /// Samples of so many rows, of which `targets` have a label.
    pub(crate) fn of_rows(
        inputs: Vec<f32>,
        rows: usize,
        targets: impl Iterator<Item = (usize, u32)>,
    ) -> Self {
        let (counted, labels): (Vec<usize>, Vec<u32>) = targets.unzip();
        Self {
            inputs,
            counted: (counted.len() < rows).then_some(counted),
            labels,
            rows,
        }
    }

    /// The logits of the rows that have a target, of all that a model gives.
    ///
    /// # Panics
    ///
    /// If there are not as many as rows of `classes` numbers.
    pub fn counted(&self, logits: Vec<f32>, classes: usize) -> Vec<f32> {
        assert_eq!(logits.len(), self.rows * classes, "logits of the samples");
        let Some(rows) = &self.counted else { return logits };
        let row = |row: &usize| &logits[row * classes..][..classes];
        rows.iter().flat_map(row).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_target_do_not_count() {
        let all = HeldOut::new(vec![0.5; 6], vec![1, 0, 1]);
        assert_eq!(all.counted(vec![1.0; 6], 2), [1.0; 6]);
        let targets = [(0, 3), (1, 2), (3, 1)].into_iter();
        let some = HeldOut::of_rows(vec![0.5; 4], 4, targets);
        assert_eq!(some.labels, [3, 2, 1]);
        let logits = vec![0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 3.0, 3.1];
        assert_eq!(some.counted(logits, 2), [0.0, 0.1, 1.0, 1.1, 3.0, 3.1]);
    }
}
