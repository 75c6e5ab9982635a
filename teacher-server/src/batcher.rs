//! Which blocks are scored next: fair between groups, the most urgent first within one.
//!
//! Each group's queue is in the order of its due times. A batch takes from the group that had the
//! fewest samples so far, again and again until it is full; all of a batch are for one version and the same layer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use retort_data::order::Order;
use tracing::Span;

use crate::cache::Key;

/// Where the samples of a block are from.
#[derive(Debug, Clone)]
pub(crate) enum Inputs {
    /// The data set, in the order of the reader's group.
    Placed(Order),
    /// The reader.
    Sent(Arc<[f32]>),
}

/// One block to score.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) samples: u64,
    pub(crate) inputs: Inputs,
    /// The layer whose output is asked for.
    pub(crate) layer: Option<Arc<str>>,
    /// When its reader would stand idle.
    pub(crate) due: Instant,
    pub(crate) arrived: Instant,
    /// The first answer that waits for it.
    pub(crate) span: Span,
}

/// Due time and number of arrival: the order within a group.
type Place = (Instant, u64);

#[derive(Default)]
struct Queue {
    entries: BTreeMap<Place, Entry>,
    /// Samples taken so far: the group's place in turn.
    taken: u64,
}

/// All entries that wait for the device.
#[derive(Default)]
pub(crate) struct Batcher {
    queues: BTreeMap<String, Queue>,
    samples: u64,
    arrivals: u64,
}

impl Batcher {
    /// Samples that wait.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    pub(crate) fn push(&mut self, group: &str, entry: Entry) {
        self.samples += entry.samples;
        self.arrivals += 1;
        // Who had nothing to do does not save up turns.
        let busy = self.queues.values().filter(|q| !q.entries.is_empty());
        let turn = busy.map(|q| q.taken).min().unwrap_or(0);
        let queue = self.queues.entry(group.to_owned()).or_default();
        if queue.entries.is_empty() {
            queue.taken = queue.taken.max(turn);
        }
        queue.entries.insert((entry.due, self.arrivals), entry);
    }

    /// When the entry arrived that waits longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let entries = self.queues.values().flat_map(|q| q.entries.values());
        entries.map(|e| e.arrived).min()
    }

    /// The next batch of at most `most` samples, one entry at least. Entries that nobody waits for
    /// (`wanted` says no) are dropped, and counted.
    pub(crate) fn take(&mut self, most: u64, wanted: impl Fn(&Entry) -> bool) -> (Vec<Entry>, u64) {
        let mut batch: Vec<Entry> = Vec::new();
        let (mut samples, mut dropped) = (0, 0);
        loop {
            let kind = batch.first().map(|e| (e.key.version, e.key.layer));
            let next = self
                .queues
                .values_mut()
                .filter(|q| {
                    let head = q.entries.first_key_value();
                    head.is_some_and(|(_, e)| kind.is_none_or(|k| (e.key.version, e.key.layer) == k))
                })
                .min_by_key(|q| (q.taken, q.entries.first_key_value().map(|(place, _)| *place)));
            let Some(queue) = next else { break };
            let Some(head) = queue.entries.first_entry() else {
                break;
            };
            if !batch.is_empty() && samples + head.get().samples > most {
                break;
            }
            let entry = head.remove();
            self.samples -= entry.samples;
            if !wanted(&entry) {
                dropped += 1;
                continue;
            }
            queue.taken += entry.samples;
            samples += entry.samples;
            batch.push(entry);
        }
        if self.queues.values().all(|q| q.entries.is_empty()) {
            // Nobody waits: turns begin anew.
            self.queues.clear();
        }
        (batch, dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(block: u64, version: u64, due: Instant) -> Entry {
        Entry {
            key: Key {
                epoch: 0,
                block,
                source: 0,
                version,
                terms: None,
                layer: None,
            },
            samples: 10,
            inputs: Inputs::Sent([].into()),
            layer: None,
            due,
            arrived: due,
            span: Span::none(),
        }
    }

    fn blocks((batch, _): (Vec<Entry>, u64)) -> Vec<u64> {
        batch.iter().map(|e| e.key.block).collect()
    }

    #[test]
    fn the_most_urgent_of_a_group_comes_first() {
        let mut b = Batcher::default();
        let now = Instant::now();
        for (block, ms) in [(0, 30), (1, 10), (2, 20), (3, 10)] {
            b.push("a", entry(block, 0, now + Duration::from_millis(ms)));
        }
        assert_eq!(blocks(b.take(1_000, |_| true)), [1, 3, 2, 0]);
        assert_eq!((b.samples(), b.oldest()), (0, None));
    }

    #[test]
    fn a_group_that_asks_for_much_does_not_hold_up_another() {
        let mut b = Batcher::default();
        let now = Instant::now();
        for block in 0..100 {
            b.push("greedy", entry(block, 0, now));
        }
        assert_eq!(blocks(b.take(20, |_| true)), [0, 1]);
        b.push("modest", entry(1_000, 0, now));
        b.push("modest", entry(1_001, 0, now));
        b.push("modest", entry(1_002, 0, now));
        let next = blocks(b.take(40, |_| true));
        let modest = next.iter().filter(|b| **b >= 1_000).count();
        assert_eq!(
            modest, 2,
            "half of {next:?}: time without wants saves up no turns"
        );
    }

    #[test]
    fn a_batch_is_for_one_version_and_not_larger_than_asked() {
        let mut b = Batcher::default();
        let now = Instant::now();
        b.push("a", entry(0, 1, now));
        b.push("a", entry(1, 2, now));
        b.push("b", entry(2, 1, now));
        b.push("b", entry(3, 1, now));
        assert_eq!(blocks(b.take(25, |_| true)), [0, 2]);
        assert_eq!(blocks(b.take(5, |_| true)), [1], "one at least");
        assert_eq!(blocks(b.take(25, |_| true)), [3]);
        let mut hinted = entry(5, 1, now);
        hinted.key.layer = Some(7);
        b.push("a", entry(4, 1, now));
        b.push("b", hinted);
        assert_eq!(blocks(b.take(25, |_| true)), [4], "nor for another layer");
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_and_costs_no_turn() {
        let mut b = Batcher::default();
        let now = Instant::now();
        for block in 0..4 {
            b.push("a", entry(block, 0, now));
        }
        let (batch, dropped) = b.take(20, |e| e.key.block >= 2);
        assert_eq!((batch.len(), dropped, b.samples()), (2, 2, 0));
    }
}
