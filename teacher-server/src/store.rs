//! The soft-target store: rows of a fixed teacher on disk, by sample, so that what was scored once is
//! replayed in any epoch's order, by any later run, without the teacher in memory.
//!
//! One file holds the rows of one teacher's weights, data set, temperature and encoding, as they travel
//! on the wire; its name is a hash of these, so a row can't be taken for another's. Each slot ends in a
//! checksum: a slot that was never written, was torn or is damaged counts as absent and is scored
//! again. Several servers of one host may write the same file; they write the same rows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use retort_codec::{HEADER_LEN, Header};
use serde::Serialize;
use tracing::warn;

use crate::targets::Terms;

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
}

impl Store {
    /// Opens or makes the files for these terms.
    pub(crate) fn open(
        folder: &Path,
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
            let path = folder.join(format!("{}.rows", &name[..32]));
            std::fs::write(path.with_extension("json"), &text)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let len = rows * terms.encoding.row_len(identity.classes);
            file.set_len(u64::from(identity.samples) * (len + CHECKSUM) as u64)?;
            files.insert(terms, Rows { path, file, len });
        }
        Ok(Self {
            samples: identity.samples,
            classes: identity.classes,
            rows,
            files,
        })
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
        slot.resize(self.len + CHECKSUM, 0);
        if self.file.read_exact_at(slot, self.at(sample)).is_err() {
            return false;
        }
        let (row, checksum) = slot.split_at(self.len);
        checksum == self.checksum(sample, row)
    }

    fn write(&self, sample: u32, row: &[u8]) -> io::Result<()> {
        let mut slot = row.to_vec();
        slot.extend(self.checksum(sample, row));
        self.file.write_all_at(&slot, self.at(sample))
    }

    fn at(&self, sample: u32) -> u64 {
        u64::from(sample) * (self.len + CHECKSUM) as u64
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
