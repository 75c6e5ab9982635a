//! Versions on disk: `checkpoints/<run>/<group>/<version>/`. One becomes visible by renaming its folder, after every file in it
//! was synced. Reports: `reports/<run>.html`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use retort_coordinator_core::manifest::{FILE_NAME, Manifest};
use retort_runtime::failpoint;

use super::{Error, FILES, Group, Shelf, Upload};

/// Reports of ended runs, below a data folder.
const REPORTS: &str = "reports";

/// Folder of one version below a data folder.
pub fn checkpoint_dir(data_dir: &Path, run: &str, group: &str, version: u64) -> PathBuf {
    group_dir(data_dir, run, group).join(format!("{version:08}"))
}

fn group_dir(data_dir: &Path, run: &str, group: &str) -> PathBuf {
    data_dir.join("checkpoints").join(run).join(group)
}

/// A data folder.
#[derive(Debug)]
pub(crate) struct FolderShelf {
    data_dir: PathBuf,
    /// By group, the oldest version whose files may be there, since this process pruned it first.
    oldest: Mutex<BTreeMap<(String, String), u64>>,
}

/// Files in a folder of their own, which a version gets.
#[derive(Debug)]
struct Incoming {
    folder: PathBuf,
    data_dir: PathBuf,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `publish` the folder has another name and this finds nothing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl FolderShelf {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let incoming = data_dir.join("incoming");
        // Uploads that a former life did not finish.
        let _ = fs::remove_dir_all(&incoming);
        fs::create_dir_all(&incoming).map_err(io("create", &incoming))?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            oldest: Mutex::default(),
        })
    }

    fn dir(&self, (run, group): Group<'_>, version: u64) -> PathBuf {
        checkpoint_dir(&self.data_dir, run, group, version)
    }
}

impl Shelf for FolderShelf {
    fn stage(&self, _: &str, id: u64, files: &[(String, Bytes)]) -> Result<Box<dyn Upload>, Error> {
        let folder = self.data_dir.join("incoming").join(id.to_string());
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let incoming = Incoming {
            folder,
            data_dir: self.data_dir.clone(),
        };
        for (name, bytes) in files {
            write_synced(&incoming.folder.join(name), bytes)?;
            failpoint::hit("store.file-written");
        }
        Ok(Box::new(incoming))
    }

    fn versions(&self, (run, group): Group<'_>) -> Result<Vec<u64>, Error> {
        let Ok(entries) = fs::read_dir(group_dir(&self.data_dir, run, group)) else {
            return Ok(Vec::new());
        };
        let mut versions: Vec<u64> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    fn manifest(&self, group: Group<'_>, version: u64) -> Result<Option<Bytes>, Error> {
        read(&self.dir(group, version).join(FILE_NAME))
    }

    fn file(&self, group: Group<'_>, manifest: &Manifest, name: &str) -> Result<Option<Bytes>, Error> {
        read(&self.dir(group, manifest.version).join(name))
    }

    fn put_aside(&self, group: Group<'_>, version: u64, why: &str) -> Result<(), Error> {
        let folder = self.dir(group, version);
        let aside = folder.with_extension(why);
        fs::rename(&folder, &aside).map_err(io("rename to", &aside))
    }

    fn prune(&self, group: Group<'_>, keep_from: u64) {
        let mut oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = oldest.entry((group.0.to_owned(), group.1.to_owned()));
        let of_group = of_group.or_insert_with(|| {
            let versions = self.versions(group).unwrap_or_default();
            versions.first().copied().unwrap_or(0)
        });
        // Manifests stay: folders of versions pruned before are not looked at again.
        let pruned = std::mem::replace(of_group, keep_from.max(*of_group))..keep_from;
        drop(oldest);
        for version in pruned {
            let folder = self.dir(group, version);
            for file in FILES {
                let _ = fs::remove_file(folder.join(file));
            }
        }
    }

    fn keep_report(&self, run: &str, page: Bytes) -> Result<(), Error> {
        let folder = self.data_dir.join(REPORTS);
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let (target, unseen) = (report_path(&self.data_dir, run), folder.join(format!(".{run}")));
        write_synced(&unseen, &page)?;
        fs::rename(&unseen, &target).map_err(io("rename to", &target))?;
        sync(&folder)
    }

    fn report(&self, run: &str) -> Result<Option<Bytes>, Error> {
        read(&report_path(&self.data_dir, run))
    }
}

impl Upload for Incoming {
    fn at(&self, _: &str) -> Option<String> {
        None
    }

    fn publish(&self, manifest: &Manifest, bytes: &Bytes) -> Result<(), Error> {
        failpoint::hit("store.before-manifest");
        write_synced(&self.folder.join(FILE_NAME), bytes)?;
        failpoint::hit("store.before-rename");
        let group = group_dir(&self.data_dir, &manifest.run, &manifest.group);
        fs::create_dir_all(&group).map_err(io("create", &group))?;
        let target = checkpoint_dir(&self.data_dir, &manifest.run, &manifest.group, manifest.version);
        fs::rename(&self.folder, &target).map_err(io("rename to", &target))?;
        sync(&group)
    }
}

fn report_path(data_dir: &Path, run: &str) -> PathBuf {
    data_dir.join(REPORTS).join(format!("{run}.html"))
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|d| d.sync_all());
    synced.map_err(io("sync", folder))
}

fn read(path: &Path) -> Result<Option<Bytes>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(io("read", path)(e)),
    }
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
