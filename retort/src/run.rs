//! `retort run` and `retort quickstart`: a local fleet, one run for each seed, a report.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args as ClapArgs;
use retort_runtime::logging::Format;
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{self, Checked};
use crate::cli::JobArgs;
use crate::collect::{self, Finished};
use crate::failure::{Failure, block_on};
use crate::fleet::{Fleet, PROCESSES, Plan};
use crate::follow;
use crate::status;
use crate::submit;

/// How long after a broken stream the coordinator's death may be noticed.
const LOST_GRACE: Duration = Duration::from_secs(1);
/// Longest orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Seeds of the quickstart: enough for an interval, few enough for two minutes.
const QUICKSTART_SEEDS: u32 = 5;
/// The quickstart's job: few labels, many unlabelled samples.
const QUICKSTART_JOB: &str = include_str!("../../examples/digits-online.toml");

/// Where a run's results go.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Output {
    /// Folder for report, models, checkpoints and logs; must be empty or absent.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print the report as JSON on stdout, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
    /// Repeat the run with this many seeds, counted up from the job's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) seeds: Option<u32>,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) job: JobArgs,
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
    let mut job = retort_job::read(&args.job.job, &args.job.settings).map_err(Failure::input)?;
    job.run.baseline |= args.baseline;
    let base = args.job.job.parent().unwrap_or(Path::new(".")).to_owned();
    let checked = check::job_in(job, base, &args.job.job)?;
    block_on(go(checked, args.output))
}

async fn go(checked: Checked, output: Output) -> Result<(), Failure> {
    let began = Instant::now();
    let out = prepare(&output, &checked.job.run.name)?;
    let job_toml = submit::portable(&checked)?;
    let path = out.join("job.toml");
    std::fs::write(&path, &job_toml).with_context(|| format!("write {}", path.display()))?;
    let seeds = seeds(&checked, output.seeds);
    let plan = Plan {
        out: out.clone(),
        teacher_servers: teacher_servers(&checked),
        student_workers: checked.job.groups().iter().map(|g| g.replicas as usize).sum(),
        log_format: Format::Text,
    };
    let fleet = Fleet::start(plan).await.context("start the fleet")?;
    status::remember(&out.join(PROCESSES));
    let result = runs(&checked, &job_toml, &seeds, &fleet, &out).await;
    // In order whatever happened: the children write nothing after this.
    let stopped = fleet.stop().await;
    let finished = result?;
    stopped.context("stop the fleet")?;
    let wall_s = began.elapsed().as_secs_f64();
    collect::finish(&checked, finished, (&out, wall_s), output.json)
}

async fn runs(
    checked: &Checked,
    job_toml: &str,
    seeds: &[u64],
    fleet: &Fleet,
    out: &Path,
) -> Result<Vec<Finished>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut finished = Vec::new();
    for (i, seed) in seeds.iter().enumerate() {
        let run = submit::submit_run(&fleet.coordinator, checked, job_toml, *seed).await?;
        let title = format!(
            "{} (seed {seed}, {} of {})",
            checked.job.run.name,
            i + 1,
            seeds.len()
        );
        let follow = follow::to_end(&fleet.coordinator, &run, &title);
        let ended = tokio::select! {
            ended = follow => ended,
            _ = interrupt.recv() => return Err(stop(fleet, &run).await),
            _ = terminate.recv() => return Err(stop(fleet, &run).await),
            () = fleet.lost.cancelled() => return Err(coordinator_lost(out)),
        };
        let ended = match ended {
            // The stream breaks a moment before the process is known to have died.
            Err(_) if lost_soon(fleet).await => return Err(coordinator_lost(out)),
            ended => ended?,
        };
        finished.push(collect::gather(&fleet.coordinator, checked, ended).await?);
    }
    Ok(finished)
}

async fn lost_soon(fleet: &Fleet) -> bool {
    tokio::time::timeout(LOST_GRACE, fleet.lost.cancelled())
        .await
        .is_ok()
}

fn coordinator_lost(out: &Path) -> Failure {
    let log = out.join("logs/coordinator.log");
    Failure::Run(anyhow::anyhow!(
        "the coordinator died; its state is not kept, so the run ends here: see {}",
        log.display()
    ))
}

/// Stops the run in order: replicas contribute, the merged state is published.
async fn stop(fleet: &Fleet, run: &str) -> Failure {
    let stopped = async {
        submit::stop_run(&fleet.coordinator, run, "interrupted").await?;
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
    if checked.job.students.is_empty() {
        return 0;
    }
    checked.job.teachers.iter().map(|t| t.replicas as usize).sum()
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
    if taken {
        return Err(Failure::input(format!(
            "--out {}: expected an empty or absent folder",
            out.display()
        )));
    }
    std::fs::create_dir_all(&out).map_err(|e| Failure::input(format!("--out {}: {e}", out.display())))?;
    std::path::absolute(&out).map_err(|e| Failure::input(format!("--out {}: {e}", out.display())))
}
