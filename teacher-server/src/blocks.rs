//! The data behind a run's blocks.

use std::sync::Arc;

use retort_data::Dataset;
use retort_data::order::{Grid, Order};
use retort_runtime::failpoint;
use tracing::warn;

use crate::cache::Key;

/// Names samples by epoch and block.
#[derive(Debug)]
pub struct Blocks {
    /// Where the samples come from.
    pub dataset: Arc<Dataset>,
    /// Which sample stands where.
    pub order: Order,
    /// How an epoch is cut.
    pub grid: Grid,
}

impl Blocks {
    /// Samples of a block; 0: it lies outside the grid.
    pub(crate) fn samples(&self, block: u64) -> u64 {
        if block >= self.grid.blocks() {
            return 0;
        }
        let range = self.grid.range(block);
        range.end - range.start
    }

    /// Positions of a block and the samples that stand there in this epoch.
    pub(crate) fn places(&self, epoch: u32, block: u64) -> impl Iterator<Item = (u64, u32)> {
        let range = self.grid.range(block);
        range.map(move |position| (position, self.order.sample(epoch, position)))
    }

    /// What makes a block of this data, order and teacher differ from all others of its place.
    pub(crate) fn source(&self, teacher: &str) -> u64 {
        let words = |text: &str| -> u64 {
            let bytes: Vec<u64> = text.bytes().map(u64::from).collect();
            retort_data::rng::key(&bytes)
        };
        retort_data::rng::key(&[
            words(teacher),
            words(self.dataset.digest()),
            // Order and views are functions of the seed: what two places hold tells it apart.
            u64::from(self.order.sample(0, 0)),
            self.order.view_seed(0, 0),
            self.grid.positions,
            u64::from(self.grid.block),
        ])
    }

    /// Writes the views of a block's samples, and returns the positions that can't be read; these are
    /// left blank.
    pub(crate) fn read(&self, key: &Key, out: &mut [f32]) -> Vec<u64> {
        let len = self.dataset.shape().len();
        let mut unreadable = Vec::new();
        for ((position, sample), out) in self.places(key.epoch, key.block).zip(out.chunks_exact_mut(len)) {
            let view_seed = self.order.view_seed(key.epoch, position);
            let read = failpoint::guard(sample, false, || self.dataset.view(sample, view_seed, out));
            if let Err(reason) = read {
                warn!(sample, "can't be read: {reason}");
                out.fill(0.0);
                unreadable.push(position);
            }
        }
        unreadable
    }
}
