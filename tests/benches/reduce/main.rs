//! What it costs to keep replicas one model: the arithmetic beside a plain sum of the same bytes, and whole rounds over
//! loopback beside the same bytes over bare TCP.
//!
//!   cargo bench -p retort-tests --bench reduce -- [--quick]

#[path = "../control-plane/cluster.rs"]
#[expect(dead_code, reason = "what else the control plane's bench asks for")]
mod cluster;
#[path = "../control-plane/fleet.rs"]
#[expect(dead_code, reason = "what else the control plane's bench asks for")]
mod fleet;
mod scaling;
mod transport;

use std::hint::black_box;
use std::time::Instant;

use retort_data::Shape;
use retort_job::{Architecture, Loss, Model, Optimizer, OptimizerKind};
use retort_models::{Choice, Preprocessing, Spec};
use retort_student_worker::trainer::{Batch, BurnTrainer, SoftTargets, Targets, Trainer};
use retort_sync::{Outer, Part, Wire, encode, mean};
use retort_tests::bench::{Table, quick};

/// 50 MB of f32.
pub(crate) const NUMBERS: usize = 12_500_000;
/// Of 2,410 parameters, as the examples' students have.
const SMALL: usize = 2_410;
/// Parameters of a perceptron 784-800-800-10, whose steps are measured for the simulation.
pub(crate) const MODEL: usize = 785 * 800 + 801 * 800 + 801 * 10;
/// What the steps between two rounds take in the shares that are computed: an everyday step.
const STEP_SECONDS: f64 = 0.02;

fn main() -> anyhow::Result<()> {
    let quick = quick()?;
    let mut table = Table::default();
    table.keep("quick", quick);
    let mean = arithmetic(&mut table, if quick { 3 } else { 9 });
    let transport = transport::run(&mut table, quick)?;
    network(&mut table);
    let step = step(&mut table, quick)?;
    let measured = scaling::Measured {
        step,
        mean,
        transport,
    };
    scaling::run(&mut table, measured, quick)?;
    table.result("reduce")
}

fn seconds<T>(run: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    black_box(run());
    began.elapsed().as_secs_f64()
}

/// Lower quartile, median and upper quartile.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

pub(crate) fn spread([low, median, high]: [f64; 3]) -> String {
    format!("{median:.2} ({low:.2}..{high:.2})")
}

/// Adds the numbers of all parts, as the compiler makes of the shortest code.
fn plain_sum(parts: &[Vec<f32>], sum: &mut [f32]) {
    for part in parts {
        for (sum, value) in sum.iter_mut().zip(part) {
            *sum += value;
        }
    }
}

/// Gives the seconds that a gigabyte of each of eight members takes.
fn arithmetic(table: &mut Table, repeats: usize) -> f64 {
    table.head("Arithmetic on 50 MB of parameters, one thread");
    let mut mean_seconds = 0.0;
    for members in [2, 4, 8] {
        let numbers: Vec<Vec<f32>> = (0..members)
            .map(|m| {
                (0..NUMBERS)
                    .map(|i| ((i * 7 + m * 13) % 1_009) as f32 * 1e-3)
                    .collect()
            })
            .collect();
        let encoded: Vec<Vec<u8>> = numbers.iter().map(|n| encode(n, Wire::F32)).collect();
        let mut sum = vec![0.0; NUMBERS];
        // As in the coordinator, which has the memory of the round before.
        let mut used = Vec::new();
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..=repeats {
            plain.push(seconds(|| {
                sum.fill(0.0);
                plain_sum(&numbers, &mut sum);
            }));
            ours.push(seconds(|| {
                let parts = encoded.iter().map(|bytes| Part { samples: 100, bytes });
                used = mean(parts, Wire::F32, std::mem::take(&mut used)).expect("parts of one model");
            }));
        }
        let ratios = quartiles(plain[1..].iter().zip(&ours[1..]).map(|(p, o)| p / o).collect());
        let name = format!("mean of {members} members / plain sum, speed");
        table.check((name, spread(ratios)), ">= 0.5", ratios[1] >= 0.5);
        table.keep(&format!("mean_{members}"), ratios[1]);
        mean_seconds = quartiles(ours[1..].to_vec())[1] / (4e-9 * (NUMBERS * members) as f64);
    }
    let numbers: Vec<f32> = (0..NUMBERS).map(|i| (i as f32).sin() * 1e-3).collect();
    let narrow = encode(&numbers, Wire::Bf16);
    let (mut weights, mut momentum) = (numbers.clone(), vec![0.0; NUMBERS]);
    let mut rate = |name: &str, run: &mut dyn FnMut()| {
        let times: Vec<f64> = (0..=repeats).map(|_| seconds(&mut *run)).skip(1).collect();
        let speeds = quartiles(
            times
                .into_iter()
                .map(|t| 4.0 * NUMBERS as f64 / t / 1e9)
                .collect(),
        );
        table.note(format!("{name}, GB/s of f32"), spread(speeds));
        table.keep(name, speeds[1]);
    };
    rate("encode bf16", &mut || {
        drop(black_box(encode(&numbers, Wire::Bf16)))
    });
    rate("decode bf16", &mut || {
        drop(black_box(retort_sync::decode(&narrow, Wire::Bf16)))
    });
    rate("outer step", &mut || {
        Outer::default().step(&mut weights, &mut momentum, &numbers)
    });
    let bytes = encode(&numbers, Wire::F32);
    rate("hash (blake3)", &mut || {
        black_box(blake3::hash(&bytes));
    });
    mean_seconds
}

/// Computed, not measured: how fast a replica's network must be for an exchange to take 5 % of the steps before it.
fn network(table: &mut Table) {
    table.head("Network at which an exchange takes 5 % of its steps (computed, steps of 20 ms)");
    for (name, numbers) in [("2,410 parameters", SMALL), ("50 MB", NUMBERS)] {
        for (strategy, wire, every) in [
            ("step, f32", Wire::F32, 1),
            ("local-sgd every 16, f32", Wire::F32, 16),
            ("diloco every 32, bf16", Wire::Bf16, 32),
        ] {
            let bytes = 2.0 * (numbers * wire.bytes()) as f64;
            let megabits = 8.0 * bytes / (0.05 * STEP_SECONDS * f64::from(every)) / 1e6;
            table.note(format!("{name}, {strategy}"), format!("{megabits:.1} Mbit/s"));
        }
    }
    let step = f64::from(32 * 2 * 4);
    let diloco = f64::from(2 * 2);
    let name = "bytes of diloco every 32 in bf16 / step in f32".to_owned();
    table.check(
        (name, format!("1/{:.0}", step / diloco)),
        "<= 1/50",
        step / diloco >= 50.0,
    );
}

/// Seconds of a step of distillation of [`MODEL`] on [`fleet::BLOCK`] samples, on this machine.
fn step(table: &mut Table, quick: bool) -> anyhow::Result<f64> {
    let model = Model {
        hidden: Some(vec![800, 800]),
        ..Model::of(Architecture::Mlp)
    };
    let spec = Spec {
        model,
        input: Shape {
            channels: 1,
            height: 28,
            width: 28,
        },
        classes: 10,
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
    let mut trainer = BurnTrainer::new(&spec, optimizer, 1, Choice::Flex)?;
    anyhow::ensure!(
        trainer.flat().len() == MODEL,
        "{} parameters",
        trainer.flat().len()
    );
    let samples = fleet::BLOCK as usize;
    let batch = Batch {
        inputs: (0..samples * 784).map(|i| (i % 251) as f32 / 251.0).collect(),
        samples,
        labels: (0..samples as u32).map(|i| Some(i % 10)).collect(),
        mixed: Vec::new(),
        counted: None,
        soft: Some(SoftTargets {
            targets: Targets::Dense(vec![0.1_f32.ln(); samples * 10]),
            temperature: 4.0,
            loss: Loss::Kd,
            hint: None,
        }),
        alpha: 0.9,
        learning_rate: 1e-3,
    };
    let mut times = Vec::new();
    for turn in 0..if quick { 12 } else { 60 } {
        let began = Instant::now();
        trainer.step(&batch)?;
        if turn >= 5 {
            times.push(1e3 * began.elapsed().as_secs_f64());
        }
    }
    let times = quartiles(times);
    table.head("A step of distillation on this machine, all cores");
    table.note("perceptron 784-800-800-10, 64 samples, ms", spread(times));
    table.keep("step_ms", times[1]);
    Ok(times[1] / 1e3)
}
