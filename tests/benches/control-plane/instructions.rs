//! Instructions of the core per lease and contribution, counted by callgrind: they do not depend on
//! what else the machine does.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::fleet::{Fleet, What};
use retort_tests::bench::Table;

pub(crate) const PART: &str = "--instructions";
/// Most instructions of one pair.
const BOUND: u64 = 10_000;

/// The counted program: `WORKERS SAMPLES ROUNDS pairs|all`.
pub(crate) fn part(args: &[&str]) -> anyhow::Result<()> {
    let [workers, samples, rounds, what] = args else {
        anyhow::bail!("{PART} WORKERS SAMPLES ROUNDS pairs|all");
    };
    let what = if *what == "pairs" { What::Pairs } else { What::All };
    let mut fleet = Fleet::new(workers.parse()?, samples.parse()?, what)?;
    let mut pairs = 0;
    for _ in 0..rounds.parse()? {
        pairs += fleet.round()?;
    }
    println!("{pairs}");
    Ok(())
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    table
        .head("Instructions of the core per lease + contribution, with their share of the round (callgrind)");
    if Command::new("valgrind").arg("--version").output().is_err() {
        table.note("valgrind is not installed", "skipped");
        return Ok(());
    }
    let million = 1_000_000;
    let fleets = [
        (10, 1_000 * million),
        (1_000, 10 * million),
        (1_000, 100 * million),
        (1_000, 1_000 * million),
        (10_000, 1_000 * million),
    ];
    let mut kept = Vec::new();
    for (workers, samples) in fleets {
        if quick && workers == 10_000 {
            continue;
        }
        // Twenty rounds hold two versions.
        let rounds = (20_000 / workers).max(20);
        let pair = per_pair(workers, samples, rounds, "pairs")?;
        let all = per_pair(workers, samples, rounds, "all")?;
        let name = format!("{workers} workers, {} million samples", samples / million);
        table.check((name, pair.to_string()), "<= 10000", pair <= BOUND);
        table.note("    with versions and the journal's records", all.to_string());
        kept.push(json!({ "workers": workers, "samples": samples, "pair": pair, "all": all }));
    }
    table.keep("instructions", kept);
    Ok(())
}

/// The difference between two lengths of a run: starting costs nothing.
fn per_pair(workers: u64, samples: u64, rounds: u64, what: &str) -> anyhow::Result<u64> {
    let less = count(workers, samples, rounds, what)?;
    let more = count(workers, samples, 2 * rounds, what)?;
    ensure!(more.1 > less.1, "no pairs were made");
    Ok((more.0 - less.0) / (more.1 - less.1))
}

/// Instructions and pairs of one run of [`part`].
fn count(workers: u64, samples: u64, rounds: u64, what: &str) -> anyhow::Result<(u64, u64)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .arg(PART)
        .args([workers, samples, rounds].map(|n| n.to_string()))
        .arg(what)
        .output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {report}");
    let collected = report.lines().find_map(|l| l.split("Collected : ").nth(1));
    let instructions = collected.context("callgrind printed no count")?.trim().parse()?;
    let pairs = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok((instructions, pairs))
}
