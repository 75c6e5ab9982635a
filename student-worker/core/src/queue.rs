//! Leased blocks in order, with the frames that have arrived for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use retort_data::order::Grid;
use retort_data::ranges::RangeSet;

/// Names a block of an epoch on the run's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockId {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Index on the grid.
    pub block: u64,
}

/// One optimizer step's worth of positions, within one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<F> {
    /// Block it was cut from.
    pub id: BlockId,
    /// Positions to train.
    pub positions: Range<u64>,
    /// Row of the block's frames that the first position has.
    pub first_row: u64,
    /// Teacher, version and frame, in the order of the mixture.
    pub frames: Vec<(String, u64, F)>,
    /// Lockstep: the versions that must teach it.
    pub exact: BTreeMap<String, u64>,
    /// What softens the soft targets of its block; `None`: the job's temperature at its place.
    pub temperature: Option<f64>,
    /// First batch of its block: the frames' bytes count once.
    pub first_of_block: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Block<F> {
    pub(crate) id: BlockId,
    /// The block's own positions; what is leased of it may be less.
    whole: Range<u64>,
    batches: VecDeque<Range<u64>>,
    fresh: bool,
    pub(crate) exact: BTreeMap<String, u64>,
    pub(crate) temperature: Option<f64>,
    pub(crate) wanted: BTreeMap<String, bool>,
    pub(crate) frames: BTreeMap<String, (u64, F)>,
}

impl<F> Block<F> {
    /// Samples of it that were not trained yet.
    pub(crate) fn samples(&self) -> u64 {
        self.batches.iter().map(|b| b.end - b.start).sum()
    }
}

/// All leased and untrained positions, in the order of the lease.
#[derive(Debug, Clone)]
pub(crate) struct Queue<F> {
    grid: Grid,
    batch: u64,
    pub(crate) blocks: VecDeque<Block<F>>,
}

impl<F: Clone> Queue<F> {
    pub(crate) fn new(grid: Grid, batch: u32) -> Self {
        Self {
            grid,
            batch: u64::from(batch),
            blocks: VecDeque::new(),
        }
    }

    /// Cuts a lease into blocks and batches on the grid.
    pub(crate) fn push(
        &mut self,
        epoch: u32,
        positions: Range<u64>,
        (exact, temperature): (&BTreeMap<String, u64>, Option<f64>),
    ) {
        let mut at = positions.start;
        while at < positions.end {
            let block = self.grid.block_of(at);
            let whole = self.grid.range(block);
            let end = whole.end.min(positions.end);
            let mut batches = VecDeque::new();
            while at < end {
                // Batches lie on the grid whatever the lease begins with.
                let next = (whole.start + ((at - whole.start) / self.batch + 1) * self.batch).min(end);
                batches.push_back(at..next);
                at = next;
            }
            let id = BlockId { epoch, block };
            if let Some(known) = self.find(id) {
                // Two parts of one block share its frames, and so its temperature.
                known.batches.extend(batches);
                continue;
            }
            self.blocks.push_back(Block {
                id,
                whole,
                batches,
                fresh: true,
                exact: exact.clone(),
                temperature,
                wanted: BTreeMap::new(),
                frames: BTreeMap::new(),
            });
        }
    }

    /// The next batch, if the frame of every teacher that is not `spared` has come.
    pub(crate) fn next(&mut self, teachers: &[String], spared: &BTreeSet<String>) -> Option<Batch<F>> {
        let block = self.blocks.front_mut()?;
        if teachers
            .iter()
            .any(|t| !block.frames.contains_key(t) && !spared.contains(t))
        {
            return None;
        }
        let frame = |t: &String| {
            let (version, frame) = block.frames.get(t)?;
            Some((t.clone(), *version, frame.clone()))
        };
        let frames = teachers.iter().filter_map(frame).collect();
        let positions = block.batches.pop_front()?;
        let batch = Batch {
            id: block.id,
            first_row: positions.start - block.whole.start,
            positions,
            frames,
            exact: block.exact.clone(),
            temperature: block.temperature,
            first_of_block: std::mem::take(&mut block.fresh),
        };
        if block.batches.is_empty() {
            self.blocks.pop_front();
        }
        Some(batch)
    }

    pub(crate) fn find(&mut self, id: BlockId) -> Option<&mut Block<F>> {
        self.blocks.iter_mut().find(|b| b.id == id)
    }

    /// Epoch and positions of all that was not trained.
    pub(crate) fn held(&self) -> Option<(u32, RangeSet)> {
        let epoch = self.blocks.front()?.id.epoch;
        let batches = self.blocks.iter().flat_map(|b| &b.batches);
        Some((epoch, batches.cloned().collect()))
    }

    /// Gives up everything that was not trained.
    pub(crate) fn drain(&mut self) -> Option<(u32, RangeSet)> {
        let held = self.held();
        self.blocks.clear();
        held
    }

    /// Gives up the blocks that an exact version below its floor was to teach (lockstep).
    pub(crate) fn drain_below(&mut self, floors: &BTreeMap<String, u64>) -> Option<(u32, RangeSet)> {
        let below = |(teacher, version): (&String, &u64)| floors.get(teacher).is_some_and(|f| version < f);
        let outdated = |b: &Block<F>| b.exact.iter().any(below);
        let gone = || self.blocks.iter().filter(|b| outdated(b));
        let epoch = gone().next()?.id.epoch;
        let positions = gone().flat_map(|b| b.batches.iter().cloned()).collect();
        self.blocks.retain(|b| !outdated(b));
        Some((epoch, positions))
    }

    /// Gives up the blocks that wait for an exact version (lockstep).
    pub(crate) fn drain_exact(&mut self) {
        self.blocks.retain(|b| b.exact.is_empty());
    }

    /// Keeps only these positions.
    pub(crate) fn retain(&mut self, kept: &RangeSet) {
        for block in &mut self.blocks {
            let pieces = block.batches.drain(..).map(RangeSet::from);
            block.batches = pieces
                .flat_map(|batch| batch.intersect(kept).iter().collect::<Vec<_>>())
                .collect();
        }
        self.blocks.retain(|b| !b.batches.is_empty());
    }

    /// Takes back a batch that was not trained, without one of its positions.
    pub(crate) fn put_back(&mut self, batch: Batch<F>, without: u64) {
        let pieces = [batch.positions.start..without, without + 1..batch.positions.end];
        let front = self.blocks.front().is_some_and(|b| b.id == batch.id);
        if !front {
            self.blocks.push_front(Block {
                id: batch.id,
                whole: self.grid.range(batch.id.block),
                batches: VecDeque::new(),
                fresh: false,
                exact: batch.exact,
                temperature: batch.temperature,
                wanted: BTreeMap::new(),
                frames: BTreeMap::new(),
            });
        }
        if let Some(block) = self.blocks.front_mut() {
            block.fresh |= batch.first_of_block;
            for (teacher, version, frame) in batch.frames {
                block.frames.entry(teacher).or_insert((version, frame));
            }
            for piece in pieces.into_iter().rev().filter(|p| !p.is_empty()) {
                block.batches.push_front(piece);
            }
        }
        self.blocks.retain(|b| !b.batches.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
