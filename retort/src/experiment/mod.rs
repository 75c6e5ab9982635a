//! `retort experiment`: arms that are compared over seeds.
//!
//! Every arm gets the same search: each combination of the searched values is trained with the tuning seeds, and the
//! best mean validation figure is chosen. What is reported comes from the final seeds, which no choice has seen, after
//! the last epoch. Each run is an ordinary one over a fleet of processes; finished ones are kept below `DIR/trials`, so
//! that the same command goes on where it was stopped.

mod file;
mod measured;
mod outcome;
mod placeholder;
mod plan;
mod preflight;
mod progress;
mod quantity;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, block_on};
use file::{File, Settings};
use measured::Measured;
use outcome::{Finals, Outcome, Row, Searched, Trial};
use plan::{Cell, Plan, Task};
use preflight::Counts;
use progress::Progress;
use quantity::Quantity;
use store::Store;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// The experiment file.
    file: PathBuf,
    /// Folder for result.md, result.json and the finished runs; what it has of the experiment is not run again.
    #[arg(long, required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Check every job and list the runs, but start nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]
pub(crate) fn command(args: Args) -> Result<(), Failure> {
    let file = File::read(&args.file)?;
    let base = args.file.parent().unwrap_or(Path::new(".")).to_owned();
    let plan = Plan::new(file, base);
    let runs = preflight::check(&plan)?;
    let (false, Some(out)) = (args.dry_run, args.out) else {
        let listing = listing(&plan, &runs)?;
        match args.json {
            true => println!(
                "{:#}",
                serde_json::json!({ "runs": runs, "plan": listing.lines().collect::<Vec<_>>() })
            ),
            false => print!("{listing}"),
        }
        return Ok(());
    };
    let store = Store::open(&out)?;
    block_on(async {
        let ended = Work::new(&plan, &store, &runs)?.all().await;
        if let Err(Failure::Interrupted) = &ended {
            eprintln!(
                "what is finished is kept in {}: the same command goes on",
                out.display()
            );
        }
        let outcome = ended?;
        let json = serde_json::to_string_pretty(&outcome).context("write the result")? + "\n";
        let table = table::render(&outcome);
        for (name, text) in [("result.json", &json), ("result.md", &table)] {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if args.json {
            print!("{json}");
        } else {
            print!("{table}");
            eprintln!("result: {}", out.join("result.md").display());
        }
        Ok(())
    })
}

/// What would be run.
fn listing(plan: &Plan, runs: &Counts) -> Result<String, Failure> {
    let seeds = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let mut out = String::new();
    for cell in &plan.cells {
        let axes: String = cell.axes.iter().map(|(k, v)| format!(", {k} = {v}")).collect();
        let tasks = plan.tasks(cell, &cell.candidates[0], plan.file.experiment.seed)?;
        let steps: Vec<&str> = tasks
            .iter()
            .filter(|t| t.keeps_models)
            .map(|t| t.kind.as_str())
            .collect();
        let mut parts = Vec::new();
        if !steps.is_empty() {
            parts.push(format!("{} before each run", steps.join(", ")));
        }
        if plan.searches() {
            let tuning = plan.tuning_seeds();
            let count = cell.candidates.len() * tuning.len();
            parts.push(format!("{count} tuning runs (seeds {})", seeds(&tuning)));
        }
        let finals = plan.seeds();
        parts.push(format!("{} final runs (seeds {})", finals.len(), seeds(&finals)));
        out += &format!("{}{axes}: {}\n", plan.arm(cell).name, parts.join(", "));
    }
    let kinds: Vec<String> = runs
        .iter()
        .map(|(kind, count)| format!("{count} of {kind}"))
        .collect();
    out += &format!(
        "{} different runs at most: {}\n",
        runs.values().sum::<usize>(),
        kinds.join(", ")
    );
    Ok(out)
}

/// The experiment while it goes on.
struct Work<'a> {
    plan: &'a Plan,
    store: &'a Store,
    progress: Progress,
    /// Runs that this call has looked at.
    seen: BTreeSet<String>,
    wall_s: f64,
    datasets: BTreeMap<String, BTreeSet<String>>,
    retort: BTreeSet<String>,
    // Watched from the start: a signal between two runs counts as well.
    signals: [Signal; 2],
}

impl<'a> Work<'a> {
    fn new(plan: &'a Plan, store: &'a Store, runs: &Counts) -> Result<Self, Failure> {
        let interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
        Ok(Self {
            plan,
            store,
            progress: Progress::new(runs),
            seen: BTreeSet::new(),
            wall_s: 0.0,
            datasets: BTreeMap::new(),
            retort: BTreeSet::new(),
            signals: [interrupt, terminate],
        })
    }

    async fn all(mut self) -> Result<Outcome, Failure> {
        let mut rows = Vec::new();
        for cell in &self.plan.cells {
            let finals = self.cell(cell).await?;
            rows.push(Row::new(self.plan, cell, finals)?);
        }
        self.progress.finish();
        let file = &self.plan.file;
        let against = file.compare.against.clone();
        if let Some(against) = &against {
            outcome::compare(&mut rows, against);
        }
        let e = &file.experiment;
        Ok(Outcome {
            name: e.name.clone(),
            question: e.question.clone(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            metric: e.metric.clone(),
            columns: e.columns.clone(),
            seeds: self.plan.seeds(),
            tuning_seeds: self.plan.tuning_seeds(),
            search: Searched {
                metric: file.search.metric.clone(),
                trials_per_row: self.plan.cells.first().map_or(0, |cell| cell.candidates.len()),
                values: file
                    .arms
                    .iter()
                    .map(|arm| (arm.name.clone(), file.search_of(arm)))
                    .collect(),
            },
            against,
            datasets: self.datasets,
            retort: self.retort,
            runs: self.seen.len(),
            wall_s: self.wall_s,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            rows,
        })
    }

    /// The search of a row, then its final runs.
    async fn cell(&mut self, cell: &Cell) -> Result<Finals, Failure> {
        let tried = self.search(cell).await?;
        let chosen = outcome::best(&tried).map_or_else(|| cell.candidates[0].clone(), |t| t.settings.clone());
        let (mut reports, mut commands) = (Vec::new(), Vec::new());
        for seed in self.plan.seeds() {
            let tasks = self.plan.tasks(cell, &chosen, seed)?;
            if commands.is_empty() {
                commands = tasks.iter().map(Task::command).collect();
            }
            reports.push(self.run(&tasks).await?);
        }
        Ok(Finals {
            chosen,
            tried,
            reports,
            commands,
        })
    }

    /// Nothing where there is nothing to choose from.
    async fn search(&mut self, cell: &Cell) -> Result<Vec<Trial>, Failure> {
        let mut tried = Vec::new();
        let candidates: &[Settings] = if self.plan.searches() {
            &cell.candidates
        } else {
            &[]
        };
        let metric: Quantity = self.plan.file.search.metric.parse().map_err(Failure::Input)?;
        for candidate in candidates {
            let mut scores = Vec::new();
            for seed in self.plan.tuning_seeds() {
                let tasks = self.plan.tasks(cell, candidate, seed)?;
                let report = self.run(&tasks).await?;
                scores.push(metric.of(&report).with_context(|| {
                    format!("{}: no validation figure in its report", self.plan.arm(cell).name)
                })?);
            }
            let mean = crate::report::stats::mean(&scores).unwrap_or(f64::NEG_INFINITY);
            tried.push(Trial {
                settings: candidate.clone(),
                scores,
                mean,
            });
        }
        Ok(tried)
    }

    /// Runs what is not there yet; gives the last one's report.
    async fn run(&mut self, tasks: &[Task]) -> Result<Measured, Failure> {
        let mut last = Measured::default();
        for task in tasks {
            self.interrupted().await?;
            let there = self.store.report(task);
            let reused = there.is_some();
            last = match there {
                Some(report) => report,
                None => {
                    self.progress.start(task);
                    let folder = self.store.folder(&task.id);
                    self.store.run(task).await.map_err(|failure| match failure {
                        Failure::Run(e) => {
                            Failure::Run(e.context(format!("{} (in {})", task.title, folder.display())))
                        }
                        other => other,
                    })?
                }
            };
            if self.seen.insert(task.id.clone()) {
                self.note(task, &last.report, reused);
            }
        }
        Ok(last)
    }

    fn note(&mut self, task: &Task, report: &Value, reused: bool) {
        let wall_s = outcome::wall_s(report);
        self.wall_s += wall_s;
        self.progress.end(task, wall_s, reused);
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let dataset = &report["dataset"];
        let digests = self.datasets.entry(text(&dataset["name"])).or_default();
        digests.insert(text(&dataset["digest"]));
        self.retort.insert(text(&report["run"]["retort"]));
    }

    async fn interrupted(&mut self) -> Result<(), Failure> {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            biased;
            _ = interrupt.recv() => Err(Failure::Interrupted),
            _ = terminate.recv() => Err(Failure::Interrupted),
            () = std::future::ready(()) => Ok(()),
        }
    }
}
