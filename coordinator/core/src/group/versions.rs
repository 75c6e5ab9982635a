//! Publishing a group's state, and taking up one that a manifest describes.

use retort_data::ranges::RangeSet;

use super::{Durable, Group, NextRound};
use crate::ids::{Millis, Refusal};
use crate::ledger;
use crate::manifest::{Cut, Manifest, Merge};
use crate::record::Key;
use crate::round::Ticket;

/// Pause after a version that could not be written, ms.
const RETRY: u64 = 1_000;

impl Group {
    pub(super) fn publish_due(&self, next: &NextRound, now: Millis) -> bool {
        if self.publishing.is_some() || self.committing || !self.has_news() || now < self.publish_after {
            return false;
        }
        let Some(durable) = self.durable else {
            return true;
        };
        let every = u64::from(self.spec.publish_every);
        let by_steps = every > 0 && self.steps >= durable.steps + every;
        let by_time = next
            .checkpoint_every
            .is_some_and(|every| now.since(durable.at) >= every);
        let by_place = next.publish_from.is_some_and(|from| self.ledger.merged() >= from);
        self.ledger.all_merged() || by_steps || by_time || by_place || next.stopping
    }

    /// There is no version yet and nobody makes one: others may wait for it.
    pub fn lacks_version(&self, now: Millis) -> bool {
        self.durable.is_none() && self.publishing.is_none() && !self.committing && now >= self.publish_after
    }

    /// A manifest would say more than the newest one: merges, or that the rest of the epoch was
    /// taken out.
    fn has_news(&self) -> bool {
        self.durable.is_none() || !self.pending.is_empty() || self.ledger.all_durable() && !self.done
    }

    /// Asks `worker` to publish if a manifest is due and nobody is at it (its publisher was lost).
    pub fn take_over_publishing(&mut self, worker: &str, now: Millis) -> bool {
        let holds = self
            .holders
            .get(worker)
            .is_some_and(|h| !h.joining && h.contributed.is_none());
        // Whoever was asked and asks for work has not heard of it.
        let asked = (worker.to_owned(), self.plan.round);
        let open = self.publishing.is_none() && now >= self.publish_after;
        let due = self.has_news() && !self.committing && (open || self.publishing.as_ref() == Some(&asked));
        if holds && due {
            self.publishing = Some(asked);
        }
        holds && due
    }

    /// The version could not be written (a full disk, say): training goes on, and a later round
    /// tries again.
    pub fn publish_failed(&mut self, worker: &str, now: Millis) {
        if self.publishing.as_ref().is_some_and(|(who, _)| who == worker) {
            self.publishing = None;
            self.publish_after = now.plus(RETRY);
        }
    }

    /// The manifest could not be written: training goes on, and a later round tries again.
    pub fn commit_failed(&mut self, now: Millis) {
        self.committing = false;
        self.publishing = None;
        self.publish_after = now.plus(RETRY);
    }

    /// What the version that `worker` uploaded contains. Until [`Group::published`] or [`Group::commit_failed`] none of it is
    /// taken back.
    pub fn ticket(&mut self, worker: &str, generation: u64, round: u64) -> Result<Ticket, Refusal> {
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
        if self.committing {
            return Err(Refusal::Busy(format!(
                "a version of group {} is being written",
                self.spec.name
            )));
        }
        self.committing = true;
        let merges: Vec<Merge> = self.pending.iter().filter(|m| m.round < round).cloned().collect();
        let (steps, positions) = self.durable.map_or((0, 0), |d| (d.steps, d.positions));
        let added = |m: &Merge| m.contributions.iter().map(|c| u64::from(c.steps)).sum::<u64>();
        let mut committed = self.ledger.committed().clone();
        let new: u64 = merges
            .iter()
            .flat_map(Merge::ranges)
            .map(|range| committed.insert(range))
            .sum();
        Ok(Ticket {
            group: self.spec.name.clone(),
            version: self.next_version,
            round,
            steps: steps + merges.iter().map(added).sum::<u64>(),
            positions: positions + new,
            epoch: self.ledger.epoch(),
            committed,
            merges,
            quarantined: self.ledger.quarantined().clone(),
        })
    }

    /// The version that already holds this round's start, for a publisher whose answer was lost.
    pub fn published_as(&self, generation: u64, round: u64) -> Option<u64> {
        self.durable
            .filter(|d| generation == self.plan.generation && d.round == round)
            .map(|d| d.version)
    }

    /// The version's manifest is durable: what it contains is committed. True if that closed an epoch.
    pub fn published(&mut self, ticket: &Ticket, now: Millis) -> bool {
        for merge in &ticket.merges {
            self.ledger.commit(merge.ranges());
            self.dirty.insert(Key::Merge(self.spec.name.clone(), merge.round));
        }
        self.pending.retain(|m| m.round >= ticket.round);
        self.durable = Some(Durable {
            version: ticket.version,
            round: ticket.round,
            steps: ticket.steps,
            positions: ticket.positions,
            at: now,
        });
        self.next_version = ticket.version + 1;
        self.publishing = None;
        self.committing = false;
        self.touch();
        // What was taken out meanwhile is in no manifest yet.
        ticket.quarantined == *self.ledger.quarantined() && self.close_epoch()
    }

    /// Opens the next epoch if this one is durable as a whole.
    pub(super) fn close_epoch(&mut self) -> bool {
        if self.done || !self.ledger.all_durable() {
            return false;
        }
        if self.ledger.epoch() + 1 >= self.spec.epochs {
            self.done = true;
        } else {
            self.ledger.next_epoch();
            self.suspects = super::Suspects::default();
            self.blamed.clear();
        }
        self.touch();
        true
    }

    /// The newest intact manifest, read at a start. The records may lag behind it by one version
    /// (the manifest is the commit record), or be ahead of it (its files are lost). Gives what was
    /// done about it, in words.
    pub(crate) fn settle_with(&mut self, manifest: Option<&Manifest>, now: Millis) -> Option<String> {
        let recorded = self.durable.map(|d| d.version);
        let found = manifest.map(|m| m.version);
        if recorded == found {
            return None;
        }
        let name = self.spec.name.clone();
        if let Some(m) = manifest.filter(|_| found > recorded) {
            let known = |merge: &&Merge| self.pending.iter().any(|p| p.round == merge.round);
            if m.merges.iter().all(|merge| known(&merge)) {
                let ticket = Ticket {
                    group: name.clone(),
                    version: m.version,
                    round: m.round,
                    steps: m.steps,
                    positions: m.positions,
                    epoch: m.epoch,
                    committed: m.committed.clone(),
                    merges: m.merges.clone(),
                    quarantined: in_epoch(m, &m.quarantined),
                };
                self.published(&ticket, now);
                return Some(format!(
                    "group {name}: version {} was written just before the end of the former term",
                    m.version
                ));
            }
        }
        self.move_to(manifest, now);
        Some(match manifest {
            Some(m) => format!(
                "group {name}: the ledger moves to the manifest of version {}, the newest intact one",
                m.version
            ),
            None => format!("group {name}: no manifest is left, it starts from nothing"),
        })
    }

    /// The state becomes that of a manifest, under a new generation.
    fn move_to(&mut self, manifest: Option<&Manifest>, now: Millis) {
        let nothing = Manifest::default();
        let m = manifest.unwrap_or(&nothing);
        let quarantined = in_epoch(m, &m.quarantined);
        let whole = u64::from(m.epoch) * self.ledger.positions();
        let before = m.positions - m.committed.len();
        let cut = ledger::Record {
            epoch: m.epoch,
            committed: m.committed.clone(),
            quarantined,
            totals: ledger::Totals {
                committed: before,
                quarantined: whole - before,
                ..ledger::Totals::default()
            },
        };
        let name = self.spec.name.clone();
        for merge in std::mem::take(&mut self.pending) {
            self.dirty.insert(Key::Merge(name.clone(), merge.round));
        }
        self.ledger.move_to(&cut);
        self.next_version = self.next_version.max(manifest.map_or(0, |m| m.version + 1));
        self.durable = manifest.map(|m| Durable {
            version: m.version,
            round: m.round,
            steps: m.steps,
            positions: m.positions,
            at: now,
        });
        self.steps = m.steps;
        self.positions = m.positions;
        self.plan.positions = m.positions;
        self.done = false;
        self.plan.round = self.plan.round.max(m.round);
        self.forget_merges();
        self.close_epoch();
    }
}

/// Positions of the manifest's own epoch.
fn in_epoch(manifest: &Manifest, cuts: &[Cut]) -> RangeSet {
    let this = cuts.iter().filter(|c| c.epoch == manifest.epoch);
    this.flat_map(|c| c.positions.iter()).collect()
}
