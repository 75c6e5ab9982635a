//! Our side of a step: the trainer of a student worker and the classifier of a teacher server, called directly.

use std::time::Instant;

use retort_data::HeldOut;
use retort_data::rng::Rng;
use retort_job::{Loss, Optimizer, OptimizerKind};
use retort_models::{Choice, Classifier, Net, Spec};
use retort_student_worker::trainer::{Batch, BurnTrainer, SoftTargets, Targets, Trainer};

use crate::models;
use crate::steps::{ALPHA, BATCH, Kind, TEMPERATURE};

const LEARNING_RATE: f64 = 1e-3;
/// Different batches that the steps of a turn take.
const POOL: usize = 8;
const WARM_UP: usize = 3;

/// One network on one device, warm.
pub(crate) struct Ours {
    kind: Kind,
    student: BurnTrainer,
    teacher: Classifier,
    pool: Vec<Batch>,
}

impl Ours {
    pub(crate) fn new(kind: Kind, student: &str, teacher: &str, device: Choice) -> anyhow::Result<Self> {
        let spec = models::spec(student);
        let optimizer = Optimizer {
            kind: OptimizerKind::Adam,
            learning_rate: LEARNING_RATE.into(),
            weight_decay: 0.0,
            momentum: 0.0,
            clip_norm: None,
        };
        let mut rng = Rng::keyed(&[7]);
        let mut ours = Self {
            kind,
            student: BurnTrainer::new(&spec, optimizer, 1, device)?,
            teacher: Classifier::from(&Net::new(&models::spec(teacher), 2, &device.open()?)?),
            pool: (0..POOL).map(|_| batch(kind, &spec, &mut rng)).collect(),
        };
        ours.seconds(WARM_UP)?;
        Ok(ours)
    }

    pub(crate) fn parameters(&self) -> usize {
        self.student.flat().len()
    }

    /// Of each step.
    pub(crate) fn seconds(&mut self, steps: usize) -> anyhow::Result<Vec<f64>> {
        (0..steps)
            .map(|step| {
                let batch = &mut self.pool[step % POOL];
                let labels = batch.labels.iter().flatten().copied().collect();
                let held_out = HeldOut::new(batch.inputs.clone(), labels);
                let began = Instant::now();
                match self.kind {
                    Kind::Evaluate => {
                        self.student.evaluate(&held_out)?;
                    }
                    Kind::Taught => {
                        let logits = self.teacher.logits(&batch.inputs, batch.samples)?;
                        batch.soft = Some(soft(soften(&logits)));
                        self.student.step(batch)?;
                    }
                    Kind::Alone | Kind::Replayed => {
                        self.student.step(batch)?;
                    }
                }
                Ok(began.elapsed().as_secs_f64())
            })
            .collect()
    }
}

fn batch(kind: Kind, spec: &Spec, rng: &mut Rng) -> Batch {
    let inputs = (0..BATCH * spec.input_len()).map(|_| rng.uniform_f32()).collect();
    let labels = (0..BATCH).map(|_| Some(rng.below(10) as u32)).collect();
    let logits: Vec<f32> = (0..BATCH * 10).map(|_| 4.0 * rng.uniform_f32()).collect();
    let taught = kind == Kind::Replayed;
    Batch {
        inputs,
        samples: BATCH,
        labels,
        mixed: Vec::new(),
        counted: None,
        soft: taught.then(|| soft(soften(&logits))),
        alpha: if taught || kind == Kind::Taught {
            ALPHA
        } else {
            0.0
        },
        learning_rate: LEARNING_RATE,
    }
}

fn soft(log_probs: Vec<f32>) -> SoftTargets {
    SoftTargets {
        targets: Targets::Dense(log_probs),
        temperature: TEMPERATURE,
        loss: Loss::Kd,
        hint: None,
    }
}

/// log softmax(z / T) of rows of ten, as a teacher server sends it.
fn soften(logits: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(10) {
        let scaled: Vec<f32> = row.iter().map(|z| z / TEMPERATURE).collect();
        let top = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scaled.iter().map(|z| (z - top).exp()).sum();
        out.extend(scaled.iter().map(|z| z - top - sum.ln()));
    }
    out
}
