use std::fs;
use std::path::{Path, PathBuf};

use retort_coordinator_core::manifest::{self, Contribution, Cut, FileDigest, Manifest, Merge};
use tempfile::TempDir;

use super::*;

const SAMPLES: u64 = 100;

/// An output folder with one student group; versions are written oldest first.
struct Folder {
    dir: TempDir,
    parent: Option<String>,
    version: u64,
    positions: u64,
    /// Positions of epoch 0 so far.
    first_epoch: RangeSet,
}

impl Folder {
    /// Version 0 contains no samples.
    fn new() -> Self {
        let mut folder = Self {
            dir: TempDir::new().unwrap(),
            parent: None,
            version: 0,
            positions: 0,
            first_epoch: RangeSet::new(),
        };
        folder.write(&[], &[]);
        folder
    }

    fn version(&self, version: u64) -> PathBuf {
        self.dir
            .path()
            .join(format!("checkpoints/r-s1/small/{version:08}"))
    }

    /// Writes the next version: merged and quarantined ranges as (epoch, start, end).
    fn write(&mut self, merged: &[(u32, u64, u64)], quarantined: &[(u32, u64, u64)]) {
        let folder = self.version(self.version);
        fs::create_dir_all(&folder).unwrap();
        let weights = format!("weights {}", self.version).into_bytes();
        fs::write(folder.join("model.safetensors"), &weights).unwrap();
        self.positions += merged.iter().map(|(_, start, end)| end - start).sum::<u64>();
        for (_, start, end) in merged.iter().filter(|m| m.0 == 0) {
            self.first_epoch.insert(*start..*end);
        }
        let digest = FileDigest {
            bytes: weights.len() as u64,
            blake3: manifest::hash(&weights),
            at: None,
        };
        let bytes = Manifest {
            format: manifest::FORMAT,
            term: 1,
            run: "r-s1".into(),
            group: "small".into(),
            kind: "student".into(),
            version: self.version,
            parent: self.parent.take(),
            steps: 10 * self.version,
            positions: self.positions,
            epoch: 0,
            round: self.version,
            committed: self.first_epoch.clone(),
            epochs: 2,
            positions_per_epoch: SAMPLES,
            seed: 1,
            dataset_digest: "d".into(),
            merges: vec![Merge {
                round: self.version,
                contributions: merged.iter().map(contribution).collect(),
            }],
            quarantined: quarantined.iter().map(cut).collect(),
            files: [("model.safetensors".to_owned(), digest)].into(),
            teacher_versions: [("wide".to_owned(), self.version)].into(),
            held_out: None,
        }
        .to_bytes();
        fs::write(folder.join(manifest::FILE_NAME), &bytes).unwrap();
        self.parent = Some(manifest::hash(&bytes));
        self.version += 1;
    }

    fn audit(&self) -> GroupAudit {
        let mut audit = audit(self.dir.path()).unwrap();
        assert_eq!(audit.groups.len(), 1, "{audit}");
        audit.groups.remove(0)
    }
}

fn cut(&(epoch, start, end): &(u32, u64, u64)) -> Cut {
    Cut {
        epoch,
        positions: (start..end).into(),
    }
}

fn contribution(range: &(u32, u64, u64)) -> Contribution {
    let samples = range.2 - range.1;
    Contribution {
        worker: "small-0".into(),
        incarnation: 1,
        steps: 1,
        trained: vec![cut(range)],
        teacher_versions: [("wide".to_owned(), [(u64::from(range.0), samples)].into())].into(),
    }
}

/// Two epochs, all positions once, three of them quarantined.
fn clean() -> Folder {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 60)], &[]);
    folder.write(&[(0, 60, 97)], &[(0, 97, 100)]);
    folder.write(&[(1, 50, 100), (1, 0, 50)], &[(0, 97, 100)]);
    folder
}

fn ranges(set: &RangeSet) -> Vec<(u64, u64)> {
    set.iter().map(|r| (r.start, r.end)).collect()
}

fn corrupt(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_clean_run_accounts_for_every_sample() {
    let folder = clean();
    let group = folder.audit();
    assert!(group.ok() && group.warnings.is_empty(), "{group:?}");
    assert_eq!(
        group.totals(),
        Counts {
            samples: 200,
            committed: 197,
            quarantined: 3,
            duplicates: 0,
            lost: 0
        }
    );
    assert_eq!((group.version, group.lineage), (Some(3), 4));
    assert_eq!(group.teacher_versions["wide"], [(0, 97), (1, 100)].into());
    let audit = audit(folder.dir.path()).unwrap();
    assert_eq!(audit.totals("student"), group.totals());
    assert_eq!(audit.totals("baseline"), Counts::default());
    assert_eq!(audit.teacher_versions("r-s1", "student")["wide"].len(), 2);
    assert!(audit.to_string().contains("ok"), "{audit}");
    let json = serde_json::to_string(&audit).unwrap();
    assert_eq!(serde_json::from_str::<Audit>(&json).unwrap(), audit);
}

#[test]
fn pruned_weights_of_older_versions_are_no_fault() {
    let folder = clean();
    for version in 0..3 {
        fs::remove_file(folder.version(version).join("model.safetensors")).unwrap();
    }
    let group = folder.audit();
    assert!(group.ok() && group.warnings.is_empty(), "{group:?}");
}

#[test]
fn a_range_merged_twice_is_a_duplicate() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 100)], &[]);
    folder.write(&[(1, 0, 100), (0, 20, 30)], &[]);
    let group = folder.audit();
    assert!(!group.ok() && !group.ok_so_far());
    assert_eq!(group.totals().duplicates, 10);
    assert_eq!(group.totals().committed, 200);
    assert_eq!(ranges(&group.epochs[0].duplicate_positions), [(20, 30)]);
}

#[test]
fn a_range_merged_twice_in_one_version_is_a_duplicate_too() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 100), (1, 0, 100), (1, 99, 100)], &[]);
    assert_eq!(folder.audit().totals().duplicates, 1);
}

#[test]
fn a_position_merged_and_quarantined_is_a_duplicate() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 100), (1, 0, 100)], &[(0, 5, 7)]);
    let totals = folder.audit().totals();
    assert_eq!(
        (totals.duplicates, totals.quarantined, totals.committed),
        (2, 0, 200)
    );
}

#[test]
fn a_range_never_merged_in_a_closed_epoch_is_lost() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 40), (0, 50, 100)], &[]);
    folder.write(&[(1, 0, 100)], &[]);
    let group = folder.audit();
    assert!(!group.ok() && !group.ok_so_far() && !group.unfinished());
    assert_eq!(group.totals().lost, 10);
    assert_eq!(ranges(&group.epochs[0].lost_positions), [(40, 50)]);
    assert!(
        audit(folder.dir.path())
            .unwrap()
            .to_string()
            .contains("lost positions 40..50")
    );
}

#[test]
fn an_unfinished_run_is_missing_its_last_positions() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 30)], &[]);
    let group = folder.audit();
    assert!(!group.ok() && group.ok_so_far() && group.unfinished());
    assert_eq!(group.totals().lost, 170);
}

#[test]
fn a_torn_newest_manifest_is_passed_over_with_a_warning() {
    let mut folder = clean();
    folder.write(&[], &[]);
    let path = folder.version(4).join(manifest::FILE_NAME);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let group = folder.audit();
    assert!(group.ok(), "{group:?}");
    assert_eq!(group.version, Some(3));
    assert!(
        matches!(group.warnings[..], [Finding::Unreadable { version: 4, .. }]),
        "{group:?}"
    );
}

#[test]
fn corrupt_or_missing_weights_of_the_newest_version_make_it_not_count() {
    for fault in [corrupt, |path: &Path| fs::remove_file(path).unwrap()] {
        let folder = clean();
        fault(&folder.version(3).join("model.safetensors"));
        let group = folder.audit();
        assert_eq!(group.version, Some(2));
        assert_eq!(group.warnings.len(), 1, "{group:?}");
        assert!(!group.ok(), "the epoch that version 3 merged is gone");
    }
}

#[test]
fn corrupt_weights_of_an_older_version_are_named() {
    let folder = clean();
    corrupt(&folder.version(1).join("model.safetensors"));
    let group = folder.audit();
    assert_eq!(
        group.warnings,
        [Finding::CorruptFile {
            version: 1,
            file: "model.safetensors".into()
        }]
    );
    assert!(group.ok());
}

#[test]
fn a_lineage_that_does_not_reach_version_0_fails() {
    let folder = clean();
    fs::remove_dir_all(folder.version(1)).unwrap();
    let group = folder.audit();
    assert!(!group.ok() && !group.ok_so_far());
    assert!(
        matches!(group.findings[0], Finding::BrokenParent { version: 2, .. }),
        "{group:?}"
    );
}

#[test]
fn an_edited_ancestor_breaks_the_lineage() {
    let folder = clean();
    let path = folder.version(1).join(manifest::FILE_NAME);
    let text = fs::read_to_string(&path).unwrap().replace("small-0", "small-1");
    fs::write(&path, text).unwrap();
    assert!(matches!(
        folder.audit().findings[0],
        Finding::BrokenParent { version: 2, .. }
    ));
}

#[test]
fn an_abandoned_branch_does_not_count() {
    let mut folder = Folder::new();
    let root = folder.parent.clone();
    folder.write(&[(0, 0, 50)], &[]);
    (folder.parent, folder.positions) = (root, 0);
    folder.write(&[(0, 0, 100), (1, 0, 100)], &[]);
    let group = folder.audit();
    assert!(group.ok(), "{group:?}");
    assert_eq!((group.version, group.lineage), (Some(2), 2));
}

#[test]
fn positions_outside_the_grid_are_found() {
    let mut folder = Folder::new();
    folder.write(&[(0, 0, 100), (1, 0, 101), (7, 0, 9)], &[]);
    let group = folder.audit();
    assert_eq!(
        group.findings,
        [Finding::Stray {
            version: 1,
            outside: 10,
            epochs: 2,
            samples: 100
        }]
    );
}

#[test]
fn a_count_that_disagrees_with_the_merges_is_found() {
    let mut folder = clean();
    folder.positions += 1;
    folder.write(&[], &[]);
    let group = folder.audit();
    assert_eq!(
        group.findings,
        [Finding::Miscounted {
            version: 4,
            recorded: 198,
            found: 197
        }]
    );
}

#[test]
fn nothing_to_audit_is_an_error_and_nothing_sound_a_finding() {
    let folder = Folder::new();
    fs::write(folder.version(0).join(manifest::FILE_NAME), "{").unwrap();
    assert_eq!(folder.audit().findings, [Finding::NoVersion]);
    let empty = TempDir::new().unwrap();
    assert!(matches!(audit(empty.path()), Err(AuditError::Read { .. })));
    fs::create_dir(empty.path().join("checkpoints")).unwrap();
    assert!(matches!(audit(empty.path()), Err(AuditError::Empty(_))));
}
