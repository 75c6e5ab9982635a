//! The data behind a run's blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use retort_data::Dataset;
use retort_data::order::{Grid, Order};
use retort_runtime::failpoint;
use tracing::warn;

use crate::cache::Key;

/// A name as a number.
pub(crate) fn name_key(name: &str) -> u64 {
    let bytes: Vec<u64> = name.bytes().map(u64::from).collect();
    retort_data::rng::key(&bytes)
}

/// Names samples by epoch and block.
#[derive(Debug)]
pub struct Blocks {
    /// Where the samples come from.
    pub dataset: Arc<Dataset>,
    /// Which sample stands where.
    pub order: Order,
    /// The same for groups that have an order of their own.
    pub orders: BTreeMap<String, Order>,
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

    /// The order of a group.
    pub(crate) fn order_of(&self, group: &str) -> &Order {
        self.orders.get(group).unwrap_or(&self.order)
    }

    /// Positions of a block and the samples that stand there in this epoch.
    pub(crate) fn places(&self, order: &Order, epoch: u32, block: u64) -> impl Iterator<Item = (u64, u32)> {
        let range = self.grid.range(block);
        range.map(move |position| (position, order.sample(epoch, position)))
    }

    /// What makes a block of this data, order and teacher differ from all others of its place.
    pub(crate) fn source(&self, teacher: &str, order: &Order) -> u64 {
        retort_data::rng::key(&[
            name_key(teacher),
            name_key(self.dataset.digest()),
            // Groups of one process have their samples from one seed, but may have different shares of them.
            order.fingerprint(),
            self.grid.positions,
            u64::from(self.grid.block),
        ])
    }

    /// Writes the views of a block's samples, and returns the positions that can't be read; these are
    /// left blank.
    pub(crate) fn read(&self, key: &Key, order: &Order, out: &mut [f32]) -> Vec<u64> {
        let len = self.dataset.shape().len();
        let mut unreadable = Vec::new();
        for ((position, sample), out) in self
            .places(order, key.epoch, key.block)
            .zip(out.chunks_exact_mut(len))
        {
            let view_seed = order.view_seed(key.epoch, position);
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
