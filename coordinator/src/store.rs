//! Published versions, each visible only under its manifest, which is written last (P8), and the reports of ended runs: in a
//! folder, or in a bucket that coordinators on several hosts share.

#[cfg(feature = "object-store")]
mod bucket;
mod folder;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use retort_coordinator_core::manifest::{FileDigest, Manifest};
use tracing::error;

#[cfg(feature = "object-store")]
pub(crate) use bucket::BucketShelf;
pub(crate) use folder::FolderShelf;
pub use folder::checkpoint_dir;

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

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// The bucket: a later attempt may succeed.
    #[cfg(feature = "object-store")]
    #[error(transparent)]
    Bucket(#[from] retort_stores::FetchError),
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
    #[error("version {version} of {group} was written by a coordinator of the later term {term}")]
    Superseded { group: String, version: u64, term: u64 },
    #[error("manifest of version {version} of {group}: {source}")]
    Manifest {
        group: String,
        version: u64,
        source: retort_coordinator_core::manifest::Error,
    },
}

impl Error {
    /// It was the disk or the bucket: training goes on, and a later version is published.
    pub(crate) fn is_of_storage(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            #[cfg(feature = "object-store")]
            Self::Bucket(_) => true,
            Self::FileName(_)
            | Self::Hash { .. }
            | Self::Absent { .. }
            | Self::Superseded { .. }
            | Self::Manifest { .. } => false,
        }
    }
}

/// A group of a run.
type Group<'a> = (&'a str, &'a str);

/// Where versions and reports lie. All of it blocks.
pub(crate) trait Shelf: Debug + Send + Sync {
    /// Makes files durable that nobody sees yet; `id` is unique among uploads of this process.
    fn stage(&self, run: &str, id: u64, files: &[(String, Bytes)]) -> Result<Box<dyn Upload>, Error>;
    /// Versions of a group, ascending.
    fn versions(&self, group: Group<'_>) -> Result<Vec<u64>, Error>;
    /// The bytes of a version's manifest; `None`: there is no such version.
    fn manifest(&self, group: Group<'_>, version: u64) -> Result<Option<Bytes>, Error>;
    /// A file of a version; `None`: it is not there.
    fn file(&self, group: Group<'_>, manifest: &Manifest, name: &str) -> Result<Option<Bytes>, Error>;
    /// Hides a version, for this reason.
    fn put_aside(&self, group: Group<'_>, version: u64, why: &str) -> Result<(), Error>;
    /// Drops the files of a group's versions below `keep_from`; their manifests stay for the audit.
    fn prune(&self, group: Group<'_>, keep_from: u64);
    /// Makes the report of a run durable, instead of an earlier one.
    fn keep_report(&self, run: &str, page: Bytes) -> Result<(), Error>;
    /// `None`: there is none.
    fn report(&self, run: &str) -> Result<Option<Bytes>, Error>;
}

/// Files that are durable and that nobody sees. Dropped, they are removed, unless they were published.
pub(crate) trait Upload: Debug + Send + Sync {
    /// Where a file lies, if not beside the manifest.
    fn at(&self, name: &str) -> Option<String>;
    /// Makes them visible under their manifest, if there is no such version.
    fn publish(&self, manifest: &Manifest, bytes: &Bytes) -> Result<(), Error>;
}

/// Files received and made durable, not yet visible.
#[derive(Debug)]
pub(crate) struct Staged {
    upload: Box<dyn Upload>,
    pub(crate) files: BTreeMap<String, FileDigest>,
}

/// The store; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    shelf: Arc<dyn Shelf>,
}

impl Store {
    pub(crate) fn new(shelf: impl Shelf + 'static) -> Self {
        Self {
            shelf: Arc::new(shelf),
        }
    }

    /// Makes uploaded files durable; `id` must be unique among uploads of this process.
    pub(crate) fn stage(
        &self,
        (run, id): (&str, u64),
        files: &[(String, String, Bytes)],
    ) -> Result<Staged, Error> {
        let mut digests = BTreeMap::new();
        for (name, expected, bytes) in files {
            if !FILES.contains(&name.as_str()) {
                return Err(Error::FileName(name.clone()));
            }
            let digest = FileDigest {
                bytes: bytes.len() as u64,
                blake3: intact(name, expected, bytes)?,
                at: None,
            };
            digests.insert(name.clone(), digest);
        }
        let named: Vec<(String, Bytes)> = files
            .iter()
            .map(|(name, _, bytes)| (name.clone(), bytes.clone()))
            .collect();
        let upload = self.shelf.stage(run, id, &named)?;
        for (name, digest) in &mut digests {
            digest.at = upload.at(name);
        }
        Ok(Staged {
            upload,
            files: digests,
        })
    }

    /// Makes a staged version visible under its manifest and returns the manifest's hash.
    pub(crate) fn commit(&self, staged: &Staged, manifest: &Manifest) -> Result<String, Error> {
        let group = (manifest.run.as_str(), manifest.group.as_str());
        // A coordinator that shared the store and no longer leads may have been quicker with a version that nobody recorded.
        if let Some(bytes) = self.shelf.manifest(group, manifest.version)?
            && let Ok(there) = Manifest::from_bytes(&bytes)
        {
            let (version, group_name, term) = (manifest.version, manifest.group.clone(), there.term);
            if term >= manifest.term {
                return Err(Error::Superseded {
                    group: group_name,
                    version,
                    term,
                });
            }
            error!(
                "version {version} of {group_name}, of the former term {term}, is put aside: it was never recorded"
            );
            self.shelf.put_aside(group, version, "superseded")?;
        }
        let bytes = Bytes::from(manifest.to_bytes());
        staged.upload.publish(manifest, &bytes)?;
        Ok(retort_coordinator_core::manifest::hash(&bytes))
    }

    /// Versions of a group, ascending.
    pub(crate) fn versions(&self, run: &str, group: &str) -> Result<Vec<u64>, Error> {
        self.shelf.versions((run, group))
    }

    /// The manifest of a version, as bytes and parsed.
    pub(crate) fn manifest(&self, run: &str, group: &str, version: u64) -> Result<(Bytes, Manifest), Error> {
        let bytes = self.shelf.manifest((run, group), version)?;
        let bytes = bytes.ok_or_else(|| absent((run, group), "manifest.json"))?;
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
        let none = || absent((run, group), file);
        if !FILES.contains(&file) {
            return Err(Error::FileName(file.to_owned()));
        }
        let version = match version {
            Some(version) => version,
            None => *self.versions(run, group)?.last().ok_or_else(none)?,
        };
        let (_, manifest) = self.manifest(run, group, version)?;
        let digest = manifest.files.get(file).ok_or_else(none)?;
        let bytes = self.shelf.file((run, group), &manifest, file)?.ok_or_else(none)?;
        Ok((version, bytes, digest.blake3.clone()))
    }

    /// The newest version whose manifest and, where asked for, files are whole, with the hash of the manifest's bytes.
    /// Damaged ones are put aside, loudly.
    pub(crate) fn newest_intact(
        &self,
        (run, group): (&str, &str),
        with_files: bool,
    ) -> Result<Option<(Manifest, String)>, Error> {
        for version in self.versions(run, group)?.into_iter().rev() {
            match self.check((run, group), version, with_files) {
                Ok(intact) => return Ok(Some(intact)),
                // Not damaged: not reached.
                Err(e) if e.is_of_storage() => return Err(e),
                Err(e) => {
                    error!("version {version} of {group} is damaged and put aside: {e}");
                    self.shelf.put_aside((run, group), version, "damaged")?;
                }
            }
        }
        Ok(None)
    }

    /// Reads a version's manifest, and its files, whose hashes it compares.
    fn check(
        &self,
        (run, group): (&str, &str),
        version: u64,
        with_files: bool,
    ) -> Result<(Manifest, String), Error> {
        let (bytes, manifest) = self.manifest(run, group, version)?;
        for (name, digest) in manifest.files.iter().filter(|_| with_files) {
            let file = self.shelf.file((run, group), &manifest, name)?;
            let file = file.ok_or_else(|| absent((run, group), name))?;
            intact(name, &digest.blake3, &file)?;
        }
        Ok((manifest, retort_coordinator_core::manifest::hash(&bytes)))
    }

    /// Drops the files of versions below `keep_from`; their manifests stay for the audit.
    pub(crate) fn prune(&self, run: &str, group: &str, keep_from: u64) {
        self.shelf.prune((run, group), keep_from);
    }

    /// Makes the report of a run durable, instead of an earlier one.
    pub(crate) fn keep_report(&self, run: &str, page: Bytes) -> Result<(), Error> {
        self.shelf.keep_report(run, page)
    }

    /// The report of a run; `None`: there is none.
    pub(crate) fn report(&self, run: &str) -> Result<Option<Bytes>, Error> {
        self.shelf.report(run)
    }
}

fn absent((run, group): Group<'_>, file: &str) -> Error {
    Error::Absent {
        run: run.to_owned(),
        group: group.to_owned(),
        file: file.to_owned(),
    }
}

/// The hash, if it is the one expected.
fn intact(name: &str, expected: &str, bytes: &[u8]) -> Result<String, Error> {
    let found = blake3::hash(bytes).to_hex().to_string();
    if found == expected {
        return Ok(found);
    }
    Err(Error::Hash {
        name: name.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

#[cfg(test)]
mod tests;
