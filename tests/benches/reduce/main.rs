//! What it costs to keep replicas one model: the arithmetic beside a plain sum of the same bytes, and whole rounds over
//! loopback beside the same bytes over bare TCP.
//!
//!   cargo bench -p retort-tests --bench reduce -- [--quick]

#[path = "../control-plane/cluster.rs"]
#[expect(dead_code, reason = "what else the control plane's bench asks for")]
mod cluster;
mod transport;

use std::hint::black_box;
use std::time::Instant;

use retort_sync::{Outer, Part, Wire, encode, mean};
use retort_tests::bench::{Table, quick};

/// 50 MB of f32.
pub(crate) const NUMBERS: usize = 12_500_000;
/// Of 2,410 parameters, as the examples' students have.
const SMALL: usize = 2_410;
/// What the steps between two rounds take in the shares that are computed: an everyday step.
const STEP_SECONDS: f64 = 0.02;

fn main() -> anyhow::Result<()> {
    let quick = quick()?;
    let mut table = Table::default();
    table.keep("quick", quick);
    arithmetic(&mut table, if quick { 3 } else { 9 });
    transport::run(&mut table, quick)?;
    network(&mut table);
    table.result("reduce");
    Ok(())
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

fn arithmetic(table: &mut Table, repeats: usize) {
    table.head("Arithmetic on 50 MB of parameters, one thread");
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
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..=repeats {
            plain.push(seconds(|| {
                sum.fill(0.0);
                plain_sum(&numbers, &mut sum);
            }));
            ours.push(seconds(|| {
                let parts = encoded.iter().map(|bytes| Part { samples: 100, bytes });
                mean(parts, Wire::F32)
            }));
        }
        let ratios = quartiles(plain[1..].iter().zip(&ours[1..]).map(|(p, o)| p / o).collect());
        let name = format!("mean of {members} members / plain sum, speed");
        table.check((name, spread(ratios)), ">= 0.5", ratios[1] >= 0.5);
        table.keep(&format!("mean_{members}"), ratios[1]);
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
