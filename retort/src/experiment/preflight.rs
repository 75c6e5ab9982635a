//! All jobs are checked before the first one starts, as `retort check` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use retort_job::{Job, Source};

use super::plan::{Plan, Task};
use super::quantity::Quantity;
use crate::check;
use crate::failure::Failure;

/// How many different runs there are, by what they are.
pub(super) type Counts = BTreeMap<String, usize>;

/// Refuses bad jobs, naming arm and place of each, or gives the runs there will be (at most: a chosen candidate may
/// make two rows equal).
pub(super) fn check(plan: &Plan) -> Result<Counts, Failure> {
    let mut look = Look::default();
    let (seeds, tuning) = (plan.seeds(), plan.tuning_seeds());
    for cell in &plan.cells {
        for candidate in &cell.candidates {
            // One seed of each: seeds change which samples are labelled, not how many.
            let tasks = match plan.tasks(cell, candidate, seeds[0]) {
                Ok(tasks) => tasks,
                Err(failure) => {
                    look.refuse(&plan.arm(cell).name, failure)?;
                    continue;
                }
            };
            for task in &tasks {
                if let Err(failure) = look.at(task, plan) {
                    look.refuse(&task.title, failure)?;
                }
            }
            if plan.searches() {
                look.count(plan.tasks(cell, candidate, tuning[0]), tuning.len());
            }
        }
        // Which candidate it will be, the search says; how many runs, any does.
        look.count(plan.tasks(cell, &cell.candidates[0], seeds[0]), seeds.len());
    }
    if look.refused.is_empty() {
        Ok(look.runs)
    } else {
        let messages: Vec<String> = look
            .refused
            .into_iter()
            .map(|(m, at)| format!("{at}: {m}"))
            .collect();
        Err(Failure::Input(messages.join("\n")))
    }
}

#[derive(Default)]
struct Look {
    /// Jobs of what was looked at, by id.
    jobs: BTreeMap<String, Job>,
    counted: BTreeSet<String>,
    runs: Counts,
    /// Message, and where it was found first.
    refused: BTreeMap<String, String>,
}

impl Look {
    /// Keeps a refusal for the others to be found; another failure ends the look.
    fn refuse(&mut self, at: &str, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::Input(message) => {
                self.refused.entry(message).or_insert_with(|| at.to_owned());
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Runs that were refused have said so.
    fn count(&mut self, tasks: Result<Vec<Task>, Failure>, seeds: usize) {
        for task in tasks.into_iter().flatten() {
            if self.counted.insert(task.id) {
                *self.runs.entry(task.kind).or_default() += seeds;
            }
        }
    }

    fn at(&mut self, task: &Task, plan: &Plan) -> Result<(), Failure> {
        if self.jobs.contains_key(&task.id) {
            return Ok(());
        }
        let folder = |id: &str| Path::new("run").join(id);
        let job = task.resolved(folder)?;
        let promised: Vec<PathBuf> = task.needs.values().map(|id| folder(id)).collect();
        let base = task.job.parent().unwrap_or(Path::new(".")).to_owned();
        self.kept(task, &job)?;
        let checked = check::job_before(job, base, &task.job, &promised)?;
        if !task.keeps_models {
            measurable(&checked.job, plan)
                .map_err(|e| Failure::input(format!("{}: {e}", task.job.display())))?;
        }
        self.jobs.insert(task.id.clone(), checked.job);
        Ok(())
    }

    /// A teacher from a step's folder must be one of the step's models.
    fn kept(&self, task: &Task, job: &Job) -> Result<(), Failure> {
        for (i, teacher) in job.teachers.iter().enumerate() {
            let Source::Checkpoint { path, .. } = &teacher.source else {
                continue;
            };
            let parts: Vec<_> = path.iter().map(|p| p.to_string_lossy()).collect();
            let ["run", id, rest @ ..] = &parts.iter().map(|p| &**p).collect::<Vec<_>>()[..] else {
                continue;
            };
            // A step that was refused has said so itself.
            let Some(step) = self.jobs.get(*id) else {
                continue;
            };
            let teachers = step.teachers.iter().map(|t| format!("teachers/{}", t.name));
            let students = step.students.iter().map(|s| format!("students/{}", s.name));
            let models: Vec<String> = teachers.chain(students).collect();
            if !models.contains(&rest.join("/")) {
                return Err(Failure::input(format!(
                    "{}:\n  teachers.{i}.source.path = {:?}: expected a model of that step ({})",
                    task.job.display(),
                    rest.join("/"),
                    models.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// What is compared must be in the report of every arm.
fn measurable(job: &Job, plan: &Plan) -> Result<(), String> {
    let mut named = vec![("experiment.metric", &plan.file.experiment.metric)];
    if plan.searches() {
        named.push(("search.metric", &plan.file.search.metric));
    }
    for (key, path) in named {
        path.parse::<Quantity>()?
            .within(job)
            .map_err(|e| format!("\n  {key} = {path:?}: expected {e}"))?;
    }
    Ok(())
}
