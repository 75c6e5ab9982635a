//! Brings versions here and loads them beside the serving one, each once at a time.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use retort_client::{Backoff, Channel, FileError};
use retort_job::{Distillation, Job};
use retort_models::Card;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::device::Versions;
use crate::engine::{BurnEngine, Replay, TeacherEngine};
use crate::serving::{Current, Serving};
use crate::store::{Identity, Place, Store};
use crate::targets::Terms;

/// How often recorded soft targets are brought to a bucket.
const BRING: Duration = Duration::from_secs(5);

/// A version that no further attempt makes fit the data.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misfit(String);

/// One version on its way; while it lasts no other one of it is begun.
pub(crate) struct Load {
    serving: Arc<Serving>,
    version: u64,
    recorder: Option<Arc<Recorder>>,
    data: Channel,
}

impl Load {
    /// `None`: the version is here, or on its way.
    pub(crate) fn begin(
        serving: &Arc<Serving>,
        version: u64,
        recorder: Option<Arc<Recorder>>,
        data: Channel,
    ) -> Option<Self> {
        if !serving.loading().insert(version) {
            return None;
        }
        let load = Self {
            serving: serving.clone(),
            version,
            recorder,
            data,
        };
        // Looked up after its place was taken: whoever had that left it once the version was here.
        let here = serving.device.versions.borrow().staged.contains(&version);
        (!here).then_some(load)
    }

    /// Until the version is here, or not needed any more; what is recorded of it is brought to its bucket from then on.
    pub(crate) async fn run(self, current: Current, token: CancellationToken) -> anyhow::Result<()> {
        let loaded = tokio::select! {
            loaded = self.load() => loaded,
            () = self.serving.superseded(current) => false,
            () = token.cancelled() => false,
        };
        let store = self.serving.store.get().cloned();
        let store = store.filter(|s| loaded && s.is_mirrored());
        let serving = Arc::downgrade(&self.serving);
        drop(self);
        match store {
            Some(store) => bring(store, serving, token).await,
            None => Ok(()),
        }
    }

    /// Until the device has it; `false`: it never will, or nobody needs it any more.
    async fn load(&self) -> bool {
        let version = self.version;
        let device = &self.serving.device;
        let mut versions = device.versions.clone();
        let mut backoff = Backoff::new(version + 1);
        loop {
            match self.engine().await {
                Ok(engine) => {
                    device.stage(version, engine);
                    let here = |v: &Versions| v.staged.contains(&version) || v.active > Some(version);
                    return versions.wait_for(here).await.is_ok();
                }
                Err(e) if is_final(&e) => {
                    warn!(version, "stage: {e:#}: not tried again");
                    return false;
                }
                Err(e) => {
                    if matches!(e.downcast_ref(), Some(FileError::Corrupt { .. })) {
                        self.serving.refetched.fetch_add(1, Ordering::Relaxed);
                    }
                    warn!(version, "stage: {e:#}");
                }
            }
            // A version that was pruned meanwhile is superseded: somebody will ask for the next.
            if versions.borrow().active > Some(version) {
                return false;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Fetches the version and makes of it what answers.
    async fn engine(&self) -> anyhow::Result<Box<dyn TeacherEngine>> {
        let (serving, version) = (self.serving.clone(), self.version);
        let mut client = retort_client::versions(self.data.clone());
        let at = (serving.run.as_str(), serving.teacher.as_str());
        let card = retort_client::fetch(&mut client, at, Some(version), "model.json").await?;
        let card: Card = serde_json::from_slice(&card.bytes).context("model card")?;
        let weights = retort_client::fetch(&mut client, at, Some(version), card.weights_file()).await?;
        let dataset = &serving.device.blocks.dataset;
        let (classes, rows) = (dataset.classes(), dataset.rows());
        if (card.classes, card.rows) != (classes, rows) {
            return Err(Misfit(format!(
                "version {version} has {} classes and {} targets a sample, the data {classes} and {rows}",
                card.classes, card.rows
            ))
            .into());
        }
        let recorder = self.recorder.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(recorder) = recorder
                && is_recorded(&serving, &recorder, &card, &weights.bytes)?
            {
                let input_len = serving.device.blocks.dataset.shape().len();
                let replay = Replay {
                    input_len,
                    classes,
                    rows,
                };
                return Ok(Box::new(replay) as Box<dyn TeacherEngine>);
            }
            let device = serving.device_name.parse()?;
            Ok(Box::new(BurnEngine::from_weights(&card.spec(), &weights.bytes, device)?) as _)
        })
        .await
        .context("load version")?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.serving.loading().remove(&self.version);
    }
}

/// Another attempt is no use, unless somebody asks for it.
fn is_final(error: &anyhow::Error) -> bool {
    let file = error.downcast_ref::<FileError>();
    error.is::<Misfit>() || file.is_some_and(FileError::is_final)
}

/// Where a fixed teacher's frames are recorded, and on which terms.
pub(crate) struct Recorder {
    /// As the job has it.
    path: PathBuf,
    base: PathBuf,
    distillation: Distillation,
    temperatures: Vec<f32>,
}

impl Recorder {
    /// For a job's stream; relative paths start from `base`.
    pub(crate) fn of(job: &Job, stream: &str, path: &Path, base: &Path) -> Self {
        let groups = job.groups().into_iter();
        let learns = groups.filter(|g| g.teachers.iter().any(|m| m.name == stream));
        Self {
            path: path.to_owned(),
            base: base.to_owned(),
            distillation: job.distillation.clone(),
            // Constant, or the job would have been refused.
            temperatures: learns.map(|g| g.temperature.at(0.0) as f32).collect(),
        }
    }

    fn open(&self, serving: &Serving, card: &Card, weights: &[u8]) -> std::io::Result<Store> {
        let dataset = &serving.device.blocks.dataset;
        let mut hash = blake3::Hasher::new();
        hash.update(weights);
        if let Some(foreign) = card.model.foreign() {
            // One model answers differently by what is read of it.
            hash.update(&serde_json::to_vec(&(foreign, card.input, &card.preprocessing))?);
        }
        let identity = Identity {
            teacher: serving.teacher.clone(),
            weights: hash.finalize().to_hex().to_string(),
            dataset_digest: dataset.digest().to_owned(),
            samples: dataset.train_len(),
            classes: card.classes,
            rows: (card.rows > 1).then_some(card.rows),
        };
        let encoding = self.distillation.encoding(card.classes);
        let terms = self.temperatures.iter().map(|t| Terms::new(*t, encoding));
        Store::open(&Place::of(&self.path, &self.base)?, &identity, terms)
    }
}

/// Opens the store, and says whether it holds every row that may be asked for.
fn is_recorded(serving: &Serving, recorder: &Recorder, card: &Card, weights: &[u8]) -> anyhow::Result<bool> {
    let store = recorder
        .open(serving, card, weights)
        .with_context(|| format!("soft-target store {}", recorder.path.display()))?;
    let (recorded, samples) = store.recorded();
    info!(
        store = %recorder.path.display(),
        "soft-target store: {recorded} of {samples} samples are recorded{}",
        if recorded == samples { ", the model is not loaded" } else { "" }
    );
    let _ = serving.store.set(Arc::new(store)); // it was opened before
    Ok(recorded == samples)
}

/// Brings recorded rows to their bucket for as long as this is served, and at the end.
async fn bring(store: Arc<Store>, serving: Weak<Serving>, token: CancellationToken) -> anyhow::Result<()> {
    let mut last = false;
    while !last {
        tokio::select! {
            () = tokio::time::sleep(BRING) => {}
            () = token.cancelled() => {}
        }
        last = token.is_cancelled() || serving.strong_count() == 0;
        let bringing = store.clone();
        let brought = tokio::task::spawn_blocking(move || bringing.bring()).await;
        if let Err(e) = brought.context("bring soft targets")? {
            warn!(
                "recorded soft targets stay here{}: {e}",
                if last { "" } else { " for now" }
            );
        }
    }
    Ok(())
}
