//! What this build can compute on here: each device tried, measured in a moment and compared with Burn's own.

use std::time::{Duration, Instant};

use clap::Args as Arguments;
use retort_data::Shape;
use retort_job::{Architecture, Loss, Model, Optimizer, OptimizerKind};
use retort_models::{Choice, Preprocessing, Spec, device};
use retort_student_worker::trainer::{Batch, BurnTrainer, SoftTargets, Targets, Trainer};
use serde::Serialize;

use crate::failure::Failure;

/// The step that is measured: a student 784-800-800-10 that learns from soft targets.
const SAMPLES: usize = 128;
const HIDDEN: [u32; 2] = [800, 800];
const INPUT: Shape = Shape {
    channels: 1,
    height: 28,
    width: 28,
};
const CLASSES: usize = 10;
/// Time for a device; the first steps allocate and are not counted.
const AT_MOST: Duration = Duration::from_millis(600);
const WARM_UP: usize = 3;

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One device.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    /// What `auto` stands for here.
    auto: bool,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum State {
    Works {
        /// Milliseconds of a step of the student, median.
        step_ms: f64,
        /// Largest difference of a gradient from flex, relative to the largest gradient.
        gradient_difference: f64,
    },
    /// With the reason.
    Absent { reason: String },
}

pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    let reference =
        gradient(Choice::Flex).map_err(|reason| Failure::Run(anyhow::anyhow!("flex: {reason}")))?;
    let auto = Choice::Auto.resolve();
    let rows: Vec<Row> = device::candidates()
        .into_iter()
        .map(|choice| Row {
            device: choice.to_string(),
            auto: choice == auto,
            state: tried(choice, &reference).unwrap_or_else(|reason| State::Absent { reason }),
        })
        .collect();
    print(&rows, args.json)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(rows: &[Row], json: bool) -> Result<(), Failure> {
    if json {
        let json = serde_json::to_string_pretty(&rows).map_err(anyhow::Error::from)?;
        println!("{json}");
        return Ok(());
    }
    for row in rows {
        let auto = if row.auto { " (auto)" } else { "" };
        let name = format!("{}{auto}", row.device);
        match &row.state {
            State::Works {
                step_ms,
                gradient_difference,
            } => println!(
                "{name:22} works: {:.0} steps/s, gradients within {gradient_difference:.0e} of flex",
                1e3 / step_ms
            ),
            State::Absent { reason } => println!("{name:22} -      {reason}"),
        }
    }
    println!("A step: perceptron 784-800-800-10, {SAMPLES} samples, Adam, with soft targets.");
    Ok(())
}

fn tried(choice: Choice, reference: &[f32]) -> Result<State, String> {
    let mut trainer = trainer(choice)?;
    let batch = batch();
    let gradient = gradient_of(&mut trainer, &batch)?;
    let largest = reference.iter().fold(0f32, |most, g| most.max(g.abs()));
    let differs = gradient.iter().zip(reference).map(|(a, b)| (a - b).abs());
    let mut step = || {
        let began = Instant::now();
        let stepped = trainer.step(&batch).map_err(|e| e.to_string());
        stepped.map(|_| began.elapsed().as_secs_f64() * 1e3)
    };
    for _ in 0..WARM_UP {
        step()?;
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || began.elapsed() < AT_MOST {
        times.push(step()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(State::Works {
        step_ms: times[times.len() / 2],
        gradient_difference: f64::from(differs.fold(0f32, f32::max) / largest),
    })
}

fn gradient(choice: Choice) -> Result<Vec<f32>, String> {
    gradient_of(&mut trainer(choice)?, &batch())
}

fn gradient_of(trainer: &mut BurnTrainer, batch: &Batch) -> Result<Vec<f32>, String> {
    trainer.accumulate(batch).map_err(|e| e.to_string())?;
    let gradient = trainer.gradient();
    trainer.forget_gradient();
    Ok(gradient)
}

/// The same weights on every device.
fn trainer(choice: Choice) -> Result<BurnTrainer, String> {
    let spec = Spec {
        model: Model {
            hidden: Some(HIDDEN.to_vec()),
            ..Model::of(Architecture::Mlp)
        },
        input: INPUT,
        classes: CLASSES,
        preprocessing: Preprocessing {
            mean: vec![0.5],
            std: vec![0.25],
        },
        tokens: None,
        rows: 1,
        projection: None,
    };
    let optimizer = Optimizer {
        kind: OptimizerKind::Adam,
        learning_rate: 1e-3.into(),
        weight_decay: 0.0,
        momentum: 0.0,
        clip_norm: None,
    };
    BurnTrainer::new(&spec, optimizer, 1, choice).map_err(|e| e.to_string())
}

fn batch() -> Batch {
    let values = |count: usize, period: usize| (0..count).map(move |i| (i % period) as f32 / period as f32);
    let rows: Vec<f32> = values(SAMPLES * CLASSES, 7).collect();
    let log_probs = rows.chunks(CLASSES).flat_map(|row| {
        let sum: f32 = row.iter().map(|z| z.exp()).sum();
        row.iter().map(move |z| z - sum.ln())
    });
    Batch {
        inputs: values(SAMPLES * INPUT.len(), 251).collect(),
        samples: SAMPLES,
        labels: (0..SAMPLES as u32).map(|i| Some(i % CLASSES as u32)).collect(),
        mixed: Vec::new(),
        counted: None,
        soft: Some(SoftTargets {
            targets: Targets::Dense(log_probs.collect()),
            temperature: 4.0,
            loss: Loss::Kd,
            hint: None,
        }),
        alpha: 0.9,
        learning_rate: 1e-3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flex_is_there_and_agrees_with_itself() {
        let reference = gradient(Choice::Flex).unwrap();
        assert!(reference.iter().any(|g| *g != 0.0));
        let State::Works {
            step_ms,
            gradient_difference,
        } = tried(Choice::Flex, &reference).unwrap()
        else {
            panic!("it works");
        };
        assert!(step_ms > 0.0);
        assert_eq!(gradient_difference, 0.0, "the same bits");
    }

    #[cfg(not(feature = "libtorch"))]
    #[test]
    fn what_is_not_compiled_in_says_how() {
        let reason = tried(Choice::Libtorch, &[1.0]).unwrap_err();
        assert!(reason.contains("cargo feature `libtorch`"), "{reason}");
    }

    /// Every device that works here gives the same gradients but for rounding.
    #[test]
    fn devices_agree() {
        let reference = gradient(Choice::Flex).unwrap();
        for choice in device::candidates() {
            if let Ok(State::Works {
                gradient_difference, ..
            }) = tried(choice, &reference)
            {
                assert!(gradient_difference < 1e-3, "{choice}: {gradient_difference}");
            }
        }
    }
}
