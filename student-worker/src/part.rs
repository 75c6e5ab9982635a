//! What one session trains: data, order, model and mixture of a group.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use retort_codec::Encoding;
use retort_data::order::{Grid, Order};
use retort_data::{Dataset, HeldOut, Part as Split};
use retort_job::{Combine, FeatureLoss, Features, Group, GroupKind, Job, Loss, Sync, Tail, Weights};
use retort_models::{Card, DatasetReference, Layer, Spec};

/// Held-out samples of one evaluation during training: enough for the gate, cheap enough to repeat.
const HELD_OUT_SAMPLES: u32 = 512;
/// The same where each sample has several targets.
const HELD_OUT_WINDOWS: u32 = 64;

/// The data of a run, as this process reads it.
pub(crate) struct Loaded {
    pub(crate) run: String,
    pub(crate) job: Job,
    pub(crate) seed: u64,
    pub(crate) dataset: Arc<Dataset>,
}

impl Loaded {
    pub(crate) async fn read(run: String, job: Job, seed: u64, base: PathBuf) -> anyhow::Result<Self> {
        let config = job.dataset.clone();
        let dataset = tokio::task::spawn_blocking(move || retort_stores::load(&config, &base, seed))
            .await
            .context("load data set")??;
        if dataset.bad_rows().count() > 0 {
            tracing::warn!("left out: {}", dataset.bad_rows());
        }
        Ok(Self {
            run,
            job,
            seed,
            dataset: Arc::new(dataset),
        })
    }

    /// The teacher that a group learns from by a layer too: its stream, and its network if it is one of the job.
    pub(crate) fn layered(&self, group: &str) -> Option<(String, Option<Spec>)> {
        let stream = self.job.group(group)?.features?.teacher?;
        let streams = self.job.streams();
        let versions = streams.iter().find(|s| s.name == stream).map(|s| &s.versions);
        let maker = versions.and_then(|v| self.job.group(v.of()?));
        Some((stream, maker.map(|g| Spec::of(&self.dataset, g.model))))
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid {
            positions: u64::from(self.dataset.train_len()),
            block: self.job.dataset.block_samples.unwrap_or(self.job.run.batch_size),
        }
    }
}

/// One group's training, ready to start.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) group: Group,
    pub(crate) spec: Spec,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) order: Order,
    /// Decides the initial weights: a baseline starts from the same ones as its student.
    pub(crate) init_seed: u64,
    pub(crate) loss: Loss,
    pub(crate) encoding: Encoding,
    pub(crate) combine: Combine,
    pub(crate) weights: Weights,
    pub(crate) tail: Tail,
    /// How the group's replicas stay one model; `None`: there is one.
    pub(crate) sync: Option<Sync>,
    /// The layer of a teacher that the group learns from.
    pub(crate) hinted: Option<Hinted>,
}

/// A layer of a teacher, and what a layer of the student makes of it.
#[derive(Debug, Clone)]
pub(crate) struct Hinted {
    /// Who sends it.
    pub(crate) stream: String,
    pub(crate) layer: Layer,
    pub(crate) student_layer: String,
    pub(crate) loss: FeatureLoss,
    pub(crate) weight: f64,
}

impl Hinted {
    fn new(features: &Features, sender: &Spec) -> anyhow::Result<Self> {
        let (_, layer) = sender.layer(&features.teacher_layer).context("teacher")?;
        Ok(Self {
            stream: features.teacher.clone().context("features without a teacher")?,
            layer,
            student_layer: features.student_layer.clone(),
            loss: features.loss,
            weight: features.weight,
        })
    }
}

impl Part {
    /// `sender`: the network of the teacher that the group learns from by a layer, if it does.
    pub(crate) fn new(loaded: &Loaded, name: &str, sender: Option<&Spec>) -> anyhow::Result<Self> {
        let group = loaded
            .job
            .group(name)
            .with_context(|| format!("the job has no group {name}"))?;
        let dataset = loaded.dataset.clone();
        let order = group
            .order(loaded.seed, dataset.train_len(), dataset.labelled())
            .with_context(|| format!("there is no sample that {name} could train on"))?;
        let base_name = match group.kind {
            GroupKind::Baseline => name.split('@').next().unwrap_or(name),
            GroupKind::Teacher | GroupKind::Student => name,
        };
        let salt = base_name.bytes().map(u64::from);
        let key: Vec<u64> = std::iter::once(loaded.seed).chain(salt).collect();
        let distillation = &loaded.job.distillation;
        let mut spec = Spec::of(&dataset, group.model.clone());
        let hinted = match (&group.features, sender) {
            (Some(features), Some(sender)) => {
                let hinted = Hinted::new(features, sender)?;
                spec = spec.learning_from(features, &hinted.layer)?;
                Some(hinted)
            }
            _ => None,
        };
        Ok(Self {
            spec,
            loss: distillation.loss,
            encoding: distillation.encoding(dataset.classes()),
            combine: distillation.combine,
            weights: distillation.weights,
            tail: distillation.tail,
            sync: (group.replicas > 1).then(|| loaded.job.sync.clone()),
            hinted,
            group,
            dataset,
            order,
            init_seed: retort_data::rng::key(&key),
        })
    }

    /// At a place in the order of all epochs.
    pub(crate) fn learning_rate(&self, epoch: u32, position: u64) -> f64 {
        self.learning_rate_at(u64::from(epoch) * self.order.len() + position)
    }

    /// After so many positions of all epochs.
    pub(crate) fn learning_rate_at(&self, place: u64) -> f64 {
        let all = self.order.len() * u64::from(self.group.epochs);
        let progress = place as f64 / all.max(1) as f64;
        self.group.optimizer.learning_rate.at(progress)
    }

    /// The model card that travels with every version, as JSON.
    pub(crate) fn card_json(&self, parameters: usize) -> Vec<u8> {
        let reference = DatasetReference {
            name: self.dataset.name().to_owned(),
            digest: self.dataset.digest().to_owned(),
        };
        let mut card = Card::new(self.group.name.clone(), &self.spec, parameters, reference);
        card.class_names = self.dataset.class_names().to_vec();
        card.audio = self.dataset.audio().cloned();
        serde_json::to_vec_pretty(&card).expect("a card has names for keys and finite numbers")
    }

    /// The held-out samples that the group is measured on as it trains.
    pub(crate) fn held_out(&self) -> HeldOut {
        let most = match self.dataset.rows() {
            1 => HELD_OUT_SAMPLES,
            _ => HELD_OUT_WINDOWS,
        };
        self.dataset.split(Split::Validation).held_out(most)
    }
}
