//! Versions in a bucket: `<run>/<group>/<version>.json` is a manifest, which names its files, `<run>/files/<upload>/<name>`. A
//! manifest is made only where there is none (a conditional put).

use std::collections::BTreeMap;
// A lock: uploads are staged by threads of their own; it is held for look-ups only.
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use retort_coordinator_core::manifest::Manifest;
use retort_runtime::{failpoint, registration_number};
use retort_stores::Bucket;

use super::{Error, Group, Shelf, Upload, absent};

/// Versions of a group whose files may still be there when a coordinator starts: more than any keeps. Older ones are not looked at.
const KEPT_BEFORE: u64 = 64;

/// A part of a bucket.
#[derive(Debug)]
pub(crate) struct BucketShelf {
    bucket: Bucket,
    /// By group, the oldest version whose files may be there.
    oldest: Mutex<BTreeMap<(String, String), u64>>,
}

/// Files of one upload.
#[derive(Debug)]
struct Incoming {
    bucket: Bucket,
    folder: String,
    names: Vec<String>,
    /// Once a manifest names them.
    published: Mutex<bool>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let published = self.published.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !*published {
            self.bucket.remove_later(
                self.names
                    .iter()
                    .map(|name| format!("{}/{name}", self.folder))
                    .collect(),
            );
        }
    }
}

impl BucketShelf {
    /// # Errors
    /// The bucket is not there, not for us, or does not answer.
    pub(crate) fn open(bucket: Bucket) -> Result<Self, Error> {
        // Nothing has this name: it is asked whether the bucket answers.
        bucket.get("retort")?;
        Ok(Self {
            bucket,
            oldest: Mutex::default(),
        })
    }
}

fn manifest_name((run, group): Group<'_>, version: u64) -> String {
    format!("{run}/{group}/{version:08}.json")
}

fn report_name(run: &str) -> String {
    format!("{run}/report.html")
}

impl Shelf for BucketShelf {
    fn stage(&self, run: &str, id: u64, files: &[(String, Bytes)]) -> Result<Box<dyn Upload>, Error> {
        // Coordinators that follow one another count from 1 each.
        let folder = format!("{run}/files/{:016x}-{id}", registration_number().0);
        let incoming = Incoming {
            bucket: self.bucket.clone(),
            folder,
            names: files.iter().map(|(name, _)| name.clone()).collect(),
            published: Mutex::new(false),
        };
        for (name, bytes) in files {
            self.bucket
                .put(&format!("{}/{name}", incoming.folder), bytes.clone())?;
            failpoint::hit("store.file-written");
        }
        Ok(Box::new(incoming))
    }

    fn versions(&self, (run, group): Group<'_>) -> Result<Vec<u64>, Error> {
        let names = self.bucket.list(&format!("{run}/{group}"))?;
        let number = |name: &String| name.strip_suffix(".json")?.parse().ok();
        let mut versions: Vec<u64> = names.iter().filter_map(number).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    fn manifest(&self, group: Group<'_>, version: u64) -> Result<Option<Bytes>, Error> {
        Ok(self.bucket.get(&manifest_name(group, version))?)
    }

    fn file(&self, group: Group<'_>, manifest: &Manifest, name: &str) -> Result<Option<Bytes>, Error> {
        let at = manifest.files.get(name).and_then(|digest| digest.at.as_deref());
        let at = at.ok_or_else(|| absent(group, name))?;
        Ok(self.bucket.get(at)?)
    }

    fn put_aside(&self, group: Group<'_>, version: u64, why: &str) -> Result<(), Error> {
        let name = manifest_name(group, version);
        if let Some(there) = self.bucket.get(&name)? {
            self.bucket.put(&format!("{name}.{why}"), there)?;
            self.bucket.remove(&name)?;
        }
        Ok(())
    }

    fn prune(&self, (run, group): Group<'_>, keep_from: u64) {
        let mut oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = oldest.entry((run.to_owned(), group.to_owned()));
        let oldest = oldest.or_insert(keep_from.saturating_sub(KEPT_BEFORE));
        let pruned = std::mem::replace(oldest, keep_from.max(*oldest))..keep_from;
        let manifests = pruned
            .map(|version| manifest_name((run, group), version))
            .collect();
        let files = |bytes: &[u8]| {
            let manifest = Manifest::from_bytes(bytes).ok()?;
            Some(
                manifest
                    .files
                    .into_values()
                    .filter_map(|digest| digest.at)
                    .collect(),
            )
        };
        self.bucket
            .remove_named_by(manifests, move |bytes| files(bytes).unwrap_or_default());
    }

    fn keep_report(&self, run: &str, page: Bytes) -> Result<(), Error> {
        Ok(self.bucket.put(&report_name(run), page)?)
    }

    fn report(&self, run: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.bucket.get(&report_name(run))?)
    }
}

impl Upload for Incoming {
    fn at(&self, name: &str) -> Option<String> {
        Some(format!("{}/{name}", self.folder))
    }

    fn publish(&self, manifest: &Manifest, bytes: &Bytes) -> Result<(), Error> {
        failpoint::hit("store.before-manifest");
        let (group, version) = ((manifest.run.as_str(), manifest.group.as_str()), manifest.version);
        let name = manifest_name(group, version);
        let made = self.bucket.create(&name, bytes.clone());
        // Whatever came of it, a manifest may name the files now.
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // A put that was tried again after its answer was lost finds itself.
        if !made? && self.bucket.get(&name)?.is_none_or(|there| there != *bytes) {
            return Err(Error::Superseded {
                group: manifest.group.clone(),
                version,
                term: manifest.term,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
