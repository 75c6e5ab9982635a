//! One group: its replicas, rounds, merged history and published versions.

mod curve;
mod eta;
mod holders;
mod reclaim;
mod record;
mod rounds;
mod suspects;
mod versions;

use std::collections::{BTreeMap, BTreeSet};

use retort_data::ranges::RangeSet;

use crate::ids::Millis;
use crate::ledger::Ledger;
use crate::manifest::Merge;
use crate::record::Key;
use crate::round::{Claim, Evaluation, Point, RoundPlan, Spent, Start, Sums};
use crate::spec::GroupSpec;

use curve::Curve;
use eta::Eta;
use holders::{Holder, Holders};
pub(crate) use record::Records;
pub use record::{Durable, Record};
pub use rounds::{Contributed, NextRound};
use suspects::Suspects;

/// State of one group.
#[derive(Debug, Clone)]
pub struct Group {
    /// What it is.
    pub spec: GroupSpec,
    /// Where its positions are.
    pub ledger: Ledger,
    plan: RoundPlan,
    holders: Holders,
    /// Replicas of a former term that may come back with the state.
    expected: BTreeMap<String, reclaim::Former>,
    /// The state at the start of this round is also known by this generation and round.
    alias: Option<(u64, u64)>,
    /// Merged since the newest durable version, oldest first.
    pending: Vec<Merge>,
    durable: Option<Durable>,
    next_version: u64,
    /// Who publishes the state at the start of which round.
    publishing: Option<(String, u64)>,
    /// A manifest is being written: nothing that it contains may be taken back meanwhile.
    committing: bool,
    /// No version is asked for before this: the last one could not be written.
    publish_after: Millis,
    /// Optimizer steps in the merged state.
    pub steps: u64,
    /// Positions in the merged state.
    pub positions: u64,
    evaluated_at: Option<u64>,
    /// Newest evaluation of the merged state.
    pub held_out: Option<Evaluation>,
    /// Sums over all merged rounds, rolled-back ones included.
    pub totals: Sums,
    /// Samples trained on each version of each teacher.
    pub teacher_use: BTreeMap<String, BTreeMap<u64, u64>>,
    curve: Curve,
    eta: Eta,
    round_began: Millis,
    suspects: Suspects,
    /// What silent workers held: blamed until they come back.
    blamed: BTreeMap<String, RangeSet>,
    /// Epoch and position at which each quarantined sample was found: replicas know it again by them in later epochs.
    poison: BTreeSet<(u32, u64)>,
    /// Those that a replica named: their places in later epochs say nothing new.
    bad_samples: BTreeSet<u32>,
    done: bool,
    /// Records that changed since they were last taken.
    dirty: BTreeSet<Key>,
}

impl Group {
    /// A group before its first replica.
    pub fn new(spec: GroupSpec, positions: u64) -> Self {
        let plan = RoundPlan {
            generation: 0,
            round: 0,
            steps: spec.round_steps,
            alpha: 0.0,
            gate: None,
            publish: false,
            evaluate: true,
            exchange: spec.exchange,
            hand_over: false,
            positions: 0,
        };
        Self {
            spec,
            ledger: Ledger::new(positions),
            plan,
            holders: Holders::default(),
            expected: BTreeMap::new(),
            alias: None,
            pending: Vec::new(),
            durable: None,
            next_version: 0,
            publishing: None,
            committing: false,
            publish_after: Millis::default(),
            steps: 0,
            positions: 0,
            evaluated_at: None,
            held_out: None,
            totals: Sums::default(),
            teacher_use: BTreeMap::new(),
            curve: Curve::new(),
            eta: Eta::default(),
            round_began: Millis::default(),
            suspects: Suspects::default(),
            blamed: BTreeMap::new(),
            poison: BTreeSet::new(),
            bad_samples: BTreeSet::new(),
            done: false,
            dirty: BTreeSet::new(),
        }
    }

    /// Takes a replica in and says how it begins, with the plan for it. Ask
    /// [`Group::must_wait`] first.
    pub fn admit(
        &mut self,
        (worker, incarnation): (&str, u64),
        claim: Option<&Claim>,
        now: Millis,
    ) -> (Start, RoundPlan) {
        let blamed = self.blamed.remove(worker);
        if let Some(held) = blamed.filter(|_| claim.is_some()) {
            self.suspects.absolve(&held);
        }
        let resumed = claim.and_then(|c| self.reclaim(worker, c));
        let start = match resumed {
            Some(held) => Start::Resume(held),
            None => self.start_anew(),
        };
        self.holders.insert(
            worker,
            Holder {
                incarnation,
                joining: matches!(start, Start::Join(_)),
                contributed: None,
                contributed_at: None,
                merged: None,
                brought: 0,
                spent: Spent::default(),
                service: 0.0,
                idle: false,
            },
        );
        if self.round_began == Millis::default() {
            self.round_began = now;
        }
        let mut plan = self.plan.clone();
        let stale = self.durable.is_none_or(|d| d.round < plan.round);
        plan.publish = self.publishing.is_none()
            && !self.committing
            && match &start {
                // The snapshot of this round's start that it was asked for is still wanted.
                Start::Resume(_) => claim.is_some_and(|c| c.snapshot) && stale,
                // Version 0: the initial state.
                Start::Init => true,
                Start::Restore(_) | Start::Join(_) => false,
            };
        if plan.publish {
            self.publishing = Some((worker.to_owned(), plan.round));
        }
        (start, plan)
    }

    fn start_anew(&mut self) -> Start {
        if self.keepers() == 0 && !self.pending.is_empty() {
            self.roll_back();
        }
        let version = self.durable.map(|d| d.version);
        match (self.pending.is_empty(), version) {
            (false, version) => Start::Join(version),
            (true, Some(version)) => Start::Restore(version),
            (true, None) => Start::Init,
        }
    }

    /// Removes a replica; its leases return. `died`: what it held may have killed it. Gives the
    /// positions that are quarantined for that.
    pub fn remove(&mut self, worker: &str, died: bool) -> Vec<u64> {
        self.holders.remove(worker);
        self.expected.remove(worker);
        if self.publishing.as_ref().is_some_and(|(who, _)| who == worker) {
            self.publishing = None;
        }
        let returned = self.ledger.expire(worker);
        if returned.is_empty() {
            return Vec::new();
        }
        self.touch();
        if !died {
            return Vec::new();
        }
        self.blamed.insert(worker.to_owned(), returned.clone());
        let guilty = self.suspects.blame(&returned);
        guilty.into_iter().filter(|p| self.quarantine_free(*p)).collect()
    }

    /// Forgets replicas that can't be served any more; they register again.
    pub fn drop_holders(&mut self) -> Vec<String> {
        let names: Vec<String> = self.holders.names().map(str::to_owned).collect();
        for name in &names {
            self.ledger.expire(name);
        }
        self.holders.clear();
        self.publishing = None;
        names
    }

    /// Replicas wait for a merge that nobody is left to make.
    pub fn is_orphaned(&self) -> bool {
        self.expected.is_empty() && self.keepers() == 0 && !self.holders.is_empty()
    }

    fn quarantine_free(&mut self, position: u64) -> bool {
        let taken = self.ledger.quarantine_free(position);
        if taken {
            self.note_poison(position);
        }
        taken
    }

    /// A replica that holds the position can't read or compute the sample there. True: nobody had named the sample before.
    pub fn quarantine(
        &mut self,
        worker: &str,
        (epoch, position): (u32, u64),
        sample: u32,
    ) -> Result<bool, crate::ledger::Error> {
        self.ledger.quarantine(worker, epoch, position)?;
        self.acquit(position);
        let news = self.bad_samples.insert(sample);
        if news {
            self.poison.insert((epoch, position));
        }
        Ok(news)
    }

    fn note_poison(&mut self, position: u64) {
        self.poison.insert((self.ledger.epoch(), position));
        self.acquit(position);
    }

    /// What was taken out is suspect no more.
    fn acquit(&mut self, position: u64) {
        self.suspects.clear(std::iter::once(position..position + 1));
        self.touch();
    }

    /// An epoch and a position of every quarantined sample.
    pub fn poison(&self) -> impl Iterator<Item = &(u32, u64)> {
        self.poison.iter()
    }

    /// What may be leased next, at most `blocks` of `block` positions; `None`: nothing, or nothing
    /// for this holder before it has contributed.
    pub fn lease(&mut self, worker: &str, block: u32, blocks: u32) -> Option<std::ops::Range<u64>> {
        let held_suspect = |held: &RangeSet| self.suspects.touches(held);
        if !self.suspects.is_empty() && self.ledger.held(worker).is_some_and(held_suspect) {
            return None;
        }
        let first = self.ledger.first_available()?;
        let size = u64::from(block);
        let end = ((first.start / size + u64::from(blocks.max(1))) * size).min(first.end);
        let (range, alone) = self.suspects.cut(first.start..end);
        if alone && self.ledger.held_by(worker) > 0 {
            return None;
        }
        self.ledger.lease_range(worker, range.clone());
        Some(range)
    }

    /// Notes whether a replica's last request for work got none.
    pub fn set_idle(&mut self, worker: &str, idle: bool) {
        self.holders.update(worker, |h| h.idle = idle);
    }

    /// All epochs are durable.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Nothing merged waits for a manifest.
    pub fn is_safe(&self) -> bool {
        self.pending.is_empty() && self.publishing.is_none() && !self.committing
    }

    /// A manifest is being written.
    pub fn is_committing(&self) -> bool {
        self.committing
    }

    /// This replica holds the group's state.
    pub fn holds_state(&self, worker: &str) -> bool {
        self.holders.get(worker).is_some_and(|h| !h.joining)
    }

    /// Samples of this replica's part in the newest merge.
    pub fn brought(&self, worker: &str) -> u64 {
        self.holders.get(worker).map_or(0, |h| h.brought)
    }

    /// Where this replica's seconds went in the newest merge that it brought something to.
    pub fn spent(&self, worker: &str) -> Option<Spent> {
        let spent = self.holders.get(worker)?.spent;
        (spent.iter().sum::<f64>() > 0.0).then_some(spent)
    }

    /// Seconds until everything is merged, at the pace of the last minute; `None`: not known.
    pub fn seconds_left(&self, now: Millis) -> Option<f64> {
        let end = u64::from(self.spec.epochs) * self.ledger.positions();
        let left = self.eta.left((self.ledger.merged(), end), now);
        left.filter(|_| !self.done)
    }

    /// The run stood still: how fast it was says nothing any more.
    pub fn forget_pace(&mut self) {
        self.eta.forget();
    }

    /// This replica waits for its first state, or for a new one.
    pub fn is_joining(&self, worker: &str) -> bool {
        self.holders.get(worker).is_some_and(|h| h.joining)
    }

    /// This replica takes part in the round.
    pub fn has_replica(&self, worker: &str) -> bool {
        self.holders.get(worker).is_some()
    }

    /// The group loses nothing if this replica leaves: it holds nothing that others, or a manifest,
    /// do not have.
    pub fn can_spare(&self, worker: &str) -> bool {
        let others = self.has_other_keeper(worker);
        let publishes = self.publishing.as_ref().is_some_and(|(who, _)| who == worker);
        self.ledger.held_by(worker) == 0 && !publishes && (others || self.pending.is_empty())
    }

    /// Another replica holds the state.
    pub fn has_other_keeper(&self, worker: &str) -> bool {
        self.keepers() > usize::from(self.holds_state(worker))
    }

    /// Some replica waits for the others' contributions.
    pub fn somebody_waits(&self) -> bool {
        self.holders.any_waits()
    }

    /// Others have contributed to the open round, and wait for this replica.
    pub fn waits_for(&self, worker: &str) -> bool {
        self.holders.any_waits() && self.holders.get(worker).is_some_and(Holder::is_open)
    }

    /// Replicas of a former term may still come back with what they hold.
    pub fn is_reclaiming(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Replicas in this round.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.holders.names()
    }

    /// The current round's plan.
    pub fn plan(&self) -> &RoundPlan {
        &self.plan
    }

    /// Newest durable version.
    pub fn version(&self) -> Option<u64> {
        self.durable.map(|d| d.version)
    }

    /// Means by round, oldest first.
    pub fn curve(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.curve.points()
    }

    /// `initialising`, `training`, `closing` or `done`.
    pub fn phase(&self) -> &'static str {
        match (self.done, self.durable.is_some(), self.ledger.all_merged()) {
            (true, ..) => "done",
            (_, false, _) => "initialising",
            (_, _, true) => "closing",
            _ => "training",
        }
    }

    /// What it trains.
    pub fn kind_is(&self, kind: crate::spec::GroupKind) -> bool {
        self.spec.kind == kind
    }

    /// Replicas that hold the state.
    fn keepers(&self) -> usize {
        self.holders.count_keepers()
    }

    fn touch(&mut self) {
        self.dirty.insert(Key::Group(self.spec.name.clone()));
    }
}
