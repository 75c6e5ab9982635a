//! Memory of the core in the middle of an epoch of a billion samples with ten thousand workers.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::fleet::{Fleet, What};
use retort_tests::bench::Table;

pub(crate) const PART: &str = "--memory";
const MIB: f64 = 1024.0 * 1024.0;

/// The measured process: `WORKERS SAMPLES`. Half of an epoch, then what it takes.
pub(crate) fn part(args: &[&str]) -> anyhow::Result<()> {
    let [workers, samples] = args else {
        anyhow::bail!("{PART} WORKERS SAMPLES");
    };
    let samples: u64 = samples.parse()?;
    let mut fleet = Fleet::new(workers.parse()?, samples, What::Kept)?;
    let mut largest = 0;
    while fleet.run.groups()[0].positions < samples / 2 {
        fleet.round()?;
        largest = largest.max(fleet.record_bytes()?);
    }
    ensure!(fleet.run.members().count() == fleet.workers(), "a session ended");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: u64 = peak
        .and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("/proc/self/status names no VmHWM")?;
    println!(r#"{{"resident": {}, "records": {largest}}}"#, kib * 1024);
    Ok(())
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let (workers, samples) = if quick {
        (1_000, 100_000_000_u64)
    } else {
        (10_000, 1_000_000_000)
    };
    table.head(&format!(
        "Memory: {workers} workers, {} million samples, half an epoch",
        samples / 1_000_000
    ));
    let output = Command::new(std::env::current_exe()?)
        .arg(PART)
        .args([workers.to_string(), samples.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{text}");
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    for (key, name, most, bound) in [
        ("resident", "peak resident memory", 1024.0, "< 1 GiB"),
        ("records", "largest snapshot (all records)", 50.0, "< 50 MiB"),
    ] {
        let mib = figures[key].as_f64().context("a number")? / MIB;
        table.check((name.to_owned(), format!("{mib:.1} MiB")), bound, mib < most);
        table.keep(&format!("{key}_bytes"), figures[key].clone());
    }
    Ok(())
}
