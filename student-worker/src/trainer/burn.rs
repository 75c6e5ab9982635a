//! [`Trainer`] on burn.

use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Int, Tensor, TensorData};
use retort_codec::Features;
use retort_data::HeldOut;
use retort_data::rng::{self, Rng};
use retort_job::{FeatureLoss, Loss, Optimizer};
use retort_losses::{Combined, CrossEntropy, Labels, Objective};
use retort_models::{Choice, Classifier, Device, Evaluation, Net, Outputs, Pass, Spec};
use tracing::trace_span;

use super::gradient;
use super::optimizer::{clip, fresh};
use super::{Batch, Error, Sparse, StepReport, Targets, Trainer, check, exits};

/// Sets the dropout masks apart from other uses of a seed.
const DROPOUT: u64 = 0x6472_6f70;

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

    fn targets(&self, targets: &Targets, rows: usize) -> retort_losses::Targets {
        let matrix = |values: &[f32], columns: usize| {
            let data = TensorData::new(values.to_vec(), [rows, columns]);
            Tensor::<2>::from_data(data, &self.device)
        };
        match targets {
            Targets::Dense(log_probs) => {
                retort_losses::Targets::Dense(matrix(log_probs, self.net().spec().classes))
            }
            Targets::Sparse(teachers) => {
                let teachers = teachers.iter().map(|Sparse { weights, top }| {
                    let ids: Vec<i64> = top.ids.iter().copied().map(i64::from).collect();
                    let ids = TensorData::new(ids, [rows, top.kept]);
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

    fn numbers(&self, numbers: &[usize]) -> Tensor<1, Int> {
        let values: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
        Tensor::from_data(TensorData::new(values, [numbers.len()]), &self.device)
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
        let (mut outputs, counted) = (outputs.clone(), batch.counted.as_ref());
        let counted = counted.map(|rows| self.numbers(rows));
        if let Some(rows) = &counted {
            (labels, outputs) = (labels.select(rows), outputs.select(rows));
        }
        let exits = exits::loss(self.net().spec().model.exits.as_ref(), &outputs, &labels);
        let Outputs { logits, features, .. } = outputs;
        let (total, parts) = match &batch.soft {
            Some(soft) => {
                let combined = Combined {
                    objective: objective(soft.loss),
                    alpha: batch.alpha,
                    temperature: f64::from(soft.temperature),
                };
                let mut targets = self.targets(&soft.targets, batch.labels.len());
                if let Some(rows) = &counted {
                    targets = targets.select(rows);
                }
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
        check::batch(batch, self.net().spec(), self.steps)?;
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

    fn evaluate(&mut self, samples: &HeldOut) -> Result<Evaluation, Error> {
        Ok(Classifier::from(self.net()).evaluate(samples)?)
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
    let labelled = batch.counted_rows().filter(|&row| batch.labels[row].is_some());
    let labelled = labelled.count();
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

fn device_error(action: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Device {
        action,
        source: error.into(),
    }
}
