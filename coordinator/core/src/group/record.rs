//! What of a group survives the coordinator, and how it is taken up again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Group;
use super::suspects::Suspects;
use crate::ids::Millis;
use crate::ledger::{self, Ledger};
use crate::manifest::Merge;
use crate::record::{Key, Record as AnyRecord};
use crate::round::{Evaluation, Point, RoundPlan, Sums};
use crate::spec::GroupSpec;

/// The newest durable version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Durable {
    /// Its number.
    pub version: u64,
    /// It stands at the start of this round.
    pub round: u64,
    /// Optimizer steps in it.
    pub steps: u64,
    /// Positions in it.
    pub positions: u64,
    /// When it was written.
    pub at: Millis,
}

/// A group, but for its merges, points and teacher use, which have records of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    plan: RoundPlan,
    alias: Option<(u64, u64)>,
    ledger: ledger::Record,
    durable: Option<Durable>,
    next_version: u64,
    steps: u64,
    positions: u64,
    evaluated_at: Option<u64>,
    held_out: Option<Evaluation>,
    totals: Sums,
    suspects: Suspects,
    poison: Vec<(u32, u64)>,
    #[serde(default)]
    bad_samples: BTreeSet<u32>,
    done: bool,
}

/// All of a group's records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) group: Option<Record>,
    pub(crate) merges: Vec<Merge>,
    pub(crate) uses: Vec<(String, u64, u64)>,
    pub(crate) points: Vec<(u64, Point)>,
}

impl Group {
    /// The group that wrote these records. Its leases are open: holders come back and claim them.
    pub(crate) fn restore(spec: GroupSpec, positions: u64, records: Records) -> Self {
        let mut group = Self::new(spec, positions);
        let Some(r) = records.group else {
            return group;
        };
        group.plan = r.plan;
        group.alias = r.alias;
        group.durable = r.durable;
        group.next_version = r.next_version;
        group.steps = r.steps;
        group.positions = r.positions;
        group.evaluated_at = r.evaluated_at;
        group.held_out = r.held_out;
        group.totals = r.totals;
        group.suspects = r.suspects;
        group.poison = r.poison.into_iter().collect();
        group.bad_samples = r.bad_samples;
        group.done = r.done;
        group.pending = records.merges;
        group.pending.sort_by_key(|m| m.round);
        let merged = group.merged_since_manifest();
        group.ledger = Ledger::restore(positions, &r.ledger, &merged);
        for (teacher, version, samples) in records.uses {
            group
                .teacher_use
                .entry(teacher)
                .or_default()
                .insert(version, samples);
        }
        for (round, point) in records.points {
            group.curve.restore(round, point);
        }
        group.curve.restored();
        group
    }

    /// The records that changed since this was last called, by key.
    pub(crate) fn take_dirty(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// The present content of one of its records; `None`: there is none any more.
    pub(crate) fn record(&self, key: &Key) -> Option<AnyRecord> {
        let group = self.spec.name.clone();
        match key {
            Key::Group(_) => Some(AnyRecord::Group(Box::new(self.own_record()))),
            Key::Merge(_, round) => {
                let merge = self.pending.iter().find(|m| m.round == *round)?.clone();
                Some(AnyRecord::Merge { group, merge })
            }
            Key::Use(_, teacher, version) => Some(AnyRecord::Use {
                group,
                teacher: teacher.clone(),
                version: *version,
                samples: *self.teacher_use.get(teacher)?.get(version)?,
            }),
            Key::Point(_, round) => Some(AnyRecord::Point {
                group,
                round: *round,
                point: self.curve.get(*round)?.clone(),
            }),
            Key::Run | Key::Member(_) | Key::Teacher(_) | Key::Version(..) | Key::Event(_) => None,
        }
    }

    fn own_record(&self) -> Record {
        Record {
            name: self.spec.name.clone(),
            plan: self.plan.clone(),
            alias: self.alias,
            ledger: self.ledger.record(),
            durable: self.durable,
            next_version: self.next_version,
            steps: self.steps,
            positions: self.positions,
            evaluated_at: self.evaluated_at,
            held_out: self.held_out,
            totals: self.totals,
            suspects: self.suspects.clone(),
            poison: self.poison.iter().copied().collect(),
            bad_samples: self.bad_samples.clone(),
            done: self.done,
        }
    }
}
