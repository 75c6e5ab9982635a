//! A local run under fire: a random one of its processes is killed again and again.
//!
//! `cargo run --release -p retort-tests --bin chaos -- JOB.toml --out DIR [--every SECONDS] [--seed N]
//! [--for SECONDS] [-- ARGS OF retort run]`
//!
//! With `--for` the run is stopped in order after that time (a soak); else it goes on to its end.
//! Prints one line a kill, and last `RESULT {json}` with the ledger, the audit, and how much memory the
//! processes of each kind held in the first half of the time and in the second.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use retort_tests::{processes, signal};
use rustix::process::Signal;
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(100);
const ROLES: [&str; 3] = ["coordinator", "teacher-server", "student-worker"];

struct Options {
    job: PathBuf,
    out: PathBuf,
    every: Duration,
    seed: u64,
    limit: Option<Duration>,
    more: Vec<String>,
}

fn main() -> ExitCode {
    let result = options().and_then(|o| fire(&o));
    match result {
        Ok(code) => code,
        Err(e) => {
            say(&format!("error: {e:#}"));
            ExitCode::from(2)
        }
    }
}

fn options() -> anyhow::Result<Options> {
    let mut args = std::env::args().skip(1);
    let mut o = Options {
        job: PathBuf::new(),
        out: PathBuf::new(),
        every: Duration::from_secs(20),
        seed: 1,
        limit: None,
        more: Vec::new(),
    };
    while let Some(arg) = args.next() {
        if arg == "--" {
            o.more = args.by_ref().collect();
            break;
        }
        if !arg.starts_with("--") {
            o.job = arg.into();
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} wants a value"))?;
        let seconds = || {
            value
                .parse()
                .map(Duration::from_secs_f64)
                .with_context(|| arg.clone())
        };
        match arg.as_str() {
            "--out" => o.out = value.into(),
            "--every" => o.every = seconds()?,
            "--for" => o.limit = Some(seconds()?),
            "--seed" => o.seed = value.parse().with_context(|| arg.clone())?,
            _ => bail!("unknown argument {arg}"),
        }
    }
    ensure!(
        !o.job.as_os_str().is_empty(),
        "which job? chaos JOB.toml --out DIR"
    );
    ensure!(!o.out.as_os_str().is_empty(), "--out DIR is required");
    Ok(o)
}

fn fire(o: &Options) -> anyhow::Result<ExitCode> {
    // The harness program lies beside this one and is `retort`.
    let program = std::env::current_exe()?.with_file_name("retort-harness");
    let began = Instant::now();
    let mut run = Command::new(&program)
        .arg("run")
        .arg(&o.job)
        .args(["--json", "--out"])
        .arg(&o.out)
        .args(&o.more)
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut kills = [0u64; 3];
    let mut state = o.seed;
    let mut next = began + o.every;
    let mut memory: Vec<[u64; 4]> = Vec::new();
    let mut asked_to_stop = false;
    let status = loop {
        if let Some(status) = run.try_wait()? {
            break status;
        }
        std::thread::sleep(POLL);
        if !asked_to_stop && o.limit.is_some_and(|limit| began.elapsed() >= limit) {
            asked_to_stop = true;
            signal(run.id(), Signal::INT)?;
        }
        if asked_to_stop || Instant::now() < next {
            continue;
        }
        next += o.every;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 33) as usize % ROLES.len();
        let candidates = processes(&o.out, ROLES[at]);
        let Some((name, pid, _)) = candidates.get((state >> 40) as usize % candidates.len().max(1)) else {
            continue;
        };
        let held = resident(&o.out, run.id());
        if signal(*pid, Signal::KILL).is_ok() {
            kills[at] += 1;
            say(&format!(
                "{:7.1} s  killed {name}; KiB of coordinator, teacher servers, workers, supervisor: {held:?}",
                began.elapsed().as_secs_f64()
            ));
        }
        memory.push(held);
    };
    report(o, &program, (status.code(), began.elapsed()), (&kills, &memory))
}

fn report(
    o: &Options,
    program: &Path,
    (code, took): (Option<i32>, Duration),
    (kills, memory): (&[u64; 3], &[[u64; 4]]),
) -> anyhow::Result<ExitCode> {
    let audit = Command::new(program).arg("audit").arg(&o.out).output()?;
    let report = std::fs::read_to_string(o.out.join("report.json")).unwrap_or_default();
    let report: Value = serde_json::from_str(&report).unwrap_or(Value::Null);
    let ledger = report["ledger"].clone();
    let count = |key: &str| ledger[key].as_f64().unwrap_or(0.0);
    let useful = count("committed");
    let all = useful + count("redelivered") + count("rolled_back");
    let half = memory.len() / 2;
    // A process that is starting again holds little: the median is of those at work.
    let median = |part: &[[u64; 4]], kind: usize| {
        let mut held: Vec<u64> = part.iter().map(|m| m[kind]).collect();
        held.sort_unstable();
        held.get(held.len() / 2).copied()
    };
    let halves = |kind: usize| json!([median(&memory[..half], kind), median(&memory[half..], kind)]);
    let result = json!({
        "exit": code,
        "seconds": took.as_secs_f64(),
        "kills": { ROLES[0]: kills[0], ROLES[1]: kills[1], ROLES[2]: kills[2] },
        "ledger": ledger,
        "goodput_samples": if all > 0.0 { Some(useful / all) } else { None },
        "student_accuracy": report["students"][0]["test_accuracy"]["mean"],
        "resident_kib_by_half": {
            ROLES[0]: halves(0), ROLES[1]: halves(1), ROLES[2]: halves(2), "supervisor": halves(3)
        },
        "audit_passed": audit.status.success(),
    });
    say(&format!("RESULT {result}"));
    let expected = if o.limit.is_some() { Some(130) } else { Some(0) };
    Ok(if code == expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Resident memory in KiB: all processes of each role, and the supervisor.
fn resident(out: &Path, supervisor: u32) -> [u64; 4] {
    let of = |pid: u32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let role = |role| {
        let found = processes(out, role);
        found.iter().filter_map(|(_, pid, _)| of(*pid)).sum()
    };
    let [coordinator, servers, workers] = ROLES.map(role);
    [coordinator, servers, workers, of(supervisor).unwrap_or(0)]
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn say(text: &str) {
    println!("{text}");
}
