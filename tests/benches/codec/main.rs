//! What it costs to soften, encode and decode soft targets, beside copying the same bytes.
//!
//!   cargo bench -p retort-tests --bench codec -- [--quick]

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use retort_codec::{Encoding, Frame, decode_into, encode, soften};
use serde_json::{Map, Value, json};

const SHAPES: [(usize, usize); 3] = [(128, 100), (256, 1000), (32, 50_257)];
const ENCODINGS: [&str; 5] = ["f32", "f16", "bf16", "u8", "top-64"];
const TEMPERATURE: f32 = 3.0;

/// One operation on a block of rows, and the seconds that it took in each repeat.
struct Arm<'a> {
    name: String,
    encoding: Option<Encoding>,
    run: Box<dyn FnMut() + 'a>,
    times: Vec<f64>,
}

impl<'a> Arm<'a> {
    fn new(name: String, encoding: Option<Encoding>, run: impl FnMut() + 'a) -> Self {
        Self {
            name,
            encoding,
            run: Box::new(run),
            times: Vec::new(),
        }
    }

    /// Seconds per call, over at least `long`.
    fn measure(&mut self, long: Duration) {
        let start = Instant::now();
        let mut calls = 0;
        while start.elapsed() < long {
            (self.run)();
            calls += 1;
        }
        self.times.push(start.elapsed().as_secs_f64() / f64::from(calls));
    }

    /// Lower quartile, median and upper quartile of the GB/s for `bytes` per call.
    fn speeds(&self, bytes: usize) -> [f64; 3] {
        let mut speeds: Vec<f64> = self.times.iter().map(|time| bytes as f64 / time / 1e9).collect();
        speeds.sort_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| speeds[(speeds.len() - 1) * quarter / 4])
    }
}

fn main() -> anyhow::Result<()> {
    let quick = retort_tests::bench::quick()?;
    let mut figures = Map::new();
    figures.insert("quick".to_owned(), quick.into());
    for (rows, classes) in SHAPES {
        figures.insert(format!("{rows}x{classes}"), shape(rows, classes, quick)?);
    }
    println!("\nRESULT {}", json!({ "bench": "codec", "figures": figures }));
    Ok(())
}

fn shape(rows: usize, classes: usize, quick: bool) -> anyhow::Result<Value> {
    let (repeats, long) = if quick { (5, 2) } else { (21, 10) };
    let logits = logits(rows * classes);
    let mut log_probs = vec![0.0; logits.len()];
    soften(&logits, classes, TEMPERATURE, &mut log_probs);
    let input = size_of_val(log_probs.as_slice());

    let mut arms = arms(&logits, &log_probs, classes)?;
    // Alternated, so that whatever else the machine does meets all arms alike. The first round warms up.
    for _ in 0..=repeats {
        for arm in &mut arms {
            arm.measure(Duration::from_millis(long));
        }
    }
    for arm in &mut arms {
        arm.times.remove(0);
    }

    println!("\n{rows} rows of {classes} classes, GB/s of f32, median of {repeats} (quartiles)");
    let baseline = arms[0].speeds(input)[1];
    let mut figures = Map::new();
    for arm in &arms {
        let [low, median, high] = arm.speeds(input);
        let row = arm.encoding.map(|encoding| encoding.row_len(classes));
        println!(
            "  {:<16} {median:>8.2}  {:<18} {:>5.2} x memcpy  {}",
            arm.name,
            format!("({low:.2} to {high:.2})"),
            median / baseline,
            row.map_or(String::new(), |bytes| format!("{bytes:>7} bytes per row")),
        );
        let figure = json!({ "gb_per_s": median, "quartiles": [low, high], "row_bytes": row });
        figures.insert(arm.name.clone(), figure);
    }
    Ok(figures.into())
}

fn arms<'a>(logits: &'a [f32], log_probs: &'a [f32], classes: usize) -> anyhow::Result<Vec<Arm<'a>>> {
    let mut copy = vec![0.0; log_probs.len()];
    let mut soft = copy.clone();
    let mut arms = vec![
        Arm::new("memcpy".to_owned(), None, move || {
            copy.copy_from_slice(black_box(log_probs));
            black_box(&copy);
        }),
        Arm::new("soften".to_owned(), None, move || {
            soften(black_box(logits), classes, TEMPERATURE, &mut soft);
            black_box(&soft);
        }),
    ];
    for name in ENCODINGS {
        let encoding: Encoding = name.parse()?;
        let mut bytes = Vec::new();
        encode(log_probs, classes, TEMPERATURE, encoding, &mut bytes);
        let mut frame = Frame::default();
        decode_into(&bytes, &mut frame)?;
        let encoded = bytes.clone();
        arms.push(Arm::new(format!("encode {name}"), Some(encoding), move || {
            bytes.clear();
            encode(black_box(log_probs), classes, TEMPERATURE, encoding, &mut bytes);
            black_box(&bytes);
        }));
        arms.push(Arm::new(format!("decode {name}"), Some(encoding), move || {
            decode_into(black_box(&encoded), &mut frame).expect("it was decoded before");
            black_box(&frame);
        }));
    }
    Ok(arms)
}

/// Roughly normal, with a deviation of about 4.
fn logits(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count)
        .map(|_| (0..4).map(|_| uniform() - 0.5).sum::<f32>() * 7.0)
        .collect()
}
