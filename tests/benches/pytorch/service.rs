//! How soon a run trains, and what a worker's memory is.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use retort_tests::bench::Table;
use retort_tests::{Harness, eventually, processes};
use serde_json::Value;

use crate::Options;
use crate::steps::{quartiles, spread};

const LIMIT: Duration = Duration::from_secs(120);
const ONLINE: &str = include_str!("../../../examples/digits-online.toml");
/// What a worker may need beside the model and its optimizer.
const MORE_MB: f64 = 150.0;

pub(crate) fn run(table: &mut Table, options: &Options) -> anyhow::Result<()> {
    let turns = if options.quick { 3 } else { 7 };
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let mut measured = Vec::new();
    for device in options.devices.iter().map(ToString::to_string) {
        let mut seconds = Vec::new();
        for turn in 0..turns {
            seconds.push(first_step(&h, &format!("{device}-{turn}"), &device)?.0);
        }
        let (_, resident) = first_step(&h, &format!("{device}-memory"), &device)?;
        // Small models: all of it is the process.
        let megabytes = resident.context("a worker's memory")? as f64 / 1024.0;
        measured.push((device, quartiles(seconds), megabytes));
    }
    table.head("Local runs of examples/digits-online.toml, model and optimizer below 1 MB");
    // A worker on flex in a program with LibTorch is what a process holds that has loaded LibTorch and not used it.
    let flex = measured.iter().find(|(device, ..)| device == "flex");
    let idle = flex
        .map(|(.., megabytes)| *megabytes)
        .filter(|_| cfg!(feature = "libtorch"));
    for (device, seconds, megabytes) in measured {
        let (device, beyond) = match idle {
            Some(_) if device == "flex" => ("flex with LibTorch idle".to_owned(), None),
            Some(idle) => (device, Some(megabytes - idle)),
            None => (device, Some(megabytes)),
        };
        table.keep(&format!("first_step_{device}_s"), seconds[1]);
        table.keep(&format!("worker_{device}_mb"), megabytes);
        let name = format!("{device}, seconds from the command to the first step");
        table.check((name, spread(seconds)), "<= 2", seconds[1] <= 2.0);
        let name = format!("{device}, MB that a worker holds");
        match beyond {
            Some(beyond) => {
                let row = (name, format!("{megabytes:.0}, {beyond:.0} of its own"));
                table.check(row, "<= 150 of its own", beyond <= MORE_MB);
            }
            None => table.note(name, format!("{megabytes:.0}")),
        }
    }
    Ok(())
}

/// Seconds to the first step of a student, and the KiB that its workers hold at most when it ends.
fn first_step(h: &Harness, name: &str, device: &str) -> anyhow::Result<(f64, Option<u64>)> {
    let file = h.job("online.toml", ONLINE);
    let out = h.path(name);
    let file = file.to_str().context("a plain path")?;
    let devices = [
        format!("teachers.0.device=\"{device}\""),
        format!("students.0.device=\"{device}\""),
    ];
    let began = Instant::now();
    let running = h.start(&[
        "run",
        file,
        "--out",
        out.to_str().context("a plain path")?,
        "--json",
        "--set",
        &devices[0],
        "--set",
        &devices[1],
    ]);
    let mut resident = None;
    let stepped = || -> Option<f64> {
        let (_, _, address) = processes(&out, "coordinator").into_iter().next()?;
        let output = h.call(&["status", "--json", "--coordinator", &address]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let mut groups = status["groups"].as_array()?.iter();
        let student = groups.find(|g| g["kind"] == "student")?;
        (student["steps"].as_u64()? > 0).then(|| began.elapsed().as_secs_f64())
    };
    let seconds = eventually("a step", LIMIT, stepped)?;
    let _ = eventually("the end", Duration::from_secs(2), || {
        let held = processes(&out, "student-worker");
        resident = resident.max(held.iter().filter_map(|(_, pid, _)| resident_kib(*pid)).max());
        None::<()>
    });
    drop(running);
    Ok((seconds, resident))
}

fn resident_kib(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(Path::new(&path)).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
