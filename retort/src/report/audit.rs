//! Recomputes, from the manifests alone, which samples the surviving weights contain.
//!
//! The walk starts at the newest version of a group that verifies and follows the parents' hashes
//! down to version 0. What those manifests say was merged is the multiset of positions in the
//! state: a position met twice is a duplicate, one never met and not quarantined is lost. The
//! coordinator's own ledger is not asked, since a ledger of intervals cannot show its own mistakes.

mod lineage;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use retort_data::ranges::RangeSet;
use serde::{Deserialize, Serialize};

/// What an output folder holds, group by group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub groups: Vec<GroupAudit>,
}

/// One group of one run, along its surviving lineage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupAudit {
    pub run: String,
    pub group: String,
    /// `"teacher"`, `"student"` or `"baseline"`; empty when no version could be read.
    pub kind: String,
    /// The newest version that verifies.
    pub version: Option<u64>,
    /// Manifests between that version and version 0, both included.
    pub lineage: u64,
    pub epochs: Vec<EpochAudit>,
    /// By teacher, then version: samples whose soft targets came from it.
    pub teacher_versions: BTreeMap<String, BTreeMap<u64, u64>>,
    /// What makes the audit fail.
    pub findings: Vec<Finding>,
    /// What was passed over, such as a torn newest version.
    pub warnings: Vec<Finding>,
}

/// One epoch of a group; `committed + quarantined + lost = samples`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochAudit {
    pub epoch: u32,
    #[serde(flatten)]
    pub counts: Counts,
    pub duplicate_positions: RangeSet,
    pub lost_positions: RangeSet,
}

/// Positions by their fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub samples: u64,
    /// Distinct positions in the state.
    pub committed: u64,
    /// Given up, and not in the state.
    pub quarantined: u64,
    /// Times a position was met again, in a merge or among the quarantined.
    pub duplicates: u64,
    /// Neither merged nor quarantined. Of an unfinished run: still missing.
    pub lost: u64,
}

/// Something an audit has to say about one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum Finding {
    #[error("no version verifies")]
    NoVersion,
    #[error("version {version}: manifest cannot be read: {reason}")]
    Unreadable { version: u64, reason: String },
    #[error("version {version}: {file} is missing")]
    MissingFile { version: u64, file: String },
    #[error("version {version}: {file} does not match its blake3")]
    CorruptFile { version: u64, file: String },
    #[error(
        "version {version}: its parent {parent} is not among the manifests, so the lineage does not reach version 0"
    )]
    BrokenParent { version: u64, parent: String },
    #[error("version {version} has no parent, only version 0 may have none")]
    Orphan { version: u64 },
    #[error("version {version}: {field} differs from that of its successor")]
    Inconsistent { version: u64, field: String },
    #[error("version {version} merged {outside} positions outside {epochs} epochs of {samples}")]
    Stray {
        version: u64,
        outside: u64,
        epochs: u32,
        samples: u64,
    },
    #[error("version {version}: its ledger cut is not what its lineage holds of the epoch")]
    WrongCut { version: u64 },
    #[error("version {version} records {recorded} merged positions, its lineage holds {found}")]
    Miscounted { version: u64, recorded: u64, found: u64 },
}

/// Why there is nothing to audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no checkpoints of any group", .0.display())]
    Empty(PathBuf),
}

/// Audits every group under `DIR/checkpoints/<run>/<group>/`.
pub fn audit(dir: &Path) -> Result<Audit, AuditError> {
    let mut groups = Vec::new();
    for (run, path) in lineage::folders(&dir.join("checkpoints"))? {
        for (group, path) in lineage::folders(&path)? {
            let found = lineage::survey(&path)?;
            if found.manifests.iter().any(|m| m.kind == "average") {
                // Made of a group's versions: it contains no sample that these do not.
                continue;
            }
            groups.push(tally::tally(run.clone(), group, found));
        }
    }
    if groups.is_empty() {
        return Err(AuditError::Empty(dir.to_owned()));
    }
    Ok(Audit { groups })
}

impl Audit {
    /// Every sample of every group is in the state once or quarantined, and nothing was found amiss.
    pub fn ok(&self) -> bool {
        self.groups.iter().all(GroupAudit::ok)
    }

    /// As [`Audit::ok`], for a run that may still have epochs ahead of it.
    pub fn ok_so_far(&self) -> bool {
        self.groups.iter().all(GroupAudit::ok_so_far)
    }

    /// The sum over the groups of one kind, such as `"student"`.
    pub fn totals(&self, kind: &str) -> Counts {
        self.groups
            .iter()
            .filter(|g| g.kind == kind)
            .map(GroupAudit::totals)
            .fold(Counts::default(), Counts::plus)
    }

    /// By teacher: samples by version, summed over the groups of one kind in one run.
    pub fn teacher_versions(&self, run: &str, kind: &str) -> BTreeMap<String, BTreeMap<u64, u64>> {
        let mut sum = BTreeMap::new();
        for group in self.groups.iter().filter(|g| g.run == run && g.kind == kind) {
            tally::add_versions(&mut sum, &group.teacher_versions);
        }
        sum
    }
}

impl GroupAudit {
    pub fn ok(&self) -> bool {
        self.ok_so_far() && self.totals().lost == 0
    }

    /// Nothing amiss but positions that the run has yet to reach.
    pub fn ok_so_far(&self) -> bool {
        self.findings.is_empty()
            && self.totals().duplicates == 0
            && (self.totals().lost == 0 || self.unfinished())
    }

    /// All that lacks lies in the last epoch trained on or after it: the run stopped there.
    pub fn unfinished(&self) -> bool {
        let last = self
            .epochs
            .iter()
            .rposition(|e| e.counts.committed > 0)
            .unwrap_or(0);
        self.epochs[..last.min(self.epochs.len())]
            .iter()
            .all(|e| e.counts.lost == 0)
            && self.totals().lost > 0
    }

    pub fn totals(&self) -> Counts {
        self.epochs
            .iter()
            .map(|e| e.counts)
            .fold(Counts::default(), Counts::plus)
    }
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            committed: self.committed + other.committed,
            quarantined: self.quarantined + other.quarantined,
            duplicates: self.duplicates + other.duplicates,
            lost: self.lost + other.lost,
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |g: &GroupAudit| format!("{}/{}", g.run, g.group);
        let width = self
            .groups
            .iter()
            .map(|g| name(g).chars().count())
            .max()
            .unwrap_or(0)
            .max("group".len());
        writeln!(
            f,
            "{:width$} {:>8} {:>10} {:>10} {:>11} {:>10} {:>8}  result",
            "group", "version", "samples", "committed", "quarantined", "duplicates", "lost"
        )?;
        for group in &self.groups {
            let t = group.totals();
            let version = group.version.map_or_else(|| "none".to_owned(), |v| v.to_string());
            let result = match (group.ok(), group.ok_so_far()) {
                (true, _) => "ok",
                (false, true) => "unfinished: the lost are still missing",
                (false, false) => "FAILED",
            };
            writeln!(
                f,
                "{:width$} {version:>8} {:>10} {:>10} {:>11} {:>10} {:>8}  {result}",
                name(group),
                t.samples,
                t.committed,
                t.quarantined,
                t.duplicates,
                t.lost
            )?;
        }
        for group in &self.groups {
            let lines = group
                .findings
                .iter()
                .map(|x| ("error", x))
                .chain(group.warnings.iter().map(|x| ("warning", x)));
            for (level, finding) in lines {
                writeln!(f, "{level}: {}: {finding}", name(group))?;
            }
            for epoch in &group.epochs {
                positions(f, &name(group), epoch, "duplicate", &epoch.duplicate_positions)?;
                // What an unfinished run has yet to reach is counted above.
                if !group.unfinished() {
                    positions(f, &name(group), epoch, "lost", &epoch.lost_positions)?;
                }
            }
        }
        Ok(())
    }
}

/// One line that names ranges, cut where it would no longer be read.
fn positions(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    epoch: &EpochAudit,
    what: &str,
    set: &RangeSet,
) -> fmt::Result {
    const SHOWN: usize = 8;
    if set.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = set
        .iter()
        .take(SHOWN)
        .map(|r| format!("{}..{}", r.start, r.end))
        .collect();
    let more = if set.iter().count() > SHOWN { ", ..." } else { "" };
    writeln!(
        f,
        "{name}: epoch {}: {what} positions {}{more}",
        epoch.epoch,
        shown.join(", ")
    )
}
