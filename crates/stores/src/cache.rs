//! Files that were fetched, for all processes of this machine.
//!
//! ```text
//! CACHE/LOCATION/lock                          held by the one process that fetches
//!               /newest.json                   the listing that was fetched last
//!               /LISTING/files/BUCKET/KEY      an object
//!               /LISTING/sums.jsonl            a line for each object that is here, once it is
//!               /LISTING/parts/                objects under way
//! ```
//!
//! LOCATION is a hash of endpoint, bucket and prefix, LISTING one of every object's key, size and ETag. So what a listing's
//! folder holds never changes, readers need no lock, and a fetch that was broken off goes on where it was. A file counts only
//! if it has the size and the hash that its line says: one that was damaged is fetched again.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::FetchError;
use crate::error::tried;

/// Between two looks at a lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// An object as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) key: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Its ETag; of a store that has none, when it was written.
    pub(crate) version: String,
    /// Whether `version` is an ETag.
    pub(crate) tagged: bool,
}

/// That an object is here.
#[derive(Debug, Serialize, Deserialize)]
struct Sum {
    key: String,
    blake3: String,
}

/// What is kept of one location.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// What is kept of one listing.
#[derive(Debug)]
pub(crate) struct Kept {
    root: PathBuf,
}

/// A short name for some texts.
fn name_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = blake3::Hasher::new();
    for text in texts {
        hash.update(&(text.len() as u64).to_le_bytes())
            .update(text.as_bytes());
    }
    hash.finalize().to_hex()[..16].to_owned()
}

impl Cache {
    pub(crate) fn new(
        folder: &Path,
        (endpoint, bucket, prefix): (&str, &str, &str),
    ) -> Result<Self, FetchError> {
        let root = folder.join(name_of([endpoint, bucket, prefix]));
        fs::create_dir_all(&root).map_err(tried("create", &root))?;
        Ok(Self { root })
    }

    pub(crate) fn of(&self, listing: &[Object]) -> Kept {
        let texts = listing
            .iter()
            .map(|o| format!("{} {} {}", o.size, o.version, o.key));
        let texts: Vec<String> = texts.collect();
        Kept {
            root: self.root.join(name_of(texts.iter().map(String::as_str))),
        }
    }

    /// The listing that was fetched last, if any was.
    pub(crate) fn newest(&self) -> Option<Vec<Object>> {
        serde_json::from_slice(&fs::read(self.root.join("newest.json")).ok()?).ok()
    }

    pub(crate) fn remember(&self, listing: &[Object]) -> Result<(), FetchError> {
        write_whole(&self.root.join("newest.json"), |file| {
            Ok(serde_json::to_writer(file, listing)?)
        })
    }

    /// Waits until no other process fetches from this location; until the file is dropped none will.
    pub(crate) async fn lock(&self) -> Result<File, FetchError> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(tried("open", &path))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(tried("lock", &path)(e)),
            }
            if !said {
                info!("another process fetches it: waiting for {}", path.display());
                said = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

impl Kept {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object is, or a prefix.
    pub(crate) fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.join("files").join(bucket).join(key)
    }

    fn sums_file(&self) -> PathBuf {
        self.root.join("sums.jsonl")
    }

    /// Hashes by key of what was once here. A line that was broken off says nothing.
    pub(crate) fn sums(&self) -> BTreeMap<String, String> {
        let text = fs::read(self.sums_file()).unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n');
        let sums = lines.filter_map(|line| serde_json::from_slice::<Sum>(line).ok());
        sums.map(|sum| (sum.key, sum.blake3)).collect()
    }

    /// Whether an object is here, whole.
    pub(crate) fn holds(&self, bucket: &str, object: &Object, sums: &BTreeMap<String, String>) -> bool {
        let path = self.path(bucket, &object.key);
        let sized = || fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == object.size);
        let sum = sums.get(&object.key);
        sum.is_some_and(|sum| sized() && hash_of(&path).is_ok_and(|hash| hash == *sum))
    }

    /// Makes room for what is missing. Only the holder of the lock may, and what follows.
    pub(crate) fn prepare(&self, sums: &BTreeMap<String, String>) -> Result<Sums, FetchError> {
        let parts = self.root.join("parts");
        match fs::remove_dir_all(&parts) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(tried("empty", &parts)(e)),
            _ => fs::create_dir_all(&parts).map_err(tried("create", &parts))?,
        }
        // Whole lines only, for others to follow.
        let path = self.sums_file();
        write_whole(&path, |file| {
            sums.iter().try_for_each(|(key, blake3)| {
                let (key, blake3) = (key.clone(), blake3.clone());
                line(&mut *file, &Sum { key, blake3 })
            })
        })?;
        let file = File::options()
            .append(true)
            .open(&path)
            .map_err(tried("open", &path))?;
        Ok(Sums { path, file })
    }

    /// A file for an object under way.
    pub(crate) fn part(&self, number: usize) -> PathBuf {
        self.root.join("parts").join(number.to_string())
    }
}

/// The list of what is here, which grows.
#[derive(Debug)]
pub(crate) struct Sums {
    path: PathBuf,
    file: File,
}

impl Sums {
    /// Puts a part in its place, whose hash it must have.
    pub(crate) fn add(
        &mut self,
        part: &Path,
        place: &Path,
        (key, blake3): (&str, String),
    ) -> Result<(), FetchError> {
        let folder = place.parent().unwrap_or(place);
        fs::create_dir_all(folder).map_err(tried("create", folder))?;
        fs::rename(part, place).map_err(tried("rename to", place))?;
        let key = key.to_owned();
        line(&mut self.file, &Sum { key, blake3 }).map_err(tried("write", &self.path))
    }
}

fn line(mut to: impl Write, sum: &Sum) -> io::Result<()> {
    let mut line = serde_json::to_vec(sum)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Writes a file that others see whole or not at all.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), FetchError> {
    let partial = path.with_extension("partial");
    let written = || {
        let mut file = io::BufWriter::new(File::create(&partial)?);
        write(&mut file)?;
        file.into_inner()?;
        fs::rename(&partial, path)
    };
    written().map_err(tried("write", path))
}

fn hash_of(path: &Path) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_hex().to_string()),
            read => hash.update(&buffer[..read]),
        };
    }
}
