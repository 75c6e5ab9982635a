//! From a chain of manifests to the multiset of positions.

use std::collections::BTreeMap;

use retort_coordinator_core::manifest::{Contribution, Cut, Manifest};
use retort_data::ranges::RangeSet;

use super::lineage::Lineage;
use super::{Counts, EpochAudit, Finding, GroupAudit};

/// The positions of one epoch as they are met.
#[derive(Default)]
struct Met {
    merged: RangeSet,
    quarantined: RangeSet,
    repeated: RangeSet,
    duplicates: u64,
}

/// Counts what the lineage contains. The grid is the one that its newest manifest states.
pub(super) fn tally(run: String, group: String, found: Lineage) -> GroupAudit {
    let Lineage {
        manifests,
        findings,
        warnings,
    } = found;
    let mut audit = GroupAudit {
        run,
        group,
        findings,
        warnings,
        ..GroupAudit::default()
    };
    let Some(head) = manifests.first() else {
        return audit;
    };
    audit.kind = head.kind.clone();
    audit.version = Some(head.version);
    audit.lineage = manifests.len() as u64;

    let mut met: Vec<Met> = (0..head.epochs).map(|_| Met::default()).collect();
    let mut positions = 0u64;
    for manifest in manifests.iter().rev() {
        let outside = merge(manifest, head.positions_per_epoch, &mut met);
        positions = trained(manifest).fold(positions, |sum, cut| sum.saturating_add(cut.positions.len()));
        let version = manifest.version;
        if outside > 0 {
            audit.findings.push(Finding::Stray {
                version,
                outside,
                epochs: head.epochs,
                samples: head.positions_per_epoch,
            });
        }
        let cut = met.get(manifest.epoch as usize).map(|m| &m.merged);
        if cut.is_some_and(|merged| *merged != manifest.committed) {
            audit.findings.push(Finding::WrongCut { version });
        }
        if manifest.positions != positions {
            audit.findings.push(Finding::Miscounted {
                version,
                recorded: manifest.positions,
                found: positions,
            });
        }
        for contribution in contributions(manifest) {
            add_versions(&mut audit.teacher_versions, &contribution.teacher_versions);
        }
    }
    audit.epochs = met
        .into_iter()
        .zip(0..)
        .map(|(met, epoch)| met.close(epoch, head.positions_per_epoch))
        .collect();
    audit
}

pub(super) fn add_versions(
    sum: &mut BTreeMap<String, BTreeMap<u64, u64>>,
    more: &BTreeMap<String, BTreeMap<u64, u64>>,
) {
    for (teacher, versions) in more {
        let teacher = sum.entry(teacher.clone()).or_default();
        for (version, samples) in versions {
            let sum = teacher.entry(*version).or_default();
            *sum = sum.saturating_add(*samples);
        }
    }
}

fn contributions(manifest: &Manifest) -> impl Iterator<Item = &Contribution> {
    manifest.merges.iter().flat_map(|m| &m.contributions)
}

fn trained(manifest: &Manifest) -> impl Iterator<Item = &Cut> {
    contributions(manifest).flat_map(|c| &c.trained)
}

/// Adds one manifest to what was met; returns how many positions lie outside the grid.
fn merge(manifest: &Manifest, samples: u64, met: &mut [Met]) -> u64 {
    let grid = RangeSet::from(0..samples);
    let mut outside = 0u64;
    let mut each = |cut: &Cut, add: fn(&mut Met, &RangeSet)| {
        let Some(met) = met.get_mut(cut.epoch as usize) else {
            outside = outside.saturating_add(cut.positions.len());
            return;
        };
        outside = outside.saturating_add(cut.positions.difference(&grid).len());
        add(met, &cut.positions.intersect(&grid));
    };
    for cut in trained(manifest) {
        each(cut, Met::merge);
    }
    for cut in &manifest.quarantined {
        each(cut, Met::quarantine);
    }
    outside
}

impl Met {
    fn merge(&mut self, positions: &RangeSet) {
        self.repeat(&self.merged.intersect(positions));
        self.merged = self.merged.union(positions);
    }

    fn quarantine(&mut self, positions: &RangeSet) {
        self.quarantined = self.quarantined.union(positions);
    }

    fn repeat(&mut self, positions: &RangeSet) {
        self.duplicates += positions.len();
        self.repeated = self.repeated.union(positions);
    }

    /// A position both merged and quarantined is in the state, and listed once too often.
    fn close(mut self, epoch: u32, samples: u64) -> EpochAudit {
        self.repeat(&self.merged.intersect(&self.quarantined));
        let quarantined = self.quarantined.difference(&self.merged);
        let lost_positions = RangeSet::from(0..samples)
            .difference(&self.merged)
            .difference(&quarantined);
        let counts = Counts {
            samples,
            committed: self.merged.len(),
            quarantined: quarantined.len(),
            duplicates: self.duplicates,
            lost: lost_positions.len(),
        };
        EpochAudit {
            epoch,
            counts,
            duplicate_positions: self.repeated,
            lost_positions,
        }
    }
}
