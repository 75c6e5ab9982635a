//! [`Trainer`] on burn.

use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Int, Tensor, TensorData};
use retort_codec::Features;
use retort_data::rng::{self, Rng};
use retort_job::{FeatureLoss, Loss, Optimizer};
use retort_losses::{Combined, CrossEntropy, Labels, Objective};
use retort_models::{Choice, Classifier, Device, Evaluation, Net, Outputs, Pass, Spec};
use tracing::trace_span;

use super::gradient;
use super::optimizer::{clip, fresh};
use super::{Batch, Error, Hint, Sparse, StepReport, Targets, Trainer, exits};

/// Sets the dropout masks apart from other uses of a seed.
const DROPOUT: u64 = 0x6472_6f70;

/// How far from 1 the weights of a sample may sum: far above the rounding of a sum of f32.
const WEIGHT_TOLERANCE: f32 = 1e-4;

/// Bytes of the checksum before an optimizer state.
const CHECKSUM: usize = 8;

/// A network and its optimizer on one device.
pub struct BurnTrainer {
    /// `None` only while a step moves it on, so that nobody else holds the weights and their memory is used again.
    net: Option<Net>,
    optimizer: ModuleOptimizer,
    config: Optimizer,
    choice: Choice,
    device: Device,
    seed: u64,
    steps: u64,
    /// Gradients since the last step of all replicas, times their samples, and how many samples those are.
    accumulated: (Vec<f32>, u64),
}

impl BurnTrainer {
    /// A trainer with initial weights and dropout masks from `seed`.
    pub fn new(spec: &Spec, optimizer: Optimizer, seed: u64, device: Choice) -> Result<Self, Error> {
        let choice = device.resolve();
        let device = choice.open()?.autodiff();
        Ok(Self {
            net: Some(Net::new(spec, seed, &device)?),
            optimizer: fresh(&optimizer, choice),
            config: optimizer,
            choice,
            device,
            seed,
            steps: 0,
            accumulated: (Vec::new(), 0),
        })
    }

    /// Names and shapes of the weights, in the order of [`Trainer::flat`].
    #[cfg(test)]
    pub(super) fn layout(&self) -> Vec<(String, Vec<usize>)> {
        self.net().layout()
    }

    fn net(&self) -> &Net {
        self.net.as_ref().expect("a network between steps")
    }

    fn check(&self, batch: &Batch) -> Result<(), Error> {
        let Spec { classes, .. } = *self.net().spec();
        if batch.samples == 0 {
            return Err(Error::Range {
                what: "samples",
                value: 0.0,
                expected: "at least 1",
            });
        }
        size(
            "inputs",
            batch.inputs.len(),
            batch.samples * self.net().spec().input_len(),
        )?;
        size("labels", batch.labels.len(), batch.samples)?;
        if !batch.mixed.is_empty() {
            size("second labels", batch.mixed.len(), batch.samples)?;
        }
        let second = batch.mixed.iter().map(|(label, _)| label);
        let mut all = batch.labels.iter().flatten().chain(second);
        if let Some(&label) = all.find(|&&label| label as usize >= classes) {
            return Err(Error::Label { label, classes });
        }
        if let Some((_, share)) = batch.mixed.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(Error::Range {
                what: "share of a second label",
                value: f64::from(*share),
                expected: "0..=1",
            });
        }
        if !(0.0..=1.0).contains(&batch.alpha) {
            return Err(Error::Range {
                what: "alpha",
                value: batch.alpha,
                expected: "0..=1",
            });
        }
        if !(batch.learning_rate.is_finite() && batch.learning_rate >= 0.0) {
            return Err(Error::Range {
                what: "learning rate",
                value: batch.learning_rate,
                expected: "a finite number, at least 0",
            });
        }
        match &batch.soft {
            Some(soft) => {
                check_targets(&soft.targets, batch.samples, classes)?;
                if let Some(hint) = &soft.hint {
                    self.check_hint(hint, batch.samples)?;
                }
                let unlabelled = batch.labels.iter().position(Option::is_none);
                if let (Loss::Dkd { .. }, Some(sample)) = (soft.loss, unlabelled) {
                    return Err(Error::MissingLabel {
                        step: self.steps,
                        sample,
                        loss: soft.loss.name(),
                    });
                }
                let value = f64::from(soft.temperature);
                if value.is_finite() && value > 0.0 {
                    Ok(())
                } else {
                    Err(Error::Range {
                        what: "temperature",
                        value,
                        expected: "a number greater than 0",
                    })
                }
            }
            None if batch.alpha > 0.0 => Err(Error::MissingSoftTargets {
                step: self.steps,
                alpha: batch.alpha,
            }),
            None => Ok(()),
        }
    }

    /// Sizes, by what the loss compares.
    fn check_hint(&self, hint: &Hint, samples: usize) -> Result<(), Error> {
        let spec = self.net().spec();
        let (_, layer) = spec.layer(&hint.layer)?;
        let projection = spec.projection.as_ref().filter(|p| p.layer == hint.layer);
        let channels = projection.map_or(layer.channels, |p| p.channels);
        let teacher = &hint.features;
        size("features", teacher.rows, samples)?;
        size(
            "features",
            teacher.values.len(),
            samples * teacher.channels * teacher.positions,
        )?;
        if hint.loss.by_channel() {
            size("channels of the features", teacher.channels, channels)?;
        }
        if hint.loss.by_position() {
            size("positions of the features", teacher.positions, layer.positions)?;
        }
        if hint.weight.is_finite() && hint.weight >= 0.0 {
            Ok(())
        } else {
            Err(Error::Range {
                what: "weight of the features",
                value: hint.weight,
                expected: "a finite number, at least 0",
            })
        }
    }

    fn pass(&self, batch: &Batch) -> Result<Pass, Error> {
        let shape = self.net().spec().input;
        let dims = [batch.samples, shape.channels, shape.height, shape.width];
        let inputs = Tensor::from_data(TensorData::new(batch.inputs.clone(), dims), &self.device);
        let mut noise = Rng::keyed(&[self.seed, DROPOUT, self.steps]);
        let hint = batch.soft.as_ref().and_then(|soft| soft.hint.as_ref());
        Ok(self
            .net()
            .pass(inputs, Some(&mut noise), hint.map(|h| h.layer.as_str()))?)
    }

    fn targets(&self, targets: &Targets, samples: usize) -> retort_losses::Targets {
        let matrix = |values: &[f32], columns: usize| {
            let data = TensorData::new(values.to_vec(), [samples, columns]);
            Tensor::<2>::from_data(data, &self.device)
        };
        match targets {
            Targets::Dense(log_probs) => {
                retort_losses::Targets::Dense(matrix(log_probs, self.net().spec().classes))
            }
            Targets::Sparse(teachers) => {
                let teachers = teachers.iter().map(|Sparse { weights, top }| {
                    let ids: Vec<i64> = top.ids.iter().copied().map(i64::from).collect();
                    let ids = TensorData::new(ids, [samples, top.kept]);
                    let teacher = retort_losses::Sparse {
                        ids: Tensor::<2, Int>::from_data(ids, &self.device),
                        log_probs: matrix(&top.log_probs, top.kept),
                        log_tail: matrix(&top.log_tail, 1).squeeze_dim(1),
                    };
                    (matrix(weights, 1).squeeze_dim(1), teacher)
                });
                retort_losses::Targets::Sparse(teachers.collect())
            }
        }
    }

    fn features(&self, features: &Features) -> Tensor<3> {
        let dims = [features.rows, features.channels, features.positions];
        Tensor::from_data(TensorData::new(features.values.clone(), dims), &self.device)
    }

    /// Covers what a state belongs to as well as its bytes.
    fn checksum(&self, state: &[u8]) -> [u8; CHECKSUM] {
        let owner = format!("{:?} {:?}", self.config.kind, self.net().layout());
        let words = |bytes: &[u8]| -> Vec<u64> {
            let word = |chunk: &[u8]| chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
            bytes.chunks(8).map(word).collect()
        };
        rng::key(&[
            rng::key(&words(owner.as_bytes())),
            rng::key(&words(state)),
            state.len() as u64,
        ])
        .to_le_bytes()
    }
}

impl BurnTrainer {
    /// The loss and its parts, in the order of [`report`].
    fn loss(&self, batch: &Batch, outputs: &Outputs) -> Result<(Tensor<1>, Vec<Tensor<1>>), Error> {
        let mut labels = Labels::new(&batch.labels, &self.device);
        if !batch.mixed.is_empty() {
            labels = labels.mixed(&batch.mixed);
        }
        let exits = exits::loss(self.net().spec().model.exits.as_ref(), outputs, &labels);
        let Outputs { logits, features, .. } = outputs.clone();
        let (total, parts) = match &batch.soft {
            Some(soft) => {
                let combined = Combined {
                    objective: objective(soft.loss),
                    alpha: batch.alpha,
                    temperature: f64::from(soft.temperature),
                };
                let targets = self.targets(&soft.targets, batch.samples);
                let loss = combined.forward(logits, &labels, &targets)?;
                let mut total = loss.total;
                let mut parts = vec![loss.hard, loss.soft, loss.teacher_share, loss.objective];
                if let (Some(hint), Some(features)) = (&soft.hint, features) {
                    let loss = feature_loss(hint.loss).forward(features, self.features(&hint.features));
                    parts.push(loss.clone().without_autodiff());
                    total = total + loss * (batch.alpha * hint.weight);
                }
                (total, parts)
            }
            None => {
                let hard = CrossEntropy.forward(logits, &labels);
                (hard.clone(), vec![hard.without_autodiff()])
            }
        };
        let total = exits.into_iter().fold(total, |total, exit| total + exit);
        Ok((total, parts))
    }

    /// The gradient of a batch. Nothing of the trainer changes.
    fn gradients(&self, batch: &Batch) -> Result<(GradientsParams, StepReport), Error> {
        self.check(batch)?;
        let (pass, total, parts) = trace_span!("forward").in_scope(|| {
            let pass = self.pass(batch)?;
            let (total, parts) = self.loss(batch, &pass.outputs)?;
            Ok::<_, Error>((pass, total, parts))
        })?;
        // The backward pass is queued before anything is read back, and all is read in one transfer.
        let gradients = trace_span!("backward").in_scope(|| pass.gradients(&total, self.net()));
        let gradients = gradients.map_err(|e| device_error("find the gradient", e))?;
        let mut scalars = vec![total.without_autodiff()];
        scalars.extend(parts);
        let scalars = Tensor::cat(scalars, 0).try_into_vec_as::<f32>();
        let scalars = scalars.map_err(|e| device_error("read the loss", e))?;
        let report = report(self.steps, batch, &scalars)?;
        Ok((gradients, report))
    }

    fn descend(&mut self, gradients: GradientsParams, learning_rate: f64) {
        let _span = trace_span!("optimizer").entered();
        let gradients = match self.config.clip_norm {
            Some(most) => clip(gradients, self.net(), most),
            None => gradients,
        };
        let net = self
            .net
            .take()
            .map(|net| self.optimizer.step(learning_rate, net, gradients));
        self.net = net;
        self.steps += 1;
    }
}

impl Trainer for BurnTrainer {
    fn step(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let (gradients, report) = self.gradients(batch)?;
        self.descend(gradients, batch.learning_rate);
        Ok(report)
    }

    fn accumulate(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let (gradients, report) = self.gradients(batch)?;
        let flat = gradient::flat(&gradients, self.net());
        let (sum, samples) = &mut self.accumulated;
        sum.resize(flat.len(), 0.0);
        for (sum, value) in sum.iter_mut().zip(flat) {
            *sum += batch.samples as f32 * value;
        }
        *samples += batch.samples as u64;
        Ok(report)
    }

    fn gradient(&self) -> Vec<f32> {
        let (mut sum, samples) = self.accumulated.clone();
        sum.resize(self.net().parameters(), 0.0);
        sum.iter_mut().for_each(|value| *value /= samples.max(1) as f32);
        sum
    }

    fn forget_gradient(&mut self) {
        self.accumulated = (Vec::new(), 0);
    }

    fn apply(&mut self, gradient: &[f32], learning_rate: f64) -> Result<(), Error> {
        let gradients = gradient::unflat(gradient, self.net())?;
        self.forget_gradient();
        self.descend(gradients, learning_rate);
        Ok(())
    }

    fn evaluate(&mut self, inputs: &[f32], labels: &[u32]) -> Result<Evaluation, Error> {
        Ok(Classifier::from(self.net()).evaluate(inputs, labels)?)
    }

    fn flat(&self) -> Vec<f32> {
        self.net().flat()
    }

    fn set_flat(&mut self, flat: &[f32]) -> Result<(), Error> {
        self.net = Some(self.net().clone().with_flat(flat)?);
        Ok(())
    }

    fn weights(&self) -> Vec<u8> {
        self.net().to_safetensors()
    }

    fn load_weights(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.net = Some(self.net().clone().with_safetensors(bytes)?);
        Ok(())
    }

    fn optimizer_state(&self) -> Result<Vec<u8>, Error> {
        let state = self
            .optimizer
            .into_bytes()
            .map_err(|e| device_error("read the optimizer state", e))?;
        Ok([&self.checksum(&state)[..], &state].concat())
    }

    fn load_optimizer_state(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (checksum, state) = bytes
            .split_first_chunk::<CHECKSUM>()
            .ok_or(Error::OptimizerState)?;
        if self.checksum(state) != *checksum {
            return Err(Error::OptimizerState);
        }
        let state = Bytes::from_bytes_vec(state.to_vec());
        self.optimizer = fresh(&self.config, self.choice)
            .from_bytes(state)
            .map_err(|_| Error::OptimizerState)?;
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

fn feature_loss(loss: FeatureLoss) -> retort_losses::FeatureLoss {
    match loss {
        FeatureLoss::Hint => retort_losses::FeatureLoss::Hint,
        FeatureLoss::Attention => retort_losses::FeatureLoss::Attention,
        FeatureLoss::Cosine => retort_losses::FeatureLoss::Cosine,
        FeatureLoss::Relational => retort_losses::FeatureLoss::Relational,
    }
}

fn objective(loss: Loss) -> Objective {
    match loss {
        Loss::Kd => Objective::Kd,
        Loss::ReverseKl => Objective::ReverseKl,
        Loss::Jsd { beta } => Objective::Jsd { beta },
        Loss::Mse => Objective::Mse,
        Loss::Dkd { alpha, beta } => Objective::Dkd { alpha, beta },
    }
}

/// `scalars` are the loss and the parts that it has: hard, then divergence, share and soft loss if there are soft targets,
/// then the loss between layers if there is a hint.
fn report(step: u64, batch: &Batch, scalars: &[f32]) -> Result<StepReport, Error> {
    const NAMES: [&str; 6] = [
        "loss",
        "hard loss",
        "divergence",
        "gradient share",
        "soft loss",
        "feature loss",
    ];
    for (&value, what) in scalars.iter().zip(NAMES) {
        if !value.is_finite() {
            return Err(Error::NonFinite {
                what,
                step,
                value: f64::from(value),
            });
        }
    }
    let scalar = |index: usize| scalars.get(index).copied().map(f64::from);
    let labelled = batch.labels.iter().flatten().count();
    Ok(StepReport {
        loss: scalar(0).unwrap_or_default(),
        hard_loss: scalar(1).filter(|_| labelled > 0),
        kl: scalar(2),
        labelled,
        gradient_share: scalar(3),
        soft_loss: scalar(4),
        feature_loss: scalar(5),
    })
}

/// Sizes, kept classes and weights; whether the numbers are distributions is the codec's business.
fn check_targets(targets: &Targets, samples: usize, classes: usize) -> Result<(), Error> {
    let teachers = match targets {
        Targets::Dense(log_probs) => return size("soft targets", log_probs.len(), samples * classes),
        Targets::Sparse(teachers) => teachers,
    };
    for Sparse { weights, top } in teachers {
        if !(1..=classes).contains(&top.kept) {
            return Err(Error::Range {
                what: "kept",
                value: top.kept as f64,
                expected: "at least 1 and at most the classes",
            });
        }
        size("weights", weights.len(), samples)?;
        size("kept classes", top.ids.len(), samples * top.kept)?;
        size("soft targets", top.log_probs.len(), samples * top.kept)?;
        size("tails", top.log_tail.len(), samples)?;
        for (sample, ids) in top.ids.chunks(top.kept).enumerate() {
            if !ids.is_sorted_by(|a, b| a < b) || ids.last().is_some_and(|&id| id as usize >= classes) {
                return Err(Error::Kept {
                    sample,
                    ids: ids.to_vec(),
                    classes,
                });
            }
        }
    }
    for sample in 0..samples {
        let sum = teachers.iter().fold(0.0, |sum, t| sum + t.weights[sample]);
        let whole = (sum - 1.0).abs() <= WEIGHT_TOLERANCE; // false of NaN
        if !whole {
            return Err(Error::Range {
                what: "sum of weights",
                value: f64::from(sum),
                expected: "1",
            });
        }
    }
    Ok(())
}

fn size(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Size {
            what,
            found,
            expected,
        })
    }
}

fn device_error(action: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Device {
        action,
        source: error.into(),
    }
}
