//! Rounds: contributions in, one merge out, the next plan.

use super::Group;
use super::holders::{Holder, Taken};
use crate::ids::{Millis, Refusal};
use crate::manifest::{Contribution, Cut, Merge};
use crate::record::Key;
use crate::round::{ClosedRound, Evaluation, Gate, Member, Point, Sums, Work};
use crate::run::Message;
use crate::spec::Shared;

/// A replica is overdue when it takes this many times as long as the first one to contribute.
const OVERDUE: u64 = 4;
/// Weight of the newest round in a replica's measured rate.
const SERVICE_WEIGHT: f64 = 0.3;

/// What the run knows when a round closes.
#[derive(Debug, Clone, PartialEq)]
pub struct NextRound {
    /// Alpha after schedule and gate.
    pub alpha: f64,
    /// The lead behind it.
    pub gate: Option<Gate>,
    /// Publish when the newest version is older than this, ms; `None`: never by time.
    pub checkpoint_every: Option<u64>,
    /// Publish once everything up to this place in the order is merged; `None`: no such place.
    pub publish_from: Option<u64>,
    /// The run is stopping.
    pub stopping: bool,
}

/// What became of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contributed {
    /// It waits for its round to close.
    Waiting,
    /// Its round closed with it before: the merged state is to be sent again.
    Again,
}

impl Group {
    /// Checks and keeps a contribution until the round closes. Sending it again changes nothing.
    pub fn contribute(&mut self, worker: &str, work: Work, now: Millis) -> Result<Contributed, Refusal> {
        let (generation, round) = (self.plan.generation, self.plan.round);
        let gone = |text: String| Err(Refusal::Gone(text));
        let Some(holder) = self.holders.get(worker) else {
            return gone(format!("{worker} is no replica of group {}", self.spec.name));
        };
        let merged_before = holder.merged.is_some_and(|m| m + 1 == round);
        if work.joining {
            if !holder.joining && merged_before {
                return Ok(Contributed::Again);
            }
        } else if (work.generation, work.round + 1) == (generation, round)
            && holder.merged == Some(work.round)
        {
            return Ok(Contributed::Again);
        } else if (work.generation, work.round) != (generation, round) {
            return gone(format!(
                "group {} is in round {round} of generation {generation}, not in round {} of generation {}",
                self.spec.name, work.round, work.generation
            ));
        }
        if holder.joining != work.joining {
            return gone(format!("{worker} has to join round {round} with nothing first"));
        }
        if let Some(before) = &holder.contributed {
            return if *before == work {
                Ok(Contributed::Waiting)
            } else {
                gone(format!("{worker} contributed to round {round} before"))
            };
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
        // A publisher contributes once its version is durable, or if it never heard of the request.
        if self.publishing.as_ref() == Some(&(worker.to_owned(), round)) {
            self.publishing = None;
        }
        // Its steps alone: a slow link delays a round once, however many steps it has.
        let seconds = work.sums.step_seconds;
        self.holders.update(worker, |holder| {
            if seconds > 0.0 && work.sums.samples > 0 {
                let rate = work.sums.samples as f64 / seconds;
                holder.service = if holder.service > 0.0 {
                    holder.service + SERVICE_WEIGHT * (rate - holder.service)
                } else {
                    rate
                };
            }
            holder.contributed = Some(work);
            holder.contributed_at = Some(now);
        });
        Ok(Contributed::Waiting)
    }

    /// All who hold the state contributed: the round can close. Those who wait for the state join
    /// if they are here, and hold up nobody.
    pub fn ready(&self) -> bool {
        self.expected.is_empty() && self.keepers() > 0 && self.holders.all_contributed()
    }

    /// Others wait for this replica, and it does not itself wait for work.
    fn lags(&self, name: &str, holder: &Holder) -> bool {
        let waits = holder.idle && self.ledger.held_by(name) == 0;
        !holder.joining && holder.contributed.is_none() && !waits
    }

    /// When a replica is overdue: others have waited for it several times as long as they needed
    /// themselves, and it is not waiting for work.
    pub fn overdue_at(&self, lease_ttl: u64) -> Option<Millis> {
        self.holders.iter().find(|(name, h)| self.lags(name, h))?;
        let keepers = self.holders.keepers();
        let first = keepers.filter_map(|(_, h)| h.contributed_at).min()?;
        let needed = first.since(self.round_began);
        let allowed = (needed * OVERDUE).max(needed + lease_ttl);
        Some(self.round_began.plus(allowed))
    }

    /// Takes the leases of overdue replicas away; they get the state of the next merge.
    pub fn revoke_overdue(&mut self, lease_ttl: u64, now: Millis) -> Vec<String> {
        if self.overdue_at(lease_ttl).is_none_or(|at| now < at) {
            return Vec::new();
        }
        let late: Vec<String> = self
            .holders
            .iter()
            .filter(|(name, h)| self.lags(name, h))
            .map(|(name, _)| name.to_owned())
            .collect();
        let fastest = self.fastest();
        for name in &late {
            self.holders.update(name, |h| {
                h.joining = true;
                // Until it is measured again it is taken for what made it late.
                let known = if h.service > 0.0 { h.service } else { fastest };
                h.service = known / (2 * OVERDUE) as f64;
            });
            if self.publishing.as_ref().is_some_and(|(who, _)| who == name) {
                self.publishing = None;
            }
            self.ledger.expire(name);
        }
        self.touch();
        late
    }

    /// Tells a replica that its leases in this round are gone.
    pub fn revocation(&self) -> Message {
        Message::Revoke {
            generation: self.plan.generation,
            round: self.plan.round,
        }
    }

    /// Keeps the evaluation that came with the round's contributions, if one was due.
    pub fn take_evaluation(&mut self) {
        let newest = self
            .holders
            .iter()
            .find_map(|(_, h)| h.contributed.as_ref()?.held_out);
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
        for Taken {
            worker,
            incarnation,
            work,
        } in self.holders.close_round(round)
        {
            sums.add(&work.sums);
            members.push(Member {
                worker: worker.clone(),
                samples: work.sums.samples,
                steps: None,
                joined: work.joining,
            });
            if !work.trained.is_empty() {
                merge.contributions.push(self.merge(worker, incarnation, work));
            }
        }
        if !merge.contributions.is_empty() {
            self.dirty.insert(Key::Merge(self.spec.name.clone(), round));
            self.suspects.clear(merge.ranges());
            self.pending.push(merge);
        }
        self.alias = None;
        let brought = members.iter().filter(|m| m.samples > 0).count();
        self.add_point(&sums, brought as u32, now);
        self.eta.reached(self.ledger.merged(), now);
        self.totals.add(&sums);
        self.touch();
        self.plan_next(next, now, members)
    }

    fn merge(&mut self, worker: String, incarnation: u64, work: Work) -> Contribution {
        self.ledger
            .ack(&worker, work.epoch, &work.trained)
            .expect("the contribution was checked when it came, and a lost lease removes it");
        self.steps += u64::from(work.steps);
        self.positions += work.sums.samples;
        for (teacher, versions) in &work.teacher_use {
            let total = self.teacher_use.entry(teacher.clone()).or_default();
            for (version, samples) in versions {
                *total.entry(*version).or_default() += samples;
                self.dirty
                    .insert(Key::Use(self.spec.name.clone(), teacher.clone(), *version));
            }
        }
        Contribution {
            worker,
            incarnation,
            steps: work.steps,
            trained: vec![Cut {
                epoch: work.epoch,
                positions: work.trained,
            }],
            teacher_versions: work.teacher_use,
        }
    }

    fn plan_next(&mut self, next: NextRound, now: Millis, mut members: Vec<Member>) -> ClosedRound {
        let round = self.plan.round;
        self.plan.round += 1;
        self.plan.positions = self.positions;
        self.plan.alpha = next.alpha;
        self.plan.gate = next.gate;
        self.plan.evaluate = self
            .evaluated_at
            .is_none_or(|at| self.steps >= at + self.spec.evaluate_every);
        if self.plan.evaluate {
            self.evaluated_at = Some(self.steps);
        }
        // Who must be handed the state first would make others wait for the version, and they may be who has it.
        let has_state = |m: &&Member| !(m.joined && self.spec.hands_over);
        let elect = || members.iter().find(has_state).map(|m| m.worker.clone());
        let publisher = self.publish_due(&next, now).then(elect).flatten();
        if let Some(worker) = &publisher {
            self.publishing = Some((worker.clone(), self.plan.round));
        }
        self.share_steps(&mut members);
        let joined = self.spec.hands_over && members.iter().any(|m| m.joined);
        let keeper = members.iter().find(|m| !m.joined && joined);
        ClosedRound {
            giver: keeper.map(|m| m.worker.clone()),
            group: self.spec.name.clone(),
            round,
            members,
            publisher,
            plan: self.plan.clone(),
        }
    }

    /// Steps of each replica in a round, so that all end it together: the fastest takes what the
    /// job says, the others their share by measured rate. Who is not measured yet is taken for the
    /// slowest.
    fn share_steps(&self, members: &mut [Member]) {
        let fastest = self.fastest();
        let measured = self
            .holders
            .keepers()
            .map(|(_, h)| h.service)
            .filter(|s| *s > 0.0);
        let slowest = measured.fold(fastest, f64::min);
        let service = |member: &Member| {
            let known = self.holders.get(&member.worker).map_or(0.0, |h| h.service);
            match (known > 0.0, fastest > 0.0) {
                (true, _) => known,
                (false, true) => slowest,
                (false, false) => 1.0,
            }
        };
        if let Some(Shared { batches, samples }) = self.spec.shared {
            let rates: Vec<f64> = members.iter().map(service).collect();
            // What a replica has or may get: where the epoch's rest is with some, these take the others' parts.
            let [available, ..] = self.ledger.counts();
            let free = available.div_ceil(samples.max(1).into());
            let most = members
                .iter()
                .map(|m| self.ledger.held_by(&m.worker).div_ceil(samples.max(1).into()) + free);
            let most: Vec<u32> = most.map(|m| u32::try_from(m).unwrap_or(u32::MAX)).collect();
            for (member, share) in members.iter_mut().zip(shares(batches, &rates, &most)) {
                member.steps = Some(share);
            }
        } else if self.spec.exchange && fastest > 0.0 {
            let most = f64::from(self.spec.round_steps);
            for member in members {
                member.steps = Some((most * service(member) / fastest).round().max(1.0) as u32);
            }
        }
    }

    /// The highest measured rate; 0: nobody is measured.
    fn fastest(&self) -> f64 {
        self.holders.keepers().map(|(_, h)| h.service).fold(0.0, f64::max)
    }

    fn add_point(&mut self, sums: &Sums, replicas: u32, now: Millis) {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let seconds = now.since(self.round_began) as f64 / 1e3;
        self.round_began = now;
        if sums.samples == 0 {
            return;
        }
        let held_out: Option<Evaluation> = self.plan.evaluate.then_some(self.held_out).flatten();
        let newest = self.teacher_use.values().filter_map(|v| v.keys().next_back());
        let point = Point {
            step: self.steps,
            positions: self.positions,
            epoch: self.ledger.epoch(),
            hard_loss: mean(sums.hard_loss, sums.labelled),
            kl: mean(sums.kl, sums.taught),
            feature_loss: mean(sums.feature_loss, sums.hinted),
            held_out,
            alpha: (!self.spec.teachers.is_empty()).then_some(self.plan.alpha),
            teacher_version: newest.max().copied(),
            gradient_share: mean(sums.gradient_share, sums.taught),
            samples_per_s: (seconds > 0.0).then(|| sums.samples as f64 / seconds),
            replicas,
            staleness: sums.mean_staleness(),
        };
        for round in self.curve.add(self.plan.round, point) {
            self.dirty.insert(Key::Point(self.spec.name.clone(), round));
        }
    }
}

/// So many batches in shares by rate, none larger than its `most` and each at least 1: all together `batches`, unless that is
/// more than they may have, or less than there are to share it. Where nobody may have any the epoch is over, and the next one
/// has enough for all.
fn shares(batches: u32, rates: &[f64], most: &[u32]) -> Vec<u32> {
    if !most.is_empty() && most.iter().all(|m| *m == 0) {
        return shares(batches, rates, &vec![u32::MAX; rates.len()]);
    }
    let mut shares = vec![1; rates.len()];
    for _ in rates.len()..batches as usize {
        // The one that would end first with one more.
        let ends = |i: usize| f64::from(shares[i] + 1) / rates[i];
        let open = (0..rates.len()).filter(|i| shares[*i] < most[*i]);
        match open.min_by(|a, b| ends(*a).total_cmp(&ends(*b))) {
            Some(next) => shares[next] += 1,
            None => break,
        }
    }
    // Who has nothing gives its 1 to somebody who has.
    let idle = most.iter().filter(|m| **m == 0).count();
    for _ in 0..idle {
        let ends = |i: usize| f64::from(shares[i] + 1) / rates[i];
        let open = (0..rates.len()).filter(|i| shares[*i] < most[*i]);
        if let Some(next) = open.min_by(|a, b| ends(*a).total_cmp(&ends(*b))) {
            shares[next] += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn a_global_batch_is_shared_whole_whoever_is_there() {
        let all = |batches, rates: &[f64]| shares(batches, rates, &vec![100; rates.len()]);
        assert_eq!(all(4, &[1.0; 4]), [1, 1, 1, 1]);
        assert_eq!(all(4, &[1.0; 3]), [2, 1, 1]);
        assert_eq!(all(4, &[1.0; 1]), [4]);
        assert_eq!(all(4, &[1.0; 6]), [1; 6], "nobody has nothing to do");
        assert_eq!(
            all(8, &[30.0, 10.0, 10.0]),
            [6, 1, 1],
            "all end after a fifth of a second"
        );
        for members in 1..9 {
            let rates: Vec<f64> = (0..members).map(|i| 1.0 + f64::from(i) * 3.7).collect();
            assert_eq!(all(32, &rates).iter().sum::<u32>(), 32);
        }
    }

    #[test]
    fn those_who_have_the_rest_of_an_epoch_take_the_others_parts() {
        // The plan of who has nothing says 1, which it contributes without.
        assert_eq!(shares(4, &[1.0; 4], &[9, 0, 0, 9]), [2, 1, 1, 2]);
        assert_eq!(shares(4, &[1.0; 4], &[9, 1, 0, 0]), [3, 1, 1, 1]);
        assert_eq!(shares(4, &[1.0; 2], &[1, 1]), [1, 1], "the last batch is smaller");
        assert_eq!(
            shares(4, &[1.0; 2], &[0, 0]),
            [2, 2],
            "the next epoch's first is whole"
        );
        assert_eq!(shares(4, &[1.0; 2], &[0, 2]), [1, 2]);
    }
}
