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
const VALIDATION: usize = 512;
const SAMPLES: usize = 60_000 - VALIDATION;

/// Held-out parts are small: what is compared is training. What the student costs is a fifth of what its teacher does.
const JOB: &str = r#"
[run]
name = "NAME"
epochs = 1
batch_size = 128
baseline = false
[dataset]
name = "fashion-mnist"
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

struct Fleet<'a> {
    folder: &'a TempDir,
    device: String,
}

impl Fleet<'_> {
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

pub(crate) fn run(table: &mut Table, options: &Options, mut python: Option<&mut Arm>) -> anyhow::Result<()> {
    if !Path::new(DATA).is_dir() {
        table.head("Epochs: skipped, they need the package dataset-fashion-mnist");
        return Ok(());
    }
    let turns = if options.quick { 3 } else { 7 };
    let folder = tempfile::tempdir()?;
    let device = options.devices.last().context("a device")?.to_string();
    let fleet = Fleet {
        folder: &folder,
        device: device.clone(),
    };
    fleet.epoch("teacher", ONLINE, false)?;
    // What is recorded once is replayed by all turns.
    fleet.epoch("recorded", &fleet.fixed(true), true)?;
    let mut times: [Vec<f64>; 6] = Default::default();
    let [replayed, served, online, loop_offline, loop_online, service] = &mut times;
    for _ in 0..turns {
        replayed.push(fleet.epoch("replayed", &fleet.fixed(true), true)?);
        served.push(fleet.epoch("served", &fleet.fixed(false), true)?);
        online.push(fleet.epoch("online", ONLINE, true)?);
        if let Some(python) = python.as_deref_mut() {
            loop_offline.push(python_epoch(python, false)?);
            loop_online.push(python_epoch(python, true)?);
            service.push(python_service(options.threads)?);
        }
    }
    table.head(&format!(
        "Epochs of {SAMPLES} Fashion-MNIST samples, student 784-800-800-10, teacher 784-2160-2160-10, {} cores for all; ours on {device}: seconds, median (quartiles) of {turns}",
        options.threads
    ));
    let rows = [
        ("ours, soft targets replayed", "replayed"),
        ("ours, teacher server on the same cores", "served"),
        ("ours, teacher learns too", "online"),
        ("PyTorch, teacher in process", "pytorch_offline"),
        ("PyTorch, teacher learns too", "pytorch_online"),
        ("plain gRPC service of PyTorch processes", "pytorch_service"),
    ];
    for ((name, key), times) in rows.into_iter().zip(&times).filter(|(_, t)| !t.is_empty()) {
        let [low, middle, high] = quartiles(times.clone());
        table.note(name, spread([low, middle, high]));
        table.keep(&format!("epoch_{key}_s"), middle);
    }
    let [replayed, served, online, loop_offline, loop_online, service] = &times;
    if service.is_empty() {
        return Ok(());
    }
    let mut ratio =
        |name: &str, key: &str, (theirs, ours): (&[f64], &[f64]), bound: Option<(&'static str, f64)>| {
            let ratios = theirs.iter().zip(ours).map(|(t, o)| t / o).collect();
            let [low, middle, high] = quartiles(ratios);
            table.keep(key, middle);
            let text = spread([low, middle, high]);
            match bound {
                Some((bound, least)) => table.check((name.to_owned(), text), bound, middle >= least),
                None => table.note(name, text),
            }
        };
    let two = Some((">= 2.0", 2.0));
    ratio(
        "replayed / PyTorch's loop, speed",
        "replayed_of_loop",
        (loop_offline, replayed),
        two,
    );
    ratio(
        "served / PyTorch's loop, speed",
        "served_of_loop",
        (loop_offline, served),
        None,
    );
    ratio(
        "online / PyTorch doing the same in turn, speed",
        "online_of_loop",
        (loop_online, online),
        Some((">= 1.0", 1.0)),
    );
    ratio(
        "replayed / plain gRPC service, speed",
        "replayed_of_service",
        (service, replayed),
        two,
    );
    ratio(
        "served / plain gRPC service, speed",
        "served_of_service",
        (service, served),
        None,
    );
    Ok(())
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
