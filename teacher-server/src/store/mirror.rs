//! A copy of the rows on a shelf, for servers that share no disk: the file here is what is read and written, the shelf what
//! outlives this machine.
//!
//! Rows travel in segments of consecutive slots. Those that are there are brought here when the store is opened; what was
//! recorded since goes there from time to time, with what others brought there meanwhile. Where two servers bring the same
//! segment at the same moment, rows of one of them may be lost there: like every row that is not there, they are scored again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
// A lock: readers' tasks note segments, and one thread brings them away; held for look-ups only.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Rows;

/// Bytes of a segment, about.
const SEGMENT: usize = 4 << 20;

/// Named values that outlive a machine.
pub(crate) trait Shelf: Debug + Send + Sync {
    fn get(&self, name: &str) -> io::Result<Option<Bytes>>;
    fn put(&self, name: &str, value: Bytes) -> io::Result<()>;
}

#[cfg(feature = "object-store")]
impl Shelf for retort_stores::Bucket {
    fn get(&self, name: &str) -> io::Result<Option<Bytes>> {
        Self::get(self, name).map_err(io::Error::other)
    }

    fn put(&self, name: &str, value: Bytes) -> io::Result<()> {
        Self::put(self, name, value).map_err(io::Error::other)
    }
}

/// The copy of one file.
#[derive(Debug)]
pub(super) struct Mirror {
    shelf: Arc<dyn Shelf>,
    /// Of the file; begins the segments' names.
    name: String,
    /// Slots of a segment.
    slots: u32,
    /// Segments with rows that may not be there.
    changed: Mutex<BTreeSet<u32>>,
}

impl Mirror {
    pub(super) fn new(shelf: Arc<dyn Shelf>, name: String, slot: usize) -> Self {
        Self {
            shelf,
            name,
            slots: u32::try_from(SEGMENT / slot).unwrap_or(u32::MAX).max(1),
            changed: Mutex::default(),
        }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, segment: u32) -> String {
        format!("{}/{segment:06}", self.name)
    }

    fn samples(&self, segment: u32, rows: &Rows) -> std::ops::Range<u32> {
        let first = segment * self.slots;
        first..first.saturating_add(self.slots).min(rows.samples)
    }

    /// A row was written here.
    pub(super) fn note(&self, sample: u32) {
        self.changed().insert(sample / self.slots);
    }

    /// Brings here what is there.
    pub(super) fn fetch(&self, rows: &Rows) -> io::Result<()> {
        for segment in 0..rows.samples.div_ceil(self.slots) {
            if let Some(there) = self.shelf.get(&self.object(segment))? {
                self.take(segment, &there, rows)?;
            }
        }
        Ok(())
    }

    /// Writes here the rows of a segment that are missing here. Whether all that are here were there.
    fn take(&self, segment: u32, there: &[u8], rows: &Rows) -> io::Result<bool> {
        let mut slot = Vec::new();
        let mut same = true;
        let mut slots = there.chunks_exact(rows.slot());
        for sample in self.samples(segment, rows) {
            let theirs = slots.next().filter(|slot| rows.holds(sample, slot));
            let ours = rows.read(sample, &mut slot);
            match theirs {
                Some(theirs) if !ours => rows.write_slot(sample, theirs)?,
                Some(_) => {}
                None => same &= !ours,
            }
        }
        Ok(same)
    }

    /// Brings there what was recorded here since.
    pub(super) fn bring(&self, rows: &Rows) -> io::Result<()> {
        let changed = std::mem::take(&mut *self.changed());
        for segment in changed.iter().copied() {
            if let Err(e) = self.bring_one(segment, rows) {
                self.changed().extend(changed.range(segment..));
                return Err(e);
            }
        }
        Ok(())
    }

    fn bring_one(&self, segment: u32, rows: &Rows) -> io::Result<()> {
        let object = self.object(segment);
        let there = self.shelf.get(&object)?.unwrap_or_default();
        if self.take(segment, &there, rows)? && !there.is_empty() {
            return Ok(());
        }
        self.shelf
            .put(&object, rows.slots(self.samples(segment, rows))?.into())
    }
}
