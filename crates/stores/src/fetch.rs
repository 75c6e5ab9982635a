//! Brings what a location names to this machine.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tracing::{info, warn};

use crate::FetchError;
use crate::cache::{Cache, Kept, Object};
use crate::error::tried;
use crate::settings::Settings;

/// Objects under way at a time: enough to hide round trips, few enough for the memory of their buffers.
const AT_ONCE: usize = 16;
/// Objects of a location. A listing is held in memory; more than these are refused.
const MOST_OBJECTS: usize = 1_000_000;
/// How often an object may break off in a row, with less than a MiB between; each of them follows the client's own retries.
const MOST_BREAKS: u32 = 5;
const PROGRESS: u64 = 1 << 20;
/// Pause after a break, times the breaks in a row.
const BREAK_PAUSE: Duration = Duration::from_millis(500);
/// A listing that took longer than this, with the client's retries, is not tried again.
const LIST_AGAIN: Duration = Duration::from_secs(5);
/// Between two lines in the log.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The path of this machine where all that lies at a location is, once it is.
pub(crate) fn local(settings: &Settings, bucket: &str, prefix: &str) -> Result<String, FetchError> {
    let store = settings.s3(bucket)?;
    let cache = Cache::new(&settings.cache()?, (settings.endpoint(), bucket, prefix))?;
    let source = Source {
        store: &store,
        bucket,
        prefix,
    };
    let brought = on_own_thread(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| FetchError::Settings(format!("start a runtime: {e}")))?;
        runtime.block_on(source.bring(&cache))
    })?;
    let path = std::path::absolute(&brought).map_err(tried("find", &brought))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| FetchError::Settings(format!("{}: expected a folder named in UTF-8", path.display())))
}

/// Runs work that has a runtime of its own, wherever the caller is.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A bucket, and what of it is wanted.
struct Source<'a> {
    store: &'a dyn ObjectStore,
    bucket: &'a str,
    prefix: &'a str,
}

impl Source<'_> {
    /// Fetches what is not here yet.
    async fn bring(&self, cache: &Cache) -> Result<PathBuf, FetchError> {
        let began = Instant::now();
        let listed = loop {
            match self.list().await {
                // The client tries requests again, but no answer that breaks off.
                Err(FetchError::Away(_)) if began.elapsed() < LIST_AGAIN => {
                    tokio::time::sleep(BREAK_PAUSE).await
                }
                listed => break listed,
            }
        };
        let (listing, away) = match listed {
            Ok(listing) => (listing, None),
            Err(e @ FetchError::Away(_)) => match cache.newest() {
                // Whether it is what others read their digest says.
                Some(listing) => (listing, Some(e)),
                None => return Err(e),
            },
            Err(e) => return Err(e),
        };
        let kept = cache.of(&listing);
        let path = kept.path(self.bucket, self.prefix);
        if self.missing(&kept, &listing).1.is_empty() {
            if let Some(e) = away {
                warn!("{}, so what was fetched before is read: {e}", self.url());
            }
            return Ok(path);
        }
        if let Some(e) = away {
            return Err(e);
        }
        let _lock = cache.lock().await?;
        let (sums, missing) = self.missing(&kept, &listing);
        if !missing.is_empty() {
            self.fetch(&kept, (sums, missing), cache).await?;
            cache.remember(&listing)?;
        }
        Ok(path)
    }

    fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    /// Sorted by key: everything below the prefix, or the object of that very key.
    async fn list(&self) -> Result<Vec<Object>, FetchError> {
        let url = self.url();
        let prefix = Key::parse(self.prefix).map_err(|e| FetchError::Refused(format!("{url}: {e}")))?;
        let listed = self.store.list(Some(&prefix)).take(MOST_OBJECTS + 1);
        let mut all: Vec<ObjectMeta> = listed.try_collect().await.map_err(|e| FetchError::of(&e, &url))?;
        if all.len() > MOST_OBJECTS {
            let text = format!("{url} has more than {MOST_OBJECTS} objects: expected a smaller prefix");
            return Err(FetchError::Refused(text));
        }
        if all.is_empty() && !self.prefix.is_empty() {
            all.extend(match self.store.head(&prefix).await {
                Ok(object) => Some(object),
                Err(object_store::Error::NotFound { .. }) => None,
                Err(e) => return Err(FetchError::of(&e, &url)),
            });
        }
        let keys: BTreeSet<String> = all.iter().map(|object| object.location.to_string()).collect();
        // Consoles make empty objects that stand for folders.
        let folder = |key: &str| {
            let below = format!("{key}/");
            keys.range(below.clone()..)
                .next()
                .is_some_and(|next| next.starts_with(&below))
        };
        let objects = all
            .into_iter()
            .map(Object::from)
            .filter(|o| o.size > 0 || !folder(&o.key));
        let mut objects: Vec<Object> = objects.collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        if objects.is_empty() {
            let text = format!("{url}: no object has this key, or one below it");
            return Err(FetchError::Refused(text));
        }
        Ok(objects)
    }

    /// What is here by hash, and what is not.
    fn missing(&self, kept: &Kept, listing: &[Object]) -> (BTreeMap<String, String>, Vec<Object>) {
        let mut sums = kept.sums();
        let gone = |object: &&Object| !kept.holds(self.bucket, object, &sums);
        let missing: Vec<Object> = listing.iter().filter(gone).cloned().collect();
        for object in &missing {
            sums.remove(&object.key);
        }
        (sums, missing)
    }

    /// Fetches the missing objects. The caller holds the lock.
    async fn fetch(
        &self,
        kept: &Kept,
        (sums, missing): (BTreeMap<String, String>, Vec<Object>),
        cache: &Cache,
    ) -> Result<(), FetchError> {
        let mut here = kept.prepare(&sums)?;
        let before = cache.newest().unwrap_or_default();
        let before = Before {
            kept: cache.of(&before),
            objects: before
                .into_iter()
                .map(|object| (object.key.clone(), object))
                .collect(),
        };
        let of_before = before.kept.sums();
        let mut wanted = Vec::new();
        for (number, object) in missing.into_iter().enumerate() {
            let part = kept.part(number);
            let same = before.objects.get(&object.key) == Some(&object)
                && before.kept.holds(self.bucket, &object, &of_before)
                && fs::hard_link(before.kept.path(self.bucket, &object.key), &part).is_ok();
            match of_before.get(&object.key).filter(|_| same) {
                Some(sum) => {
                    let place = kept.path(self.bucket, &object.key);
                    here.add(&part, &place, (&object.key, sum.clone()))?;
                }
                None => wanted.push((part, object)),
            }
        }
        let progress = Progress::new(self.url(), &wanted);
        room(kept.root(), progress.of_bytes)?;
        let counted = &progress;
        let fetches = wanted.iter().map(|(part, object)| async move {
            let hash = self.object(object, part, counted).await?;
            Ok::<_, FetchError>((part, object, hash))
        });
        let mut fetches = stream::iter(fetches).buffer_unordered(AT_ONCE);
        while let Some((part, object, hash)) = fetches.try_next().await? {
            let place = kept.path(self.bucket, &object.key);
            here.add(part, &place, (&object.key, hash))?;
            progress.objects.set(progress.objects.get() + 1);
        }
        progress.end();
        Ok(())
    }

    /// Writes an object into `part` and gives its hash.
    async fn object(&self, object: &Object, part: &Path, progress: &Progress) -> Result<String, FetchError> {
        let mut writing = Writing {
            file: File::create(part).map_err(tried("create", part))?,
            path: part,
            hash: blake3::Hasher::new(),
            written: 0,
        };
        let (mut breaks, mut at_last) = (0, 0);
        while writing.written < object.size {
            let broken = match self.stream(object, &mut writing, progress).await {
                Ok(()) if writing.written == object.size => break,
                Ok(()) => FetchError::Away(format!(
                    "{} ended after {} of {} bytes",
                    object.key, writing.written, object.size
                )),
                Err(e @ FetchError::Away(_)) => e,
                Err(e) => return Err(e),
            };
            if writing.written >= at_last + PROGRESS {
                breaks = 0;
            }
            breaks += 1;
            if breaks > MOST_BREAKS {
                return Err(broken);
            }
            warn!("{}, {}: once more ({broken})", self.url(), object.key);
            at_last = writing.written;
            tokio::time::sleep(BREAK_PAUSE * breaks).await;
        }
        Ok(writing.hash.finalize().to_hex().to_string())
    }

    /// Appends what comes of the object behind what is written.
    async fn stream(
        &self,
        object: &Object,
        writing: &mut Writing<'_>,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let what = format!("s3://{}/{}", self.bucket, object.key);
        let key = Key::parse(&object.key).map_err(|e| FetchError::Refused(format!("{what}: {e}")))?;
        let options = GetOptions {
            if_match: object.tagged.then(|| object.version.clone()),
            range: (writing.written > 0).then_some(GetRange::Bounded(writing.written..object.size)),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&key, options).await;
        let result = result.map_err(|e| FetchError::of(&e, &what))?;
        // What has no ETag has a time, which listings and answers round differently.
        let tag = result.meta.e_tag.as_ref().filter(|_| object.tagged);
        if result.meta.size != object.size || tag.is_some_and(|tag| *tag != object.version) {
            return Err(FetchError::Changed(what));
        }
        let mut chunks = result.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| FetchError::of(&e, &what))?;
            let left = object.size - writing.written;
            if chunk.len() as u64 > left {
                return Err(FetchError::Changed(what));
            }
            writing
                .file
                .write_all(&chunk)
                .map_err(tried("write", writing.path))?;
            writing.hash.update(&chunk);
            writing.written += chunk.len() as u64;
            progress.came(chunk.len() as u64);
        }
        Ok(())
    }
}

/// What was fetched from the same location the last time.
struct Before {
    kept: Kept,
    objects: BTreeMap<String, Object>,
}

/// A part as it grows.
struct Writing<'a> {
    file: File,
    path: &'a Path,
    hash: blake3::Hasher,
    written: u64,
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            key: meta.location.to_string(),
            size: meta.size,
            tagged: meta.e_tag.is_some(),
            version: meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339()),
        }
    }
}

/// An error before the first byte, where it can be known, is better than one after the last that fits.
fn room(folder: &Path, needed: u64) -> Result<(), FetchError> {
    let disk = rustix::fs::statvfs(folder).map_err(|e| tried("measure", folder)(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed > free {
        let folder = folder.to_owned();
        return Err(FetchError::Full { folder, needed, free });
    }
    Ok(())
}

/// Counts, and says what it counted now and then.
struct Progress {
    url: String,
    objects: Cell<usize>,
    of_objects: usize,
    bytes: Cell<u64>,
    of_bytes: u64,
    began: Instant,
    said: Cell<Instant>,
}

impl Progress {
    fn new(url: String, wanted: &[(PathBuf, Object)]) -> Self {
        let now = Instant::now();
        Self {
            url,
            objects: Cell::new(0),
            of_objects: wanted.len(),
            bytes: Cell::new(0),
            of_bytes: wanted.iter().map(|(_, object)| object.size).sum(),
            began: now,
            said: Cell::new(now),
        }
    }

    fn came(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        if self.said.get().elapsed() >= SAY_EVERY {
            self.said.set(Instant::now());
            self.say("so far");
        }
    }

    fn end(&self) {
        if self.began.elapsed() >= SAY_EVERY {
            self.say("done");
        }
    }

    fn say(&self, how: &str) {
        const MIB: f64 = 1024.0 * 1024.0;
        let mib = |bytes: u64| bytes as f64 / MIB;
        info!(
            "{}: {} of {} objects, {:.0} of {:.0} MiB fetched {how}",
            self.url,
            self.objects.get(),
            self.of_objects,
            mib(self.bytes.get()),
            mib(self.of_bytes),
        );
    }
}

#[cfg(test)]
mod tests;
