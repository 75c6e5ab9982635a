//! The trainer thread: the one owner of model and optimizer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use retort_codec::Features;
use retort_coordinator_core::round::Evaluation;
use retort_data::{HeldOut, MixedIn};
use retort_runtime::{block_span, caught, failpoint};
use retort_student_worker_core::{Batch as Positions, StepDone};
use tokio::sync::mpsc;
use tracing::Span;

use crate::exchange::{Exchange, Outgoing};
use crate::mixture::{self, Rule, Voice};
use crate::part::Part;
use crate::replica::Event;
use crate::trainer::{Batch, BurnTrainer, Error, Hint, SoftTargets, Trainer};

/// Commands waiting for the trainer. The machine hands out two batches at most, and the rest are
/// one at a time, so this is never full.
const QUEUE: usize = 16;

/// A decoded frame, shared by the batches cut from it.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) targets: retort_codec::Targets,
    /// T that they were softened with.
    pub(crate) temperature: f32,
    /// What a layer of the teacher holds of the same samples, where the group learns from it.
    pub(crate) features: Option<Features>,
    /// Size on the wire.
    pub(crate) bytes: u64,
    /// Of the block's way, which ends with its last batch.
    pub(crate) span: Span,
}

pub(crate) enum TrainerCommand {
    /// Evaluate, and take a snapshot to publish if asked.
    Begin { evaluate: bool, snapshot: bool },
    Train {
        batch: Positions<Arc<Frame>>,
        alpha: f64,
    },
    /// What the round came to, to contribute; with the state at its start for a replica that joins.
    Export { hand_over: bool },
    /// The merge of a round that began after so many positions.
    Import { merged: Bytes, positions: u64 },
    /// The state that another replica handed over.
    TakeOver(Bytes),
    /// A published state.
    Restore {
        weights: Option<Bytes>,
        optimizer: Option<Bytes>,
        /// Outer momentum.
        outer: Option<Bytes>,
        steps: u64,
    },
    /// The initial state again.
    Reset,
}

pub(crate) enum TrainerEvent {
    Began {
        held_out: Option<Evaluation>,
        snapshot: Option<Snapshot>,
    },
    Trained(StepDone),
    /// The sample at this position of the batch can't be read; no step was taken.
    Unreadable {
        position: u64,
        reason: String,
    },
    Exported(Outgoing),
    Imported,
    Restored,
    /// The group can't go on.
    Failed(String),
    /// The thread has ended: a step, say, panicked. Whether another replica fares better shows when it tries.
    Panicked(String),
}

/// The files of a version.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) files: Vec<(String, Bytes)>,
}

/// Name of the optimizer's file; its first 8 bytes count the steps behind it.
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.bin";

/// Starts the thread; it ends when the sender is dropped.
pub(crate) fn start(
    part: Part,
    events: mpsc::Sender<Event>,
) -> std::io::Result<mpsc::Sender<TrainerCommand>> {
    let (commands, mut inbox) = mpsc::channel(QUEUE);
    std::thread::Builder::new()
        .name("trainer".into())
        .spawn(move || {
            let send = |event| events.blocking_send(Event::Trainer(event)).is_ok();
            let worked = caught(|| {
                let mut owner = match Owner::new(part) {
                    Ok(owner) => owner,
                    Err(e) => {
                        send(TrainerEvent::Failed(e.to_string()));
                        return;
                    }
                };
                while let Some(command) = inbox.blocking_recv() {
                    let event = owner
                        .obey(command)
                        .unwrap_or_else(|e| TrainerEvent::Failed(e.to_string()));
                    if !send(event) {
                        return; // the session is over
                    }
                }
            });
            // Its state may be half a step's: whoever goes on begins from one that all agree on.
            if let Err(panic) = worked {
                send(TrainerEvent::Panicked(panic));
            }
        })?;
    Ok(commands)
}

struct Owner {
    part: Part,
    trainer: Box<dyn Trainer>,
    exchange: Option<Exchange>,
    held_out: HeldOut,
}

fn new_trainer(part: &Part) -> Result<Box<dyn Trainer>, Error> {
    let device = part.group.device.0.parse()?;
    let trainer = BurnTrainer::new(&part.spec, part.group.optimizer.clone(), part.init_seed, device)?;
    Ok(Box::new(trainer))
}

impl Owner {
    fn new(part: Part) -> Result<Self, Error> {
        let trainer = new_trainer(&part)?;
        Ok(Self {
            held_out: part.held_out(),
            exchange: part.sync.as_ref().and_then(|sync| Exchange::new(sync, &*trainer)),
            trainer,
            part,
        })
    }

    fn obey(&mut self, command: TrainerCommand) -> Result<TrainerEvent, Error> {
        Ok(match command {
            TrainerCommand::Begin { evaluate, snapshot } => TrainerEvent::Began {
                held_out: if evaluate { self.evaluate()? } else { None },
                snapshot: snapshot.then(|| self.snapshot()).transpose()?,
            },
            TrainerCommand::Train { batch, alpha } => self.train(&batch, alpha)?,
            TrainerCommand::Reset => {
                self.trainer = new_trainer(&self.part)?;
                let sync = self.part.sync.as_ref();
                self.exchange = sync.and_then(|sync| Exchange::new(sync, &*self.trainer));
                TrainerEvent::Restored
            }
            TrainerCommand::Export { hand_over } => {
                let exchange = self.exchange.as_mut().ok_or(Error::Alone)?;
                TrainerEvent::Exported(exchange.export(&mut *self.trainer, hand_over)?)
            }
            TrainerCommand::Import { merged, positions } => {
                let exchange = self.exchange.as_mut().ok_or(Error::Alone)?;
                let learning_rate = self.part.learning_rate_at(positions);
                exchange.import(&mut *self.trainer, &merged, learning_rate)?;
                TrainerEvent::Imported
            }
            TrainerCommand::TakeOver(state) => {
                let exchange = self.exchange.as_mut().ok_or(Error::Alone)?;
                exchange.take_over(&mut *self.trainer, &state)?;
                TrainerEvent::Imported
            }
            TrainerCommand::Restore {
                weights,
                optimizer,
                outer,
                steps,
            } => {
                let whole = weights.is_some();
                if let Some(weights) = weights {
                    self.trainer.load_weights(&weights)?;
                }
                if let Some(optimizer) = optimizer {
                    self.trainer.load_optimizer_state(&optimizer)?;
                }
                self.trainer.set_steps(steps);
                if let Some(exchange) = self.exchange.as_mut().filter(|_| whole) {
                    exchange.restored(&mut *self.trainer, outer.as_deref())?;
                }
                TrainerEvent::Restored
            }
        })
    }

    fn evaluate(&mut self) -> Result<Option<Evaluation>, Error> {
        if self.held_out.labels.is_empty() {
            return Ok(None);
        }
        let e = self.trainer.evaluate(&self.held_out)?;
        Ok(Some(Evaluation {
            loss: e.loss,
            accuracy: e.accuracy,
            samples: e.samples as u64,
        }))
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let card = self.part.card_json(self.trainer.flat().len());
        let mut optimizer = self.trainer.steps().to_le_bytes().to_vec();
        optimizer.extend(self.trainer.optimizer_state()?);
        let mut files = vec![
            ("model.safetensors".into(), self.trainer.weights().into()),
            ("model.json".into(), card.into()),
            (OPTIMIZER_FILE.into(), optimizer.into()),
        ];
        files.extend(self.exchange.as_ref().and_then(Exchange::file));
        Ok(Snapshot { files })
    }

    fn train(&mut self, positions: &Positions<Arc<Frame>>, alpha: f64) -> Result<TrainerEvent, Error> {
        let samples = positions.positions.end - positions.positions.start;
        let train = |(_, _, frame): &(String, u64, Arc<Frame>)| block_span!(&frame.span, "train", samples);
        let _train: Vec<Span> = positions.frames.iter().map(train).collect();
        let began = Instant::now();
        let read = self.batch(positions, alpha);
        let input = began.elapsed().as_secs_f64();
        let mut batch = match read {
            Ok(batch) => batch,
            Err((position, reason)) => return Ok(TrainerEvent::Unreadable { position, reason }),
        };
        batch.soft = match self.mix(positions, &batch) {
            Ok(soft) => soft,
            Err(e) => return Ok(TrainerEvent::Failed(format!("mix the teachers: {e}"))),
        };
        let report = match &self.exchange {
            Some(exchange) if exchange.accumulates() => self.trainer.accumulate(&batch)?,
            _ => self.trainer.step(&batch)?,
        };
        let frames = positions.frames.iter().filter(|_| positions.first_of_block);
        Ok(TrainerEvent::Trained(StepDone {
            samples: batch.samples as u64,
            hard_loss: report.hard_loss.unwrap_or(0.0),
            labelled: batch.labelled_samples() as u64,
            kl: report.kl,
            gradient_share: report.gradient_share,
            feature_loss: report.feature_loss,
            seconds: began.elapsed().as_secs_f64(),
            input_seconds: input,
            frame_bytes: frames.map(|(_, _, f)| f.bytes).sum(),
        }))
    }

    /// What there is without teachers. `Err`: the position whose sample can't be read, and why.
    fn batch(&self, positions: &Positions<Arc<Frame>>, alpha: f64) -> Result<Batch, (u64, String)> {
        let dataset = &self.part.dataset;
        let samples = (positions.positions.end - positions.positions.start) as usize;
        let (len, rows) = (dataset.shape().len(), dataset.rows());
        let mut inputs = vec![0f32; samples * len];
        let mut labels = vec![None; samples * rows];
        let mut counted = Vec::with_capacity(labels.len());
        let mut mixed = Vec::new();
        let epoch = positions.id.epoch;
        for (position, out) in positions.positions.clone().zip(inputs.chunks_exact_mut(len)) {
            let sample = self.part.order.sample(epoch, position);
            let view_seed = self.part.order.view_seed(epoch, position);
            let read = failpoint::guard(sample, true, || dataset.view(sample, view_seed, out));
            read.map_err(|reason| (position, reason))?;
            let first = (position - positions.positions.start) as usize * rows;
            for (row, label) in dataset.targets(sample) {
                labels[first + row] = label;
                counted.push(first + row);
            }
            // Of two samples without a label there is nothing to say.
            let second = dataset.mixed_in(sample, view_seed);
            mixed.extend(second.map(|MixedIn { sample, share }| (dataset.label(sample).unwrap_or(0), share)));
        }
        Ok(Batch {
            inputs,
            samples,
            counted: (counted.len() < labels.len()).then_some(counted),
            labels,
            mixed,
            soft: None,
            alpha,
            learning_rate: self.part.learning_rate(epoch, positions.positions.start),
        })
    }

    /// The teachers that answered, as one; `None` if there are none. Some may be missing: the weights are normalised
    /// over those that are there.
    fn mix(
        &self,
        positions: &Positions<Arc<Frame>>,
        batch: &Batch,
    ) -> Result<Option<SoftTargets>, mixture::Error> {
        let weight = |teacher: &str| {
            let named = self.part.group.teachers.iter().find(|m| m.name == teacher);
            named.map_or(0.0, |m| m.weight)
        };
        let voices: Vec<Voice<'_>> = positions
            .frames
            .iter()
            .map(|(teacher, _, frame)| Voice {
                weight: weight(teacher),
                targets: &frame.targets,
            })
            .collect();
        // All frames of a block are softened alike.
        let Some((_, _, first_frame)) = positions.frames.first() else {
            return Ok(None);
        };
        let rule = Rule {
            combine: self.part.combine,
            weights: self.part.weights,
            tail: self.part.tail,
            classes: self.part.spec.classes,
        };
        let samples = positions.first_row as usize..positions.first_row as usize + batch.samples;
        let rows = samples.start * self.part.spec.rows..samples.end * self.part.spec.rows;
        Ok(Some(SoftTargets {
            targets: rule.mix(&voices, rows, &batch.labels)?,
            temperature: first_frame.temperature,
            loss: self.part.loss,
            hint: self.hint(positions, samples),
        }))
    }

    /// Features of some samples of a block; `None` if the group learns from none, or their teacher is missing.
    fn hint(&self, positions: &Positions<Arc<Frame>>, samples: Range<usize>) -> Option<Hint> {
        let hinted = self.part.hinted.as_ref()?;
        let frame = positions
            .frames
            .iter()
            .find(|(teacher, ..)| *teacher == hinted.stream);
        let all = frame.and_then(|(.., frame)| frame.features.as_ref())?;
        let len = all.channels * all.positions;
        Some(Hint {
            layer: hinted.student_layer.clone(),
            loss: hinted.loss,
            weight: hinted.weight,
            features: Features {
                rows: samples.len(),
                values: all.values[samples.start * len..samples.end * len].to_vec(),
                ..*all
            },
        })
    }
}
