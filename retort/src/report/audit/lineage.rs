//! From a group's folder to the chain of manifests that its newest sound version stands on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use retort_coordinator_core::manifest::{self, Manifest};

use super::{AuditError, Finding};

/// Far above what a job can train; a manifest that claims more would exhaust memory or overflow.
const MOST_EPOCHS: u32 = 1 << 20;
const MOST_POSITIONS: u64 = 1 << 40;

/// The chain of one group, and what was found on the way.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// From the newest version that verifies down to version 0, or as far as parents can be found.
    pub(super) manifests: Vec<Manifest>,
    pub(super) findings: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
}

/// A manifest that could be read, with the folder it lies in.
struct Entry {
    manifest: Manifest,
    hash: String,
    folder: PathBuf,
}

/// Subfolders by name, sorted.
pub(super) fn folders(path: &Path) -> Result<Vec<(String, PathBuf)>, AuditError> {
    let failed = |source| AuditError::Read {
        path: path.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the versions of a group, newest first, and follows the parents of the first sound one.
pub(super) fn survey(group: &Path) -> Result<Lineage, AuditError> {
    let mut found = Lineage::default();
    let entries = entries(group, &mut found.warnings)?;
    let mut head = None;
    for entry in &entries {
        let faults = faults(entry, true)?;
        if faults.is_empty() {
            head = Some(entry);
            break;
        }
        found.warnings.extend(faults);
    }
    match head {
        None => found.findings.push(Finding::NoVersion),
        Some(head) => follow(head, &entries, &mut found)?,
    }
    Ok(found)
}

/// Every readable manifest of the group, newest version first. A folder whose name is no number is
/// one that a writer has not yet renamed into place.
fn entries(group: &Path, warnings: &mut Vec<Finding>) -> Result<Vec<Entry>, AuditError> {
    let mut entries = Vec::new();
    for (name, folder) in folders(group)? {
        let Ok(version) = name.parse::<u64>() else {
            continue;
        };
        let mut unreadable = |reason: String| warnings.push(Finding::Unreadable { version, reason });
        let path = folder.join(manifest::FILE_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                unreadable("there is none".to_owned());
                continue;
            }
            Err(source) => return Err(AuditError::Read { path, source }),
        };
        match Manifest::from_bytes(&bytes) {
            Err(error) => unreadable(error.to_string()),
            Ok(manifest) if manifest.version != version => {
                unreadable(format!("it is that of version {}", manifest.version))
            }
            Ok(manifest)
                if manifest.epochs > MOST_EPOCHS || manifest.positions_per_epoch > MOST_POSITIONS =>
            {
                unreadable(format!(
                    "{} epochs of {} are beyond any job",
                    manifest.epochs, manifest.positions_per_epoch
                ));
            }
            Ok(manifest) => entries.push(Entry {
                manifest,
                hash: manifest::hash(&bytes),
                folder,
            }),
        }
    }
    entries.sort_by_key(|e| std::cmp::Reverse(e.manifest.version));
    Ok(entries)
}

/// Files that are not what the manifest says. The weights of older versions may have been pruned,
/// so only the head must be `complete`.
fn faults(entry: &Entry, complete: bool) -> Result<Vec<Finding>, AuditError> {
    let version = entry.manifest.version;
    let mut faults = Vec::new();
    for (file, digest) in &entry.manifest.files {
        let path = entry.folder.join(file);
        match hash_file(&path) {
            Ok(found) if found == (digest.bytes, digest.blake3.clone()) => {}
            Ok(_) => faults.push(Finding::CorruptFile {
                version,
                file: file.clone(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if complete {
                    faults.push(Finding::MissingFile {
                        version,
                        file: file.clone(),
                    });
                }
            }
            Err(source) => return Err(AuditError::Read { path, source }),
        }
    }
    Ok(faults)
}

fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

/// Walks from `head` to version 0. Versions fall at every step, so the walk ends.
fn follow(head: &Entry, entries: &[Entry], found: &mut Lineage) -> Result<(), AuditError> {
    let by_hash: BTreeMap<&str, &Entry> = entries.iter().map(|e| (e.hash.as_str(), e)).collect();
    let mut at = head;
    loop {
        found.manifests.push(at.manifest.clone());
        let version = at.manifest.version;
        let Some(parent) = &at.manifest.parent else {
            if version != 0 {
                found.findings.push(Finding::Orphan { version });
            }
            return Ok(());
        };
        let Some(next) = by_hash
            .get(parent.as_str())
            .filter(|e| e.manifest.version < version)
        else {
            found.findings.push(Finding::BrokenParent {
                version,
                parent: parent.clone(),
            });
            return Ok(());
        };
        found.warnings.extend(faults(next, false)?);
        found.findings.extend(differing(&at.manifest, &next.manifest));
        at = next;
    }
}

/// What must not change along a lineage.
fn differing(child: &Manifest, parent: &Manifest) -> Option<Finding> {
    let fields = [
        ("run", child.run == parent.run),
        ("group", child.group == parent.group),
        ("kind", child.kind == parent.kind),
        ("seed", child.seed == parent.seed),
        ("dataset_digest", child.dataset_digest == parent.dataset_digest),
        (
            "positions_per_epoch",
            child.positions_per_epoch == parent.positions_per_epoch,
        ),
    ];
    let (field, _) = fields.into_iter().find(|(_, same)| !same)?;
    Some(Finding::Inconsistent {
        version: parent.version,
        field: field.to_owned(),
    })
}
