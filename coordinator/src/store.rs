//! Published versions on disk: `checkpoints/<run>/<group>/<version>/`, the manifest written last.
//!
//! A version becomes visible by renaming its folder, after every file in it was synced (P8).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use retort_coordinator_core::manifest::{FILE_NAME, FileDigest, Manifest};
use retort_runtime::failpoint;
use tracing::error;

/// The weights of a version.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// What they are the weights of.
pub(crate) const CARD: &str = "model.json";
/// Files that a version may hold.
const FILES: [&str; 6] = [
    WEIGHTS,
    "model.onnx",
    "kserve.json",
    CARD,
    "optimizer.bin",
    "outer.bin",
];

/// Folder of one version below a data folder.
pub fn checkpoint_dir(data_dir: &Path, run: &str, group: &str, version: u64) -> PathBuf {
    group_dir(data_dir, run, group).join(format!("{version:08}"))
}

fn group_dir(data_dir: &Path, run: &str, group: &str) -> PathBuf {
    data_dir.join("checkpoints").join(run).join(group)
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "file name {0:?} is not one of model.safetensors, model.onnx, kserve.json, model.json, optimizer.bin, outer.bin"
    )]
    FileName(String),
    #[error("{name} arrived with hash {found} instead of {expected}: send it again")]
    Hash {
        name: String,
        expected: String,
        found: String,
    },
    #[error("no version of {group} in run {run} has a file {file}")]
    Absent {
        run: String,
        group: String,
        file: String,
    },
    #[error("manifest of version {version} of {group}: {source}")]
    Manifest {
        group: String,
        version: u64,
        source: retort_coordinator_core::manifest::Error,
    },
}

/// Files received and synced, not yet visible.
#[derive(Debug)]
pub(crate) struct Staged {
    folder: PathBuf,
    pub(crate) files: BTreeMap<String, FileDigest>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `commit` the folder has another name and this finds nothing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The store; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    data_dir: PathBuf,
}

impl Store {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let incoming = data_dir.join("incoming");
        // Uploads that a former life did not finish.
        let _ = fs::remove_dir_all(&incoming);
        fs::create_dir_all(&incoming).map_err(io("create", &incoming))?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
        })
    }

    /// Writes and syncs uploaded files; `id` must be unique among uploads of this process.
    pub(crate) fn stage(&self, id: u64, files: &[(String, String, Bytes)]) -> Result<Staged, Error> {
        let folder = self.data_dir.join("incoming").join(id.to_string());
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let mut staged = Staged {
            folder,
            files: BTreeMap::new(),
        };
        for (name, expected, bytes) in files {
            if !FILES.contains(&name.as_str()) {
                return Err(Error::FileName(name.clone()));
            }
            let found = blake3::hash(bytes).to_hex().to_string();
            if found != *expected {
                return Err(Error::Hash {
                    name: name.clone(),
                    expected: expected.clone(),
                    found,
                });
            }
            write_synced(&staged.folder.join(name), bytes)?;
            failpoint::hit("store.file-written");
            staged.files.insert(
                name.clone(),
                FileDigest {
                    bytes: bytes.len() as u64,
                    blake3: found,
                },
            );
        }
        Ok(staged)
    }

    /// Makes a staged version visible under its manifest and returns the manifest's hash.
    pub(crate) fn commit(&self, staged: &Staged, manifest: &Manifest) -> Result<String, Error> {
        let bytes = manifest.to_bytes();
        failpoint::hit("store.before-manifest");
        write_synced(&staged.folder.join(FILE_NAME), &bytes)?;
        failpoint::hit("store.before-rename");
        let group = group_dir(&self.data_dir, &manifest.run, &manifest.group);
        fs::create_dir_all(&group).map_err(io("create", &group))?;
        let target = checkpoint_dir(&self.data_dir, &manifest.run, &manifest.group, manifest.version);
        // A coordinator that shared the folder and no longer leads may have been quicker with a version that nobody recorded.
        if let Ok((_, there)) = self.manifest(&manifest.run, &manifest.group, manifest.version)
            && there.term < manifest.term
        {
            let (version, group, term) = (manifest.version, &manifest.group, there.term);
            error!(
                "version {version} of {group}, of the former term {term}, is put aside: it was never recorded"
            );
            put_aside(&target, "superseded")?;
        }
        fs::rename(&staged.folder, &target).map_err(io("rename to", &target))?;
        File::open(&group)
            .and_then(|d| d.sync_all())
            .map_err(io("sync", &group))?;
        Ok(retort_coordinator_core::manifest::hash(&bytes))
    }

    /// Versions of a group, ascending.
    pub(crate) fn versions(&self, run: &str, group: &str) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(group_dir(&self.data_dir, run, group)) else {
            return Vec::new();
        };
        let mut versions: Vec<u64> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        versions.sort_unstable();
        versions
    }

    /// The manifest of a version, as bytes on disk and parsed.
    pub(crate) fn manifest(
        &self,
        run: &str,
        group: &str,
        version: u64,
    ) -> Result<(Vec<u8>, Manifest), Error> {
        let path = checkpoint_dir(&self.data_dir, run, group, version).join(FILE_NAME);
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|source| Error::Manifest {
            group: group.to_owned(),
            version,
            source,
        })?;
        Ok((bytes, manifest))
    }

    /// One file of a version (`None`: the newest) with its hash.
    pub(crate) fn read(
        &self,
        (run, group): (&str, &str),
        version: Option<u64>,
        file: &str,
    ) -> Result<(u64, Bytes, String), Error> {
        let absent = || Error::Absent {
            run: run.to_owned(),
            group: group.to_owned(),
            file: file.to_owned(),
        };
        if !FILES.contains(&file) {
            return Err(Error::FileName(file.to_owned()));
        }
        let version = version
            .or_else(|| self.versions(run, group).last().copied())
            .ok_or_else(absent)?;
        let (_, manifest) = self.manifest(run, group, version).map_err(|_| absent())?;
        let digest = manifest.files.get(file).ok_or_else(absent)?;
        let path = checkpoint_dir(&self.data_dir, run, group, version).join(file);
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        Ok((version, bytes.into(), digest.blake3.clone()))
    }

    /// The newest version whose manifest and files are whole, with the hash of the manifest's bytes.
    /// Damaged ones are put aside, loudly.
    pub(crate) fn newest_intact(&self, run: &str, group: &str) -> Result<Option<(Manifest, String)>, Error> {
        for version in self.versions(run, group).into_iter().rev() {
            match self.check(run, group, version) {
                Ok(intact) => return Ok(Some(intact)),
                Err(e) => {
                    let folder = checkpoint_dir(&self.data_dir, run, group, version);
                    error!("version {version} of {group} is damaged and put aside: {e}");
                    put_aside(&folder, "damaged")?;
                }
            }
        }
        Ok(None)
    }

    /// Reads a version as a whole and compares every hash.
    fn check(&self, run: &str, group: &str, version: u64) -> Result<(Manifest, String), Error> {
        let (bytes, manifest) = self.manifest(run, group, version)?;
        for (name, digest) in &manifest.files {
            let path = checkpoint_dir(&self.data_dir, run, group, version).join(name);
            let bytes = fs::read(&path).map_err(io("read", &path))?;
            let found = blake3::hash(&bytes).to_hex().to_string();
            if found != digest.blake3 {
                return Err(Error::Hash {
                    name: name.clone(),
                    expected: digest.blake3.clone(),
                    found,
                });
            }
        }
        Ok((manifest, retort_coordinator_core::manifest::hash(&bytes)))
    }

    /// Drops the files of versions below `keep_from`; their manifests stay for the audit.
    pub(crate) fn prune(&self, run: &str, group: &str, keep_from: u64) {
        for version in self.versions(run, group).into_iter().filter(|v| *v < keep_from) {
            let folder = checkpoint_dir(&self.data_dir, run, group, version);
            for file in FILES {
                let _ = fs::remove_file(folder.join(file));
            }
        }
    }
}

/// Under another name, beside its own.
fn put_aside(folder: &Path, why: &str) -> Result<(), Error> {
    let aside = folder.with_extension(why);
    fs::rename(folder, &aside).map_err(io("rename to", &aside))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = File::create(path).map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(store: &Store, term: u64, weights: &'static [u8]) -> Result<String, Error> {
        let hash = blake3::hash(weights).to_hex().to_string();
        let staged = store.stage(term, &[(WEIGHTS.into(), hash, Bytes::from_static(weights))])?;
        let manifest = Manifest {
            run: "r".into(),
            group: "g".into(),
            version: 3,
            term,
            files: staged.files.clone(),
            ..Manifest::default()
        };
        store.commit(&staged, &manifest)
    }

    #[test]
    fn of_two_coordinators_with_one_version_the_later_terms_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        commit(&store, 1, b"of one that no longer leads").unwrap();
        commit(&store, 2, b"of its successor").unwrap();
        let late = commit(&store, 1, b"later still").unwrap_err();
        assert!(late.to_string().contains("00000003"), "{late}");
        let (version, weights, _) = store.read(("r", "g"), None, WEIGHTS).unwrap();
        assert_eq!((version, &weights[..]), (3, &b"of its successor"[..]));
    }
}
