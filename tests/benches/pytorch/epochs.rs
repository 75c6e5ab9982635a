//! Epochs over Fashion-MNIST: `retort run` with its processes beside PyTorch's loop in one process and beside a plain
//! service of Python processes, on the same cores.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use retort_tests::bench::Table;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Options;
use crate::python::Arm;
use crate::steps::{ALPHA, BATCH, TEMPERATURE, median, quartiles, spread};

const DATA: &str = "/usr/share/datasets/fashion-mnist";
/// A third of an epoch: 160 steps, long beside what starts and ends them.
const SAMPLES: usize = 20_480;

/// Held-out parts are small: what is compared is training. What the student costs is a fifth of what its teacher does.
const JOB: &str = r#"
[run]
name = "NAME"
epochs = 1
batch_size = 128
baseline = false
[dataset]
name = "fashion-mnist"
train = 20480
validation = 512
test = 1000
[distillation]
temperature = 4.0
alpha = 0.9
gate = "none"
[sync]
every = 100
"#;

const STUDENT: &str = r#"
[[students]]
name = "small"
model = { architecture = "mlp", hidden = [800, 800] }
device = "DEVICE"
teachers = [{ name = "wide" }]
"#;

const ONLINE: &str = r#"
[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [2160, 2160] }
device = "DEVICE"
source = { kind = "trained", publish_every = 200 }
"#;

struct Fleet {
    folder: TempDir,
    device: String,
}

impl Fleet {
    /// Seconds of an epoch, from the first lease to the last manifest.
    fn epoch(&self, name: &str, teacher: &str, student: bool) -> anyhow::Result<f64> {
        let student = if student { STUDENT } else { "" };
        let job = format!("{JOB}{teacher}{student}")
            .replace("NAME", name)
            .replace("DEVICE", &self.device);
        let path = self.folder.path();
        std::fs::write(path.join(format!("{name}.toml")), job)?;
        let _ = std::fs::remove_dir_all(path.join(name)); // of the turn before
        let output = Command::new(env!("CARGO_BIN_EXE_retort-harness"))
            .current_dir(path)
            .env("XDG_STATE_HOME", path)
            .args(["run", &format!("{name}.toml"), "--out", name, "--json"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{name}: {said}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let rate = report["throughput"]["samples_per_s"].as_f64();
        Ok(rate.map_or(0.0, |rate| SAMPLES as f64 / rate))
    }

    fn fixed(&self, store: bool) -> String {
        let store = if store { ", store = \"soft-targets\"" } else { "" };
        format!(
            "\n[[teachers]]\nname = \"wide\"\ndevice = \"DEVICE\"\nsource = {{ kind = \"checkpoint\", path = \"teacher/teachers/wide\"{store} }}\n"
        )
    }
}

/// Seconds by turn of what the service and PyTorch did.
#[derive(Default)]
struct Times {
    replayed: Vec<f64>,
    served: Vec<f64>,
    online: Vec<f64>,
}

pub(crate) fn run(table: &mut Table, options: &Options, mut python: Option<&mut Arm>) -> anyhow::Result<()> {
    if !Path::new(DATA).is_dir() {
        table.head("Epochs: skipped, they need the package dataset-fashion-mnist");
        return Ok(());
    }
    let turns = if options.quick { 3 } else { 7 };
    let mut fleets = Vec::new();
    for device in &options.devices {
        let fleet = Fleet {
            folder: tempfile::tempdir()?,
            device: device.to_string(),
        };
        fleet.epoch("teacher", ONLINE, false)?;
        // What is recorded once is replayed by all turns.
        fleet.epoch("recorded", &fleet.fixed(true), true)?;
        fleets.push((fleet, Times::default()));
    }
    let (mut loops, mut service) = (Times::default(), Vec::new());
    for _ in 0..turns {
        for (fleet, times) in &mut fleets {
            times
                .replayed
                .push(fleet.epoch("replayed", &fleet.fixed(true), true)?);
            times
                .served
                .push(fleet.epoch("served", &fleet.fixed(false), true)?);
            times.online.push(fleet.epoch("online", ONLINE, true)?);
        }
        if let Some(python) = python.as_deref_mut() {
            loops.served.push(python_epoch(python, false)?);
            loops.online.push(python_epoch(python, true)?);
            service.push(python_service(options.threads)?);
        }
    }
    table.head(&format!(
        "Epochs of {SAMPLES} Fashion-MNIST samples, student 784-800-800-10, teacher 784-2160-2160-10, {} cores for all: seconds, median (quartiles) of {turns}",
        options.threads
    ));
    for (fleet, times) in &fleets {
        let device = &fleet.device;
        seconds(
            table,
            &format!("{device}, soft targets replayed"),
            &format!("replayed_{device}"),
            &times.replayed,
        );
        seconds(
            table,
            &format!("{device}, teacher server on the same cores"),
            &format!("served_{device}"),
            &times.served,
        );
        seconds(
            table,
            &format!("{device}, teacher learns too"),
            &format!("online_{device}"),
            &times.online,
        );
    }
    if service.is_empty() {
        return Ok(());
    }
    seconds(
        table,
        "PyTorch, teacher in process",
        "pytorch_offline",
        &loops.served,
    );
    seconds(
        table,
        "PyTorch, teacher learns too",
        "pytorch_online",
        &loops.online,
    );
    seconds(
        table,
        "plain gRPC service of PyTorch processes",
        "pytorch_service",
        &service,
    );
    table.head("How many times as fast as PyTorch");
    let (two, one) = (Some((">= 2.0", 2.0)), Some((">= 1.0", 1.0)));
    for (fleet, times) in &fleets {
        let mut row = |ours: &str, times: &[f64], theirs: &str, others: &[f64], bound| {
            speed(
                table,
                &format!("{}, {ours}", fleet.device),
                theirs,
                (others, times),
                bound,
            );
        };
        row(
            "replayed",
            &times.replayed,
            "loop, teacher in process",
            &loops.served,
            two,
        );
        row(
            "served",
            &times.served,
            "loop, teacher in process",
            &loops.served,
            None,
        );
        row(
            "teacher learns too",
            &times.online,
            "loop that does the same in turn",
            &loops.online,
            one,
        );
        row("replayed", &times.replayed, "plain gRPC service", &service, two);
        row("served", &times.served, "plain gRPC service", &service, None);
    }
    Ok(())
}

fn seconds(table: &mut Table, name: &str, key: &str, times: &[f64]) {
    let figures = quartiles(times.to_vec());
    table.note(name, spread(figures));
    table.keep(&format!("epoch_{key}_s"), figures[1]);
}

/// Pairs of one turn.
fn speed(
    table: &mut Table,
    ours: &str,
    theirs: &str,
    (others, times): (&[f64], &[f64]),
    bound: Option<(&'static str, f64)>,
) {
    let ratios = others
        .iter()
        .zip(times)
        .map(|(theirs, ours)| theirs / ours)
        .collect();
    let figures = quartiles(ratios);
    let name = format!("{ours} / {theirs}");
    table.keep(&format!("speed: {name}"), figures[1]);
    match bound {
        Some((text, least)) => table.check((name, spread(figures)), text, figures[1] >= least),
        None => table.note(name, spread(figures)),
    }
}

fn python_epoch(python: &mut Arm, online: bool) -> anyhow::Result<f64> {
    let question = json!({
        "do": "epoch", "student": "mlp-800", "teacher": "mlp-teacher", "samples": SAMPLES, "batch": BATCH,
        "temperature": TEMPERATURE, "alpha": ALPHA, "online": online
    });
    Ok(median(python.seconds(&question)?))
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python_service(threads: usize) -> anyhow::Result<f64> {
    let start = |args: &[&str]| -> anyhow::Result<Process> {
        let child = Command::new(crate::interpreter())
            .arg(crate::script("service.py"))
            .args(args)
            .args(["--threads", &threads.to_string()])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Process(child))
    };
    let line = |process: &mut Process| -> anyhow::Result<String> {
        let mut line = String::new();
        BufReader::new(process.0.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
        Ok(line)
    };
    let mut teacher = start(&["teacher", "--model", "mlp-teacher", "--port", "0"])?;
    let ready = line(&mut teacher)?;
    let port = ready.split_whitespace().last().context("a port")?;
    let (samples, batch) = (SAMPLES.to_string(), BATCH.to_string());
    let mut student = start(&[
        "student",
        "--model",
        "mlp-800",
        "--teacher",
        &format!("127.0.0.1:{port}"),
        "--samples",
        &samples,
        "--batch",
        &batch,
        "--epochs",
        "1",
        "--prefetch",
        "4",
    ])?;
    let said: Value = serde_json::from_str(&line(&mut student)?)?;
    said["seconds_per_epoch"][0].as_f64().context("seconds")
}
