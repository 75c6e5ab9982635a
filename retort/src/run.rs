//! `retort run` and `retort quickstart`: a local fleet, one run for each seed, a report.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args as ClapArgs;
use retort_data::TOKENIZER_FILE;
use retort_runtime::logging::Format;
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{self, Checked};
use crate::collect::{self, Finished};
use crate::failure::{Failure, block_on, patiently};
use crate::fleet::{Fleet, PROCESSES, Plan};
use crate::follow;
use crate::status;
use crate::submit;

/// What `--resume` needs beside the job: the seeds of the run.
const SEEDS: &str = "seeds.json";
/// The job as its processes get it.
const JOB: &str = "job.toml";
/// Longest orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Seeds of the quickstart: enough for an interval, few enough for two minutes.
const QUICKSTART_SEEDS: u32 = 5;
/// The quickstart's job: few labels, many unlabelled samples.
const QUICKSTART_JOB: &str = include_str!("../../examples/digits-online.toml");

/// Where a run's results go.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Output {
    /// Folder for report, models, checkpoints and logs; must be empty or absent, or hold a run to
    /// `--resume`.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run in the folder, from its newest checkpoints.
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    /// Print the report as JSON on stdout, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
    /// Repeat the run with this many seeds, counted up from the job's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) seeds: Option<u32>,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// The job file; with `--resume` the one stored in the folder may stand for it.
    #[arg(required_unless_present = "resume")]
    pub(crate) job: Option<PathBuf>,
    /// Change one key, such as students.0.replicas=4; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Also train each student alone with the same budget.
    #[arg(long)]
    pub(crate) baseline: bool,
}

pub(crate) fn quickstart(mut output: Output) -> Result<(), Failure> {
    output.seeds.get_or_insert(QUICKSTART_SEEDS);
    let name = Path::new("examples/digits-online.toml");
    let mut job = retort_job::parse(QUICKSTART_JOB, name, &[]).map_err(Failure::input)?;
    job.run.baseline = true;
    let checked = check::job_in(job, PathBuf::from("."), name)?;
    block_on(go(checked, output))
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let stored = args.output.out.as_ref().map(|out| out.join(JOB));
    let path = args.job.or(stored).unwrap_or_default();
    let mut job = retort_job::read(&path, &args.settings).map_err(Failure::input)?;
    job.run.baseline |= args.baseline;
    let base = path.parent().unwrap_or(Path::new(".")).to_owned();
    let checked = check::job_in(job, base, &path)?;
    block_on(go(checked, args.output))
}

async fn go(checked: Checked, output: Output) -> Result<(), Failure> {
    let began = Instant::now();
    check::say_bad_rows(&checked);
    let out = prepare(&output, &checked.job.run.name)?;
    let job_toml = submit::portable(&checked)?;
    let seeds = if output.resume {
        stored_seeds(&checked, &out, &job_toml)?
    } else {
        let seeds = seeds(&checked, output.seeds);
        let text = serde_json::to_string(&seeds).context("write seeds")?;
        let tokenizer = checked.dataset.tokenizer().map(|file| (TOKENIZER_FILE, file));
        let files = [(SEEDS, text.as_bytes()), (JOB, job_toml.as_bytes())];
        for (name, content) in files.into_iter().chain(tokenizer) {
            let path = out.join(name);
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        seeds
    };
    let local = Local {
        checked: &checked,
        job_toml: &job_toml,
        seeds: &seeds,
        out: &out,
        shown: true,
    };
    let finished = local.train().await?;
    let wall_s = began.elapsed().as_secs_f64();
    collect::finish(&checked, finished, (&out, wall_s), output.json)
}

/// One job over a fleet of its own, on this machine.
pub(crate) struct Local<'a> {
    pub(crate) checked: &'a Checked,
    /// The job as its processes get it.
    pub(crate) job_toml: &'a str,
    /// One run each.
    pub(crate) seeds: &'a [u64],
    /// An absolute folder: empty, or with runs that go on.
    pub(crate) out: &'a Path,
    /// Whether progress is shown.
    pub(crate) shown: bool,
}

impl Local<'_> {
    /// Starts the fleet, runs every seed to its end, and stops the fleet.
    pub(crate) async fn train(&self) -> Result<Vec<Finished>, Failure> {
        let plan = Plan {
            out: self.out.to_owned(),
            teacher_servers: teacher_servers(self.checked),
            student_workers: self
                .checked
                .job
                .groups()
                .iter()
                .map(|g| g.replicas as usize)
                .sum(),
            log_format: Format::Text,
        };
        let fleet = Fleet::start(plan).await.context("start the fleet")?;
        status::remember(&self.out.join(PROCESSES));
        if self.shown {
            follow::say_where(&fleet.dashboard);
        }
        let result = self.runs(&fleet).await;
        // In order whatever happened: the children write nothing after this.
        let stopped = fleet.stop().await;
        let finished = result?;
        stopped.context("stop the fleet")?;
        Ok(finished)
    }

    async fn runs(&self, fleet: &Fleet) -> Result<Vec<Finished>, Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
        let mut finished = Vec::new();
        for (i, seed) in self.seeds.iter().enumerate() {
            let wished = format!("{}-{seed}", self.checked.job.run.name);
            let submit =
                || submit::submit_run(&fleet.coordinator, self.checked, (self.job_toml, *seed), &wished);
            let run = tokio::select! {
                run = patiently(submit) => run?,
                () = fleet.lost.cancelled() => return Err(coordinator_lost(self.out)),
            };
            let title = format!(
                "{} (seed {seed}, {} of {})",
                self.checked.job.run.name,
                i + 1,
                self.seeds.len()
            );
            let follow = follow::to_end(&fleet.coordinator, &run, self.shown.then_some(title.as_str()));
            let ended = tokio::select! {
                ended = follow => ended,
                _ = interrupt.recv() => return Err(stop(fleet, &run).await),
                _ = terminate.recv() => return Err(stop(fleet, &run).await),
                () = fleet.lost.cancelled() => return Err(coordinator_lost(self.out)),
            };
            let ended = ended?;
            if ended.state == "stopped" {
                let text = format!(
                    "run {run} was stopped: go on with --resume --out {}",
                    self.out.display()
                );
                return Err(Failure::Run(anyhow::anyhow!(text)));
            }
            finished.push(collect::gather(&fleet.coordinator, self.checked, ended).await?);
        }
        Ok(finished)
    }
}

/// The seeds of the run in a folder, whose job must be the one it was started with.
fn stored_seeds(checked: &Checked, out: &Path, job_toml: &str) -> Result<Vec<u64>, Failure> {
    let read = |name: &str| {
        let path = out.join(name);
        std::fs::read_to_string(&path).map_err(|e| {
            Failure::input(format!(
                "--resume: {}: {e}; is it a run's folder?",
                path.display()
            ))
        })
    };
    if read(JOB)? != job_toml {
        return Err(Failure::input(format!(
            "--resume: {} is not the job that was given; a run goes on with the job it began with",
            out.join(JOB).display()
        )));
    }
    let text = read(SEEDS)?;
    let seeds: Vec<u64> = serde_json::from_str(&text)
        .map_err(|e| Failure::input(format!("--resume: {}: {e}", out.join(SEEDS).display())))?;
    if seeds.is_empty() {
        return Ok(self::seeds(checked, None));
    }
    Ok(seeds)
}

fn coordinator_lost(out: &Path) -> Failure {
    let log = out.join("logs/coordinator.log");
    Failure::Run(anyhow::anyhow!(
        "the coordinator does not stay up: see {}; go on with --resume --out {}",
        log.display(),
        out.display()
    ))
}

/// Stops the run in order: replicas contribute, the merged state is published.
async fn stop(fleet: &Fleet, run: &str) -> Failure {
    let stopped = async {
        patiently(|| submit::stop_run(&fleet.coordinator, run, "interrupted")).await?;
        follow::until_ended(&fleet.coordinator, run).await
    };
    match tokio::time::timeout(STOP_LIMIT, stopped).await {
        Ok(Ok(())) => Failure::Interrupted,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Run(anyhow::anyhow!("the run did not stop within {STOP_LIMIT:?}")),
    }
}

fn seeds(checked: &Checked, count: Option<u32>) -> Vec<u64> {
    (0..u64::from(count.unwrap_or(1)))
        .map(|i| checked.job.run.seed + i)
        .collect()
}

fn teacher_servers(checked: &Checked) -> usize {
    let groups = checked.job.groups();
    let learns = |stream: &retort_job::Stream| {
        let mut learners = groups.iter().flat_map(|g| &g.teachers);
        learners.any(|m| m.name == stream.name)
    };
    let served = checked.job.streams().into_iter().filter(learns);
    served.map(|s| s.replicas as usize).sum()
}

/// The output folder: the one asked for, or a new one below `retort-runs`.
fn prepare(output: &Output, name: &str) -> Result<PathBuf, Failure> {
    let out = match &output.out {
        Some(out) => out.clone(),
        None => {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            let stamp: String = now.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            PathBuf::from("retort-runs").join(format!("{name}-{stamp}"))
        }
    };
    let taken = std::fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !output.resume {
        return Err(Failure::input(format!(
            "--out {}: expected an empty or absent folder; --resume goes on with the run in it",
            out.display()
        )));
    }
    std::fs::create_dir_all(&out).map_err(|e| Failure::input(format!("--out {}: {e}", out.display())))?;
    std::path::absolute(&out).map_err(|e| Failure::input(format!("--out {}: {e}", out.display())))
}
