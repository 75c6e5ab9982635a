//! One group: its replicas, rounds, merged history and published versions.

use std::collections::BTreeMap;

use retort_data::ranges::RangeSet;

use crate::ids::{Millis, Refusal};
use crate::ledger::Ledger;
use crate::manifest::{Contribution, Cut, Merge};
use crate::round::{ClosedRound, Evaluation, Gate, Point, RoundPlan, Start, Sums, Ticket, Work};
use crate::spec::GroupSpec;

/// Points a curve keeps; when full, every other one is dropped.
const CURVE_LIMIT: usize = 1_024;

/// A replica that takes part in the current round.
#[derive(Debug, Clone)]
struct Holder {
    incarnation: u64,
    /// It waits for a merge to get its first state.
    joining: bool,
    contributed: Option<Work>,
}

/// The newest durable version.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Durable {
    version: u64,
    steps: u64,
    positions: u64,
    at: Millis,
}

/// State of one group.
#[derive(Debug, Clone)]
pub struct Group {
    /// What it is.
    pub spec: GroupSpec,
    /// Where its positions are.
    pub ledger: Ledger,
    plan: RoundPlan,
    holders: BTreeMap<String, Holder>,
    /// Merged since the newest durable version, oldest first.
    pending: Vec<Merge>,
    durable: Option<Durable>,
    next_version: u64,
    /// Who publishes the state at the start of which round.
    publishing: Option<(String, u64)>,
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
    /// Means by round.
    pub curve: Vec<Point>,
    curve_stride: u64,
    round_began: Millis,
    done: bool,
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
        };
        Self {
            spec,
            ledger: Ledger::new(positions),
            plan,
            holders: BTreeMap::new(),
            pending: Vec::new(),
            durable: None,
            next_version: 0,
            publishing: None,
            steps: 0,
            positions: 0,
            evaluated_at: None,
            held_out: None,
            totals: Sums::default(),
            teacher_use: BTreeMap::new(),
            curve: Vec::new(),
            curve_stride: 1,
            round_began: Millis::default(),
            done: false,
        }
    }

    /// Takes a replica in and says how it begins, with the plan for it.
    pub fn admit(&mut self, worker: &str, incarnation: u64, now: Millis) -> (Start, RoundPlan) {
        if self.keepers() == 0 && !self.pending.is_empty() {
            self.roll_back();
        }
        let joining = !self.pending.is_empty();
        let version = self.durable.map(|d| d.version);
        let start = match (joining, version) {
            (true, version) => Start::Join(version),
            (false, Some(version)) => Start::Restore(version),
            (false, None) => Start::Init,
        };
        self.holders.insert(
            worker.to_owned(),
            Holder {
                incarnation,
                joining,
                contributed: None,
            },
        );
        if self.round_began == Millis::default() {
            self.round_began = now;
        }
        let mut plan = self.plan.clone();
        if self.durable.is_none() && !joining && self.publishing.is_none() {
            // Version 0: the initial state.
            self.publishing = Some((worker.to_owned(), plan.round));
            plan.publish = true;
        }
        (start, plan)
    }

    /// Removes a replica; its leases return. True if replicas that waited to join lost their source.
    pub fn remove(&mut self, worker: &str) -> (u64, bool) {
        self.holders.remove(worker);
        if self.publishing.as_ref().is_some_and(|(who, _)| who == worker) {
            self.publishing = None;
        }
        let returned = self.ledger.expire(worker);
        (returned, self.keepers() == 0 && !self.holders.is_empty())
    }

    /// Forgets replicas that can't be served any more; they register again.
    pub fn drop_holders(&mut self) -> Vec<String> {
        let names: Vec<String> = self.holders.keys().cloned().collect();
        self.holders.clear();
        names
    }

    /// Checks and keeps a contribution until the round closes.
    pub fn contribute(&mut self, worker: &str, work: Work) -> Result<(), Refusal> {
        let gone = |text: String| Err(Refusal::Gone(text));
        if work.generation != self.plan.generation || work.round != self.plan.round {
            return gone(format!(
                "group {} is in round {} of generation {}, not in round {} of generation {}",
                self.spec.name, self.plan.round, self.plan.generation, work.round, work.generation
            ));
        }
        if !work.trained.is_empty() {
            self.ledger
                .holds(worker, work.epoch, &work.trained)
                .map_err(|e| Refusal::Gone(format!("contribution of {worker}: {e}")))?;
        }
        if work.sums.samples != work.trained.len() {
            return Err(Refusal::Invalid(format!(
                "sums.samples = {} differs from the {} trained positions",
                work.sums.samples,
                work.trained.len()
            )));
        }
        let Some(holder) = self.holders.get_mut(worker) else {
            return gone(format!("{worker} is no replica of group {}", self.spec.name));
        };
        if holder.joining != work.joining || holder.contributed.is_some() {
            return gone(format!("{worker} contributed to round {} before", work.round));
        }
        holder.contributed = Some(work);
        Ok(())
    }

    /// All replicas contributed: the round can close.
    pub fn ready(&self) -> bool {
        self.keepers() > 0 && self.holders.values().all(|h| h.contributed.is_some())
    }

    /// Keeps the evaluation that came with the round's contributions, if one was due.
    pub fn take_evaluation(&mut self) {
        let newest = self
            .holders
            .values()
            .find_map(|h| h.contributed.as_ref()?.held_out);
        self.held_out = newest.or(self.held_out);
    }

    /// Merges all contributions and plans the next round.
    pub fn close_round(&mut self, next: NextRound, now: Millis) -> ClosedRound {
        let round = self.plan.round;
        let mut merge = Merge {
            round,
            contributions: Vec::new(),
        };
        let mut sums = Sums::default();
        let mut members = Vec::new();
        let names: Vec<String> = self.holders.keys().cloned().collect();
        for name in names {
            let Some((incarnation, work)) = self.holders.get_mut(&name).and_then(|h| {
                h.joining = false;
                Some((h.incarnation, h.contributed.take()?))
            }) else {
                continue;
            };
            members.push((name.clone(), work.sums.samples));
            self.merge(&name, incarnation, &work, &mut merge);
            sums.add(&work.sums);
        }
        if merge.contributions.iter().any(|c| !c.trained.is_empty()) {
            self.pending.push(merge);
        }
        self.add_point(&sums, now);
        self.totals.add(&sums);
        self.plan_next(next, now, round, members)
    }

    fn merge(&mut self, name: &str, incarnation: u64, work: &Work, merge: &mut Merge) {
        if work.trained.is_empty() {
            return;
        }
        self.ledger
            .ack(name, work.epoch, &work.trained)
            .expect("the contribution was checked when it came, and a lost lease removes it");
        self.steps += u64::from(work.steps);
        self.positions += work.trained.len();
        for (teacher, versions) in &work.teacher_use {
            let total = self.teacher_use.entry(teacher.clone()).or_default();
            for (version, samples) in versions {
                *total.entry(*version).or_default() += samples;
            }
        }
        merge.contributions.push(Contribution {
            worker: name.to_owned(),
            incarnation,
            steps: work.steps,
            trained: vec![Cut {
                epoch: work.epoch,
                positions: work.trained.clone(),
            }],
            teacher_versions: work.teacher_use.clone(),
        });
    }

    fn plan_next(
        &mut self,
        next: NextRound,
        now: Millis,
        round: u64,
        members: Vec<(String, u64)>,
    ) -> ClosedRound {
        self.plan.round += 1;
        self.plan.alpha = next.alpha;
        self.plan.gate = next.gate;
        self.plan.evaluate = self
            .evaluated_at
            .is_none_or(|at| self.steps >= at + self.spec.evaluate_every);
        if self.plan.evaluate {
            self.evaluated_at = Some(self.steps);
        }
        let publisher = self.publish_due(&next, now).then(|| self.elect()).flatten();
        if let Some(worker) = &publisher {
            self.publishing = Some((worker.clone(), self.plan.round));
        }
        ClosedRound {
            group: self.spec.name.clone(),
            round,
            members,
            publisher,
            plan: self.plan.clone(),
        }
    }

    fn publish_due(&self, next: &NextRound, now: Millis) -> bool {
        if self.publishing.is_some() || self.pending.is_empty() {
            return false;
        }
        let (steps, at) = self.durable.map_or((0, Millis::default()), |d| (d.steps, d.at));
        let by_steps =
            self.spec.publish_every > 0 && self.steps >= steps + u64::from(self.spec.publish_every);
        let by_time = next.checkpoint_every.is_some_and(|every| now.since(at) >= every);
        self.ledger.all_merged() || by_steps || by_time || next.stopping
    }

    /// The first replica that holds the state.
    fn elect(&self) -> Option<String> {
        self.holders
            .iter()
            .find(|(_, h)| !h.joining)
            .map(|(name, _)| name.clone())
    }

    /// Asks `worker` to publish if a manifest is due and nobody is at it (its publisher was lost).
    pub fn take_over_publishing(&mut self, worker: &str) -> bool {
        let holds = self
            .holders
            .get(worker)
            .is_some_and(|h| !h.joining && h.contributed.is_none());
        let due = self.publishing.is_none() && !self.pending.is_empty();
        if holds && due {
            self.publishing = Some((worker.to_owned(), self.plan.round));
        }
        holds && due
    }

    /// What a version that `worker` uploads will contain.
    pub fn ticket(&self, worker: &str, generation: u64, round: u64) -> Result<Ticket, Refusal> {
        let expected = self
            .publishing
            .as_ref()
            .is_some_and(|(who, at)| who == worker && *at == round);
        if generation != self.plan.generation || !expected {
            return Err(Refusal::Gone(format!(
                "{worker} was not asked to publish round {round} of generation {generation} of group {}",
                self.spec.name
            )));
        }
        let merges: Vec<Merge> = self.pending.iter().filter(|m| m.round < round).cloned().collect();
        let (steps, positions) = self.durable.map_or((0, 0), |d| (d.steps, d.positions));
        let added = |m: &Merge| m.contributions.iter().map(|c| u64::from(c.steps)).sum::<u64>();
        Ok(Ticket {
            group: self.spec.name.clone(),
            version: self.next_version,
            round,
            steps: steps + merges.iter().map(added).sum::<u64>(),
            positions: positions + merges.iter().map(|m| merged(m).len()).sum::<u64>(),
            epoch: self.ledger.epoch(),
            merges,
            quarantined: self.ledger.quarantined().clone(),
        })
    }

    /// The version's manifest is durable: what it contains is committed. True if that closed an epoch.
    pub fn published(&mut self, ticket: &Ticket, now: Millis) -> bool {
        for merge in &ticket.merges {
            self.ledger.commit(&merged(merge));
        }
        self.pending.retain(|m| m.round >= ticket.round);
        self.durable = Some(Durable {
            version: ticket.version,
            steps: ticket.steps,
            positions: ticket.positions,
            at: now,
        });
        self.next_version = ticket.version + 1;
        self.publishing = None;
        if !self.ledger.all_durable() {
            return false;
        }
        if self.ledger.epoch() + 1 >= self.spec.epochs {
            self.done = true;
        } else {
            self.ledger.next_epoch();
        }
        true
    }

    /// All epochs are durable.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Nothing merged waits for a manifest.
    pub fn is_safe(&self) -> bool {
        self.pending.is_empty() && self.publishing.is_none()
    }

    /// This replica holds the group's state.
    pub fn holds_state(&self, worker: &str) -> bool {
        self.holders.get(worker).is_some_and(|h| !h.joining)
    }

    /// Replicas in this round.
    pub fn replicas(&self) -> impl Iterator<Item = &str> {
        self.holders.keys().map(String::as_str)
    }

    /// The current round's plan.
    pub fn plan(&self) -> &RoundPlan {
        &self.plan
    }

    /// Newest durable version.
    pub fn version(&self) -> Option<u64> {
        self.durable.map(|d| d.version)
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
        self.holders.values().filter(|h| !h.joining).count()
    }

    fn roll_back(&mut self) {
        self.ledger.roll_back();
        self.pending.clear();
        self.publishing = None;
        self.plan.generation += 1;
        let (steps, positions) = self.durable.map_or((0, 0), |d| (d.steps, d.positions));
        self.steps = steps;
        self.positions = positions;
        self.evaluated_at = None;
        self.plan.evaluate = true;
        self.curve.retain(|p| p.step <= steps);
    }

    fn add_point(&mut self, sums: &Sums, now: Millis) {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let seconds = now.since(self.round_began) as f64 / 1e3;
        self.round_began = now;
        if sums.samples == 0 {
            return;
        }
        let point = Point {
            step: self.steps,
            positions: self.positions,
            epoch: self.ledger.epoch(),
            hard_loss: mean(sums.hard_loss, sums.labelled),
            kl: mean(sums.kl, sums.taught),
            held_out: self.plan.evaluate.then_some(self.held_out).flatten(),
            alpha: (!self.spec.teachers.is_empty()).then_some(self.plan.alpha),
            teacher_version: self
                .teacher_use
                .values()
                .filter_map(|v| v.keys().next_back())
                .max()
                .copied(),
            gradient_share: mean(sums.gradient_share, sums.taught),
            samples_per_s: (seconds > 0.0).then(|| sums.samples as f64 / seconds),
        };
        if self.plan.evaluate || self.plan.round.is_multiple_of(self.curve_stride) {
            self.curve.push(point);
        }
        if self.curve.len() >= CURVE_LIMIT {
            self.curve_stride *= 2;
            let mut index = 0;
            self.curve.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }
}

/// What the run knows when a round closes.
#[derive(Debug, Clone, PartialEq)]
pub struct NextRound {
    /// Alpha after schedule and gate.
    pub alpha: f64,
    /// The lead behind it.
    pub gate: Option<Gate>,
    /// Publish when the newest version is older than this, ms; `None`: never by time.
    pub checkpoint_every: Option<u64>,
    /// The run is stopping.
    pub stopping: bool,
}

/// All positions of a merge.
fn merged(merge: &Merge) -> RangeSet {
    let mut all = RangeSet::new();
    for cut in merge.contributions.iter().flat_map(|c| &c.trained) {
        for range in cut.positions.iter() {
            all.insert(range);
        }
    }
    all
}
