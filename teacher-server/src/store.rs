//! The soft-target store: rows of a fixed teacher on disk, by sample, so that what was scored once is
//! replayed in any epoch's order, by any later run, without the teacher in memory.
//!
//! One file holds the rows of one teacher's weights, data set, temperature and encoding, as they travel
//! on the wire; its name is a hash of these, so a row can't be taken for another's. Each slot ends in a
//! checksum: a slot that was never written, was torn or is damaged counts as absent and is scored
//! again. Several servers of one host may write the same file; they write the same rows. Servers of several hosts share what
//! they recorded through a bucket ([`mirror`]).

mod mirror;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use retort_codec::{HEADER_LEN, Header};
use retort_data::Location;
use serde::Serialize;
use tracing::warn;

use crate::targets::Terms;
use mirror::{Mirror, Shelf};

/// Layout of the files; another one is another file.
const LAYOUT: u32 = 1;
/// Bytes of a slot's checksum.
const CHECKSUM: usize = 4;

/// What the rows of a store depend on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    pub(crate) teacher: String,
    /// blake3 of the weights.
    pub(crate) weights: String,
    pub(crate) dataset_digest: String,
    pub(crate) samples: u32,
    pub(crate) classes: usize,
    /// Rows of each sample where it has several; absent otherwise, as files of old have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<usize>,
}

/// Written beside each file, for people.
#[derive(Serialize)]
struct Description<'a> {
    layout: u32,
    #[serde(flatten)]
    identity: &'a Identity,
    temperature: f32,
    encoding: String,
}

/// Where the rows are kept.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    folder: PathBuf,
    /// What the folder is a copy of.
    shelf: Option<Arc<dyn Shelf>>,
}

impl Place {
    /// What a job's `store` names; a folder is below `base` unless it is absolute.
    pub(crate) fn of(path: &Path, base: &Path) -> io::Result<Self> {
        let url = path.to_string_lossy();
        match url.parse().map_err(io::Error::other)? {
            Location::Local(folder) => Ok(Self {
                folder: base.join(folder),
                shelf: None,
            }),
            #[cfg(feature = "object-store")]
            Location::S3 { .. } => {
                let bucket =
                    retort_stores::Bucket::new(&url, retort_stores::variables()).map_err(io::Error::other)?;
                let cache = retort_stores::cache(retort_stores::variables()).map_err(io::Error::other)?;
                Ok(Self {
                    folder: cache.join("soft-targets"),
                    shelf: Some(Arc::new(bucket)),
                })
            }
            #[cfg(not(feature = "object-store"))]
            Location::S3 { .. } => {
                let text = format!("{url}: this program was built without the cargo feature object-store");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }
}

/// The files of one teacher.
#[derive(Debug)]
pub(crate) struct Store {
    samples: u32,
    classes: usize,
    /// Of each sample.
    rows: usize,
    files: BTreeMap<Terms, Rows>,
}

#[derive(Debug)]
struct Rows {
    path: PathBuf,
    file: File,
    /// Bytes of a sample's rows.
    len: usize,
    samples: u32,
    mirror: Option<Mirror>,
}

impl Store {
    /// Opens or makes the files for these terms. Blocks, for as long as it takes to bring here what a bucket has of them.
    pub(crate) fn open(
        Place { folder, shelf }: &Place,
        identity: &Identity,
        terms: impl IntoIterator<Item = Terms>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (rows, mut files) = (identity.rows.unwrap_or(1), BTreeMap::new());
        for terms in terms {
            let description = Description {
                layout: LAYOUT,
                identity,
                temperature: terms.temperature(),
                encoding: terms.encoding.to_string(),
            };
            let text = serde_json::to_string_pretty(&description).map_err(io::Error::other)?;
            let name = blake3::hash(text.as_bytes()).to_hex();
            let name = &name[..32];
            let path = folder.join(format!("{name}.rows"));
            std::fs::write(path.with_extension("json"), &text)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let len = rows * terms.encoding.row_len(identity.classes);
            file.set_len(u64::from(identity.samples) * (len + CHECKSUM) as u64)?;
            let slot = len + CHECKSUM;
            let mirror = shelf
                .as_ref()
                .map(|s| Mirror::new(s.clone(), name.to_owned(), slot));
            let rows = Rows {
                path,
                file,
                len,
                samples: identity.samples,
                mirror,
            };
            if let Some(mirror) = &rows.mirror {
                mirror.fetch(&rows)?;
            }
            files.insert(terms, rows);
        }
        Ok(Self {
            samples: identity.samples,
            classes: identity.classes,
            rows,
            files,
        })
    }

    /// Whether there is a bucket that [`Store::bring`] brings rows to.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.files.values().any(|rows| rows.mirror.is_some())
    }

    /// Brings to the bucket what was recorded since it was last called; what fails is brought the next time. Blocks.
    pub(crate) fn bring(&self) -> io::Result<()> {
        let mut files = self.files.values();
        files.try_for_each(|rows| rows.mirror.as_ref().map_or(Ok(()), |mirror| mirror.bring(rows)))
    }

    /// Samples whose rows are there on all terms, of all.
    pub(crate) fn recorded(&self) -> (u32, u32) {
        let mut slot = Vec::new();
        let complete =
            (0..self.samples).filter(|sample| self.files.values().all(|r| r.read(*sample, &mut slot)));
        (u32::try_from(complete.count()).unwrap_or(u32::MAX), self.samples)
    }

    /// The frame of these samples, if all their rows are there.
    pub(crate) fn gather(&self, terms: Terms, samples: impl IntoIterator<Item = u32>) -> Option<Bytes> {
        let rows = self.files.get(&terms)?;
        let row_len = rows.len / self.rows;
        let mut gathered = Vec::new();
        let mut slot = Vec::new();
        for sample in samples {
            if !rows.read(sample, &mut slot) {
                return None;
            }
            gathered.extend_from_slice(&slot[..rows.len]);
        }
        let header = Header {
            encoding: terms.encoding,
            temperature: terms.temperature(),
            rows: gathered.len() / row_len,
            classes: self.classes,
        };
        let mut frame = Vec::new();
        retort_codec::assemble(header, gathered.chunks_exact(row_len), &mut frame);
        Some(frame.into())
    }

    /// Records the rows of a frame by sample, but not those without one (it could not be read). A store
    /// that can't be written (a full disk) is said and gone without.
    pub(crate) fn record(&self, terms: Terms, frame: &[u8], samples: impl IntoIterator<Item = Option<u32>>) {
        let Some(rows) = self.files.get(&terms) else {
            return;
        };
        let encoded = frame[HEADER_LEN..].chunks_exact(rows.len);
        for (sample, row) in samples.into_iter().zip(encoded) {
            let Some(sample) = sample else { continue };
            if let Err(e) = rows.write(sample, row) {
                warn!("{}: not recorded: {e}", rows.path.display());
                return;
            }
        }
    }
}

impl Rows {
    /// Reads a slot; whether it holds a sample's rows.
    fn read(&self, sample: u32, slot: &mut Vec<u8>) -> bool {
        slot.resize(self.slot(), 0);
        self.file.read_exact_at(slot, self.at(sample)).is_ok() && self.holds(sample, slot)
    }

    /// Whether a slot holds this sample's rows.
    fn holds(&self, sample: u32, slot: &[u8]) -> bool {
        let (row, checksum) = slot.split_at(self.len);
        checksum == self.checksum(sample, row)
    }

    fn write(&self, sample: u32, row: &[u8]) -> io::Result<()> {
        let mut slot = row.to_vec();
        slot.extend(self.checksum(sample, row));
        self.write_slot(sample, &slot)?;
        if let Some(mirror) = &self.mirror {
            mirror.note(sample);
        }
        Ok(())
    }

    fn write_slot(&self, sample: u32, slot: &[u8]) -> io::Result<()> {
        self.file.write_all_at(slot, self.at(sample))
    }

    /// The slots of consecutive samples, whether they hold or not.
    fn slots(&self, samples: std::ops::Range<u32>) -> io::Result<Vec<u8>> {
        let mut slots = vec![0; samples.len() * self.slot()];
        self.file.read_exact_at(&mut slots, self.at(samples.start))?;
        Ok(slots)
    }

    /// Bytes of a slot.
    fn slot(&self) -> usize {
        self.len + CHECKSUM
    }

    fn at(&self, sample: u32) -> u64 {
        u64::from(sample) * self.slot() as u64
    }

    /// Covers the place too. A slot of zeros does not hold: its checksum is not zero by construction.
    fn checksum(&self, sample: u32, row: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = crc32fast::Hasher::new();
        hash.update(&sample.to_le_bytes());
        hash.update(row);
        // 0 is what an unwritten slot has.
        hash.finalize().max(1).to_le_bytes()
    }
}

#[cfg(test)]
mod tests;
