//! A student that learns from a teacher server, beside the same student without a teacher: real
//! processes, Fashion-MNIST.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use retort_tests::bench::Table;
use serde_json::Value;

use crate::ready::spread;

const DATA: &str = "/usr/share/datasets/fashion-mnist";
/// Paddle EDL's published ratio for ResNet50_vd with ResNeXt101 teachers on other machines (its README).
const EDL: &str = "0.83 (student on 8 V100, teachers on 40 P4)";

/// One student and the held-out split kept small: what is compared is training.
const JOB: &str = r#"
[run]
name = "NAME"
epochs = EPOCHS
batch_size = 128
baseline = false
[dataset]
name = "fashion-mnist"
validation = 512
test = 1000
"#;

const STUDENT: &str = r#"
[[students]]
name = "small"
model = { architecture = "mlp", hidden = [256, 128] }
teachers = [TEACHERS]
[sync]
every = 100
"#;

const TEACHER: &str = r#"
[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [512, 512] }
source = { kind = "trained", publish_every = 200 }
"#;

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    if !Path::new(DATA).is_dir() {
        table.head(
            "Students with and without a teacher: skipped, they need the package dataset-fashion-mnist",
        );
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (turns, epochs) = if quick { (3, 2) } else { (7, 8) };
    let run = |name: &str, text: String| -> anyhow::Result<Value> {
        let file = folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, text)?;
        let out = folder.path().join(name);
        let _ = std::fs::remove_dir_all(&out); // of the turn before
        let output = Command::new(env!("CARGO_BIN_EXE_retort-harness"))
            .current_dir(folder.path())
            .env("XDG_STATE_HOME", folder.path())
            .args(["run", &format!("{name}.toml"), "--out", name, "--json"])
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let job = |name: &str, epochs: u32| JOB.replace("NAME", name).replace("EPOCHS", &epochs.to_string());
    run("teacher", job("teacher", 1) + TEACHER)?;
    let taught = |name: &str, store: &str| {
        let teacher = format!(
            "\n[[teachers]]\nname = \"wide\"\nsource = {{ kind = \"checkpoint\", path = \"teacher/teachers/wide\"{store} }}\n"
        );
        job(name, epochs) + &teacher + &STUDENT.replace("TEACHERS", "{ name = \"wide\" }")
    };
    let store = ", store = \"soft-targets\"";
    // What is recorded once is replayed by all turns.
    run("recorded", taught("recorded", store))?;
    let rate = |report: Value| report["throughput"]["samples_per_s"].as_f64().context("a rate");
    let (mut alone, mut replayed, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        alone.push(rate(run(
            "alone",
            job("alone", epochs) + &STUDENT.replace("TEACHERS", ""),
        )?)?);
        replayed.push(rate(run("replayed", taught("replayed", store))?)?);
        served.push(rate(run("served", taught("served", ""))?)?);
    }
    let cores = std::thread::available_parallelism()?;
    table.head(&format!(
        "Student 784-256-128-10 on Fashion-MNIST, {cores} cores for all roles: samples/s over {epochs} epochs, median of {turns}"
    ));
    // Pairs of one turn: the machine changes between turns.
    let ratios = |with: &[f64]| -> Vec<f64> { with.iter().zip(&alone).map(|(w, a)| w / a).collect() };
    table.note("without a teacher", spread(&alone).1);
    table.note("soft targets replayed from the store", spread(&replayed).1);
    table.note("teacher 784-512-512-10 on the same cores", spread(&served).1);
    let (ratio, text) = spread(&ratios(&replayed));
    table.check(("ratio, replayed".into(), text), ">= 0.95", ratio >= 0.95);
    let (on_same_cores, text) = spread(&ratios(&served));
    table.note("ratio, teacher on the same cores", text);
    table.note("for scale: Paddle EDL, teachers on machines of their own", EDL);
    table.keep("student_replayed", ratio);
    table.keep("student_same_cores", on_same_cores);
    Ok(())
}
