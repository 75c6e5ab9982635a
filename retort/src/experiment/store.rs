//! Finished runs by id, below `DIR/trials`: what is there is not run again.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde_json::Value;

use super::measured::Measured;
use super::plan::Task;
use crate::collect::{CURVES, PREDICTIONS};
use crate::failure::Failure;
use crate::run::Local;
use crate::{check, collect, submit};

const REPORT: &str = "report.json";
/// The job of a finished run, as its processes got it.
const JOB: &str = "job.toml";
/// Where a run is while it is not finished; starting it again begins anew.
const UNFINISHED: &str = "run";
/// Models that other runs start from.
const MODELS: [&str; 2] = ["teachers", "students"];

#[derive(Debug)]
pub(super) struct Store {
    trials: PathBuf,
    /// Held while the experiment goes on; none for a look.
    _lock: Option<File>,
}

impl Store {
    /// Opens or makes `dir`, for one experiment at a time.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let refuse = |what: String| Failure::input(format!("--out {}: {what}", dir.display()));
        let trials = dir.join("trials");
        let taken = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if taken && !trials.is_dir() {
            return Err(refuse(
                "expected an empty or absent folder, or one with the trials of an experiment".into(),
            ));
        }
        std::fs::create_dir_all(&trials).map_err(|e| refuse(e.to_string()))?;
        let trials = std::path::absolute(&trials).map_err(|e| refuse(e.to_string()))?;
        let lock = File::create(trials.join(".lock")).map_err(|e| refuse(e.to_string()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refuse("another experiment is running there".into()));
            }
            Err(TryLockError::Error(e)) => return Err(refuse(e.to_string())),
        }
        let lock = Some(lock);
        Ok(Self { trials, _lock: lock })
    }

    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.trials.join(id)
    }

    /// The report of a run that is finished, with its models where they are needed.
    pub(super) fn report(&self, task: &Task) -> Option<Measured> {
        let folder = self.folder(&task.id);
        let text = std::fs::read_to_string(folder.join(REPORT)).ok()?;
        if task.keeps_models && !MODELS.iter().any(|models| folder.join(models).is_dir()) {
            return None;
        }
        self.measured(task, serde_json::from_str(&text).ok()?).ok()
    }

    fn measured(&self, task: &Task, report: Value) -> anyhow::Result<Measured> {
        let read = |name: &str| {
            let path = self.folder(&task.id).join(name);
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Measured {
            report,
            curves: serde_json::from_slice(&read(CURVES)?)?,
            predictions: serde_json::from_slice(&read(PREDICTIONS)?)?,
        })
    }

    /// Runs a task over a fleet of its own, and keeps its report, its job, and what others need.
    pub(super) async fn run(&self, task: &Task) -> Result<Measured, Failure> {
        let began = Instant::now();
        let folder = self.folder(&task.id);
        let out = folder.join(UNFINISHED);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        let job = task.resolved(|id| self.folder(id))?;
        let base = task.job.parent().unwrap_or(Path::new(".")).to_owned();
        let checked = check::job_in(job, base, &task.job)?;
        let job_toml = submit::portable(&checked)?;
        let local = Local {
            checked: &checked,
            job_toml: &job_toml,
            seeds: &[task.seed],
            out: &out,
            shown: false,
        };
        let finished = local.train().await?;
        let wall_s = began.elapsed().as_secs_f64();
        let (mut report, audit) = collect::write_reports(&checked, &finished, (&out, wall_s))?;
        collect::sound(&checked, &report, &audit)?;
        report.run.command = task.command();
        std::fs::write(out.join(REPORT), report.to_json())
            .with_context(|| format!("write {}", out.display()))?;
        std::fs::write(folder.join(JOB), job_toml).with_context(|| format!("write {}", folder.display()))?;
        let keep = |name: &str| {
            let to = folder.join(name);
            std::fs::rename(out.join(name), &to).with_context(|| format!("rename to {}", to.display()))
        };
        for models in MODELS {
            if task.keeps_models && out.join(models).is_dir() {
                keep(models)?;
            }
        }
        keep(CURVES)?;
        keep(PREDICTIONS)?;
        // Last and at once: where a report is, the run is finished.
        keep(REPORT)?;
        std::fs::remove_dir_all(&out).with_context(|| format!("remove {}", out.display()))?;
        let report = serde_json::to_value(&report).map_err(anyhow::Error::from)?;
        Ok(self.measured(task, report)?)
    }
}

#[cfg(test)]
impl Store {
    /// Keeps a report as if its run had finished.
    pub(super) fn pretend(&self, task: &Task, report: &Value) {
        let folder = self.folder(&task.id);
        std::fs::create_dir_all(folder.join(MODELS[0])).unwrap();
        std::fs::write(folder.join(REPORT), report.to_string()).unwrap();
        std::fs::write(folder.join(CURVES), r#"{ "groups": [] }"#).unwrap();
        std::fs::write(folder.join(PREDICTIONS), "{}").unwrap();
    }
}
