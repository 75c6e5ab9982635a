//! The order in which an epoch goes through the samples, and the grid of blocks on it.
//!
//! Position `p` of epoch `e` maps to a sample by a permutation keyed with (seed, e) that needs no table: a Feistel
//! network over the next power of two, walked until it falls inside. It never depends on how many workers there are.

use std::ops::Range;
use std::sync::Arc;

use crate::rng::{key, mix};

/// Enough rounds that neighbouring positions and keys look unrelated; each costs one [`mix`].
const ROUNDS: u64 = 8;

// Domains, so that orders and view seeds of one run share no keys.
const ORDER: u64 = 1;
const VIEW: u64 = 2;
const SHARE: u64 = 3;

/// The order of one training group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    len: u64,
    samples: Samples,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Samples {
    /// Each of `0..len` once an epoch.
    All,
    /// These ids again and again, each pass in an order of its own.
    Cycle(Arc<[u32]>),
}

impl Order {
    /// Each epoch holds each of the `samples` once.
    pub fn new_all(seed: u64, samples: u32) -> Self {
        Self {
            seed,
            len: u64::from(samples),
            samples: Samples::All,
        }
    }

    /// Each epoch has `len` positions that go through `ids` as often as needed: each pass holds each id once, in an
    /// order of its own, and the last pass may be cut short.
    ///
    /// # Panics
    ///
    /// If there are positions but no ids.
    pub fn new_cycle(seed: u64, len: u64, ids: impl Into<Arc<[u32]>>) -> Self {
        let ids = ids.into();
        assert!(
            len == 0 || !ids.is_empty(),
            "an order of {len} positions needs at least one sample"
        );
        Self {
            seed,
            len,
            samples: Samples::Cycle(ids),
        }
    }

    /// Positions per epoch.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether an epoch has no positions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sample at `position` of `epoch`.
    ///
    /// # Panics
    ///
    /// If `position` is not below [`Order::len`].
    pub fn sample(&self, epoch: u32, position: u64) -> u32 {
        let Self { seed, len, samples } = self;
        assert!(
            position < *len,
            "position {position} is outside an epoch of {len}"
        );
        match samples {
            Samples::All => {
                let key = key(&[ORDER, *seed, u64::from(epoch)]);
                permute(*len, key, position) as u32 // below len, which came from a u32
            }
            Samples::Cycle(ids) => {
                let count = ids.len() as u64;
                let key = key(&[ORDER, *seed, u64::from(epoch), position / count]);
                ids[permute(count, key, position % count) as usize]
            }
        }
    }

    /// A number that two orders share only if they are the same.
    pub fn fingerprint(&self) -> u64 {
        let ids = match &self.samples {
            Samples::All => None,
            Samples::Cycle(ids) => Some(ids.iter().map(|id| u64::from(*id))),
        };
        let kind = u64::from(ids.is_some());
        let words: Vec<u64> = [kind, self.seed, self.len]
            .into_iter()
            .chain(ids.into_iter().flatten())
            .collect();
        key(&words)
    }

    /// The seed of the view that `position` of `epoch` shows of its sample.
    pub fn view_seed(&self, epoch: u32, position: u64) -> u64 {
        key(&[VIEW, self.seed, u64::from(epoch), position])
    }
}

/// Part `part` of `of` disjoint shares of `0..samples`, drawn by the seed: all together they are every sample once, and
/// their sizes differ by one at most. The order has no meaning.
///
/// # Panics
///
/// If `of` is 0 or `part` is not below it.
pub fn share(seed: u64, samples: u32, part: u32, of: u32) -> impl Iterator<Item = u32> {
    assert!(part < of, "part {part} is outside {of} shares");
    let key = key(&[SHARE, seed]);
    let places = (part..samples).step_by(of as usize);
    places.map(move |place| permute(samples.into(), key, place.into()) as u32) // below samples
}

/// Where `index` goes in the permutation of `0..len` that `key` selects.
///
/// # Panics
///
/// If `index` is not below `len`.
pub fn permute(len: u64, key: u64, index: u64) -> u64 {
    assert!(index < len, "index {index} is outside a permutation of {len}");
    let bits = u64::BITS - (len - 1).leading_zeros();
    let mut place = index;
    // Cycle walking: the network permutes fewer than 2 len values and index is inside, so the walk comes back inside,
    // after fewer than two steps on average.
    loop {
        place = feistel(bits, key, place);
        if place < len {
            return place;
        }
    }
}

/// A permutation of the values of `bits` bits: the halves take turns in being XORed with a function of the other.
fn feistel(bits: u32, key: u64, value: u64) -> u64 {
    let low_bits = bits / 2;
    let low_mask = (1u64 << low_bits) - 1;
    let high_mask = (1u64 << (bits - low_bits)) - 1;
    let (mut low, mut high) = (value & low_mask, value >> low_bits);
    for round in 0..ROUNDS {
        let round_key = mix(key ^ round);
        if round % 2 == 0 {
            high ^= mix(round_key ^ low) & high_mask;
        } else {
            low ^= mix(round_key ^ high) & low_mask;
        }
    }
    high << low_bits | low
}

/// The fixed grid of blocks on the positions of an epoch: the unit of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Positions per epoch.
    pub positions: u64,
    /// Positions per block, at least 1.
    pub block: u32,
}

impl Grid {
    /// Number of blocks; the last one may be short.
    pub fn blocks(&self) -> u64 {
        self.positions.div_ceil(u64::from(self.block))
    }

    /// The positions of one block.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn range(&self, block: u64) -> Range<u64> {
        let blocks = self.blocks();
        assert!(block < blocks, "block {block} is outside a grid of {blocks}");
        let start = block * u64::from(self.block);
        start..start.saturating_add(u64::from(self.block)).min(self.positions)
    }

    /// The block that holds a position.
    pub fn block_of(&self, position: u64) -> u64 {
        position / u64::from(self.block)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn epoch_of(order: &Order, epoch: u32) -> Vec<u32> {
        (0..order.len()).map(|p| order.sample(epoch, p)).collect()
    }

    #[test]
    fn orders_that_differ_have_different_fingerprints() {
        let orders = [
            Order::new_all(1, 10),
            Order::new_all(2, 10),
            Order::new_all(1, 11),
            Order::new_cycle(1, 10, (0..10).collect::<Vec<_>>()),
            Order::new_cycle(1, 10, (0..9).collect::<Vec<_>>()),
            Order::new_cycle(1, 10, (1..10).collect::<Vec<_>>()),
        ];
        let prints: std::collections::BTreeSet<u64> = orders.iter().map(Order::fingerprint).collect();
        assert_eq!(prints.len(), orders.len());
        assert_eq!(orders[0].fingerprint(), Order::new_all(1, 10).fingerprint());
    }

    #[test]
    fn shares_are_disjoint_and_together_all() {
        for (samples, of) in [(0, 3), (1, 2), (10, 3), (1_000, 2), (7, 7), (5, 9)] {
            let parts: Vec<Vec<u32>> = (0..of)
                .map(|part| share(4, samples, part, of).collect())
                .collect();
            let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
            assert!(
                sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                "{sizes:?}"
            );
            let mut all = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..samples).collect::<Vec<_>>());
        }
        assert_ne!(
            share(1, 100, 0, 2).collect::<Vec<_>>(),
            share(2, 100, 0, 2).collect::<Vec<_>>()
        );
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(n in 1u32..3_000, seed: u64, epoch: u32) {
            let mut ids = epoch_of(&Order::new_all(seed, n), epoch);
            ids.sort_unstable();
            prop_assert_eq!(ids, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn permutes_huge_domains_without_collisions(len in 1u64 << 40..=u64::MAX, key: u64) {
            let mut seen = std::collections::BTreeSet::new();
            for index in (0..200).chain(len - 200..len) {
                let place = permute(len, key, index);
                prop_assert!(place < len && seen.insert(place));
            }
        }

        #[test]
        fn a_cycle_uses_each_id_evenly(m in 1u32..60, len in 0u64..400, seed: u64, epoch: u32) {
            let ids: Vec<u32> = (0..m).map(|i| i * 7 + 3).collect();
            let order = Order::new_cycle(seed, len, ids.clone());
            let mut counts = BTreeMap::new();
            for sample in epoch_of(&order, epoch) {
                *counts.entry(sample).or_insert(0u64) += 1;
            }
            for id in ids {
                let count = counts.remove(&id).unwrap_or(0);
                let (low, high) = (len / u64::from(m), len.div_ceil(u64::from(m)));
                prop_assert!((low..=high).contains(&count), "id {} came {} times", id, count);
            }
            prop_assert!(counts.is_empty());
        }

        #[test]
        fn blocks_tile_the_epoch(positions in 0u64..5_000, block in 1u32..600) {
            let grid = Grid { positions, block };
            let mut next = 0;
            for index in 0..grid.blocks() {
                let range = grid.range(index);
                prop_assert!(range.start == next && range.start < range.end);
                prop_assert!(range.clone().all(|p| grid.block_of(p) == index));
                next = range.end;
            }
            prop_assert_eq!(next, positions);
        }
    }

    #[test]
    fn tiny_sets_work() {
        assert_eq!(epoch_of(&Order::new_all(1, 1), 9), [0]);
        assert!(Order::new_all(1, 0).is_empty());
        let swapped = (0..1_000)
            .filter(|&e| Order::new_all(1, 2).sample(e, 0) == 1)
            .count();
        assert!((430..570).contains(&swapped), "{swapped} of 1000 swapped");
        let order = Order::new_all(4, 3);
        let mut seen = BTreeMap::new();
        for epoch in 0..6_000 {
            *seen.entry(epoch_of(&order, epoch)).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|&n| (800..1_200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn epochs_seeds_and_passes_differ() {
        let (a, b) = (Order::new_all(1, 500), Order::new_all(2, 500));
        assert_ne!(epoch_of(&a, 0), epoch_of(&a, 1));
        assert_ne!(epoch_of(&a, 0), epoch_of(&b, 0));
        assert_ne!(a.view_seed(0, 0), a.view_seed(1, 0));
        assert_ne!(a.view_seed(0, 0), a.view_seed(0, 1));
        let cycle = Order::new_cycle(1, 100, (0..50).collect::<Vec<u32>>());
        let epoch = epoch_of(&cycle, 0);
        assert_ne!(epoch[..50], epoch[50..]);
    }

    #[test]
    fn places_are_uniform_over_epochs_and_neighbours_are_not_related() {
        const N: u32 = 20;
        let order = Order::new_all(3, N);
        let mut place = [[0u32; N as usize]; N as usize];
        let mut steps = [0u32; N as usize];
        for epoch in 0..10_000 {
            let ids = epoch_of(&order, epoch);
            for (position, &id) in ids.iter().enumerate() {
                place[position][id as usize] += 1;
            }
            steps[((ids[1] + N - ids[0]) % N) as usize] += 1;
        }
        // 500 expected, standard deviation 22; five of them either way.
        assert!(place.iter().flatten().all(|n| (390..=610).contains(n)));
        assert_eq!(steps[0], 0);
        assert!(steps[1..].iter().all(|n| (415..=640).contains(n)), "{steps:?}");
    }

    #[test]
    fn the_order_is_pinned() {
        let order = Order::new_all(1, 1_000);
        let first: Vec<u32> = (0..4).map(|p| order.sample(0, p)).collect();
        assert_eq!(first, [766, 886, 14, 260], "recorded runs depend on these values");
    }
}
