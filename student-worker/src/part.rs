//! What one session trains: data, order, model and mixture of a group.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use retort_codec::Encoding;
use retort_data::order::{Grid, Order};
use retort_data::{Dataset, Part as Split};
use retort_job::{Combine, Group, GroupKind, Job, Loss, Weights};
use retort_models::{Card, DatasetReference, Preprocessing, Spec};

/// Held-out samples of one evaluation during training: enough for the gate, cheap enough to repeat.
const HELD_OUT_SAMPLES: u32 = 512;

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
        let dataset = tokio::task::spawn_blocking(move || retort_data::load(&config, &base, seed))
            .await
            .context("load data set")??;
        Ok(Self {
            run,
            job,
            seed,
            dataset: Arc::new(dataset),
        })
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
}

impl Part {
    pub(crate) fn new(loaded: &Loaded, name: &str) -> anyhow::Result<Self> {
        let group = loaded
            .job
            .group(name)
            .with_context(|| format!("the job has no group {name}"))?;
        let dataset = loaded.dataset.clone();
        let (mean, std) = dataset.pixel_stats();
        let positions = u64::from(dataset.train_len());
        let all_labelled = dataset.labelled().len() as u64 == positions;
        let order = if group.labelled_only() && !all_labelled {
            Order::new_cycle(loaded.seed, positions, dataset.labelled())
        } else {
            Order::new_all(loaded.seed, dataset.train_len())
        };
        let base_name = match group.kind {
            GroupKind::Baseline => name.split('@').next().unwrap_or(name),
            GroupKind::Teacher | GroupKind::Student => name,
        };
        let salt = base_name.bytes().map(u64::from);
        let key: Vec<u64> = std::iter::once(loaded.seed).chain(salt).collect();
        let distillation = &loaded.job.distillation;
        Ok(Self {
            spec: Spec {
                model: group.model.clone(),
                input: dataset.shape(),
                classes: dataset.classes(),
                preprocessing: Preprocessing { mean, std },
                projection: None,
            },
            loss: distillation.loss,
            encoding: distillation.encoding(dataset.classes()),
            combine: distillation.combine,
            weights: distillation.weights,
            group,
            dataset,
            order,
            init_seed: retort_data::rng::key(&key),
        })
    }

    /// At a place in the order of all epochs.
    pub(crate) fn learning_rate(&self, epoch: u32, position: u64) -> f64 {
        let (all, epochs) = (self.order.len(), u64::from(self.group.epochs));
        let place = u64::from(epoch) * all + position;
        let progress = place as f64 / (all * epochs).max(1) as f64;
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
        serde_json::to_vec_pretty(&card).expect("a card has names for keys and finite numbers")
    }

    /// Inputs and labels of the held-out samples.
    pub(crate) fn held_out(&self) -> (Vec<f32>, Vec<u32>) {
        let split = self.dataset.split(Split::Validation);
        let len = self.dataset.shape().len();
        let count = split.len().min(HELD_OUT_SAMPLES);
        let mut inputs = vec![0f32; count as usize * len];
        for (i, out) in (0..count).zip(inputs.chunks_exact_mut(len)) {
            split.write(i, out);
        }
        (inputs, (0..count).map(|i| split.label(i)).collect())
    }
}
