//! From an experiment to runs: which there are, and what each is known by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retort_job::Job;

use super::file::{Arm, File, Lists, Settings, Step};
use super::placeholder;
use crate::failure::Failure;

/// Tuning seeds start this far behind the final ones (at most 1,000), so that no number of either makes them meet.
const TUNING_OFFSET: u64 = 1_000;
/// How much of a run's hash names its folder.
const ID_LEN: usize = 16;

/// What an experiment does, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) file: File,
    /// Folder that the paths of jobs start from.
    pub(super) base: PathBuf,
    pub(super) cells: Vec<Cell>,
}

/// One arm at one place of the axes: a row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    /// Its place in the file.
    pub(super) arm: usize,
    /// Where it is.
    pub(super) axes: Settings,
    /// What its runs share.
    settings: Settings,
    /// What its search goes through; a single empty one where nothing is searched.
    pub(super) candidates: Vec<Settings>,
}

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// Of the resolved job, its seed and its needs: equal ids are the same run.
    pub(super) id: String,
    /// The arm, or the arm and the step.
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) job: PathBuf,
    /// With `{NAME}` where a step's folder belongs.
    settings: Settings,
    pub(super) seed: u64,
    /// Ids of the steps that its settings name.
    pub(super) needs: BTreeMap<String, String>,
    /// A step: its models are kept for others.
    pub(super) keeps_models: bool,
}

impl Plan {
    pub(super) fn new(file: File, base: PathBuf) -> Self {
        let mut cells = Vec::new();
        for axes in combinations(&file.experiment.axes) {
            for (i, arm) in file.arms.iter().enumerate() {
                let settings = overlaid(&file.experiment.set, &arm.set);
                let settings = overlaid(&settings, &without(&axes, &arm.without_axes));
                cells.push(Cell {
                    arm: i,
                    axes: axes.clone(),
                    settings,
                    candidates: combinations(&file.search_of(arm)),
                });
            }
        }
        Self { file, base, cells }
    }

    pub(super) fn arm(&self, cell: &Cell) -> &Arm {
        &self.file.arms[cell.arm]
    }

    pub(super) fn seeds(&self) -> Vec<u64> {
        let e = &self.file.experiment;
        (0..u64::from(e.seeds)).map(|i| e.seed + i).collect()
    }

    pub(super) fn tuning_seeds(&self) -> Vec<u64> {
        let e = &self.file.experiment;
        (0..u64::from(e.tuning_seeds))
            .map(|i| e.seed + TUNING_OFFSET + i)
            .collect()
    }

    /// Whether there is anything to choose from, so that tuning runs make sense.
    pub(super) fn searches(&self) -> bool {
        self.cells.first().is_some_and(|cell| cell.candidates.len() > 1)
    }

    /// The run of a cell with one candidate and seed, behind the steps it needs.
    pub(super) fn tasks(&self, cell: &Cell, candidate: &Settings, seed: u64) -> Result<Vec<Task>, Failure> {
        let arm = self.arm(cell);
        let mut tasks: Vec<Task> = Vec::new();
        let mut needs = BTreeMap::new();
        for step in self.file.steps_of(arm) {
            let task = self.step(cell, step, seed, &needs)?;
            needs.insert(step.name.clone(), task.id.clone());
            tasks.push(task);
        }
        let common = self.file.experiment.job.as_ref();
        let job = arm.job.as_ref().or(common).map(|job| self.base.join(job));
        let mut title = vec![arm.name.clone()];
        title.extend(
            cell.axes
                .iter()
                .chain(candidate)
                .map(|(k, v)| format!("{k} = {v}")),
        );
        let last = Task {
            id: String::new(),
            kind: arm.name.clone(),
            title: format!("{}, seed {seed}", title.join(", ")),
            job: job.unwrap_or_default(),
            settings: overlaid(&cell.settings, candidate),
            seed,
            needs,
            keeps_models: false,
        }
        .identified()?;
        // Steps that nothing names need not run.
        let mut needed = vec![last];
        for step in tasks.into_iter().rev() {
            if needed
                .iter()
                .any(|task| task.needs.values().any(|id| *id == step.id))
            {
                needed.push(step);
            }
        }
        needed.reverse();
        Ok(needed)
    }

    fn step(
        &self,
        cell: &Cell,
        step: &Step,
        seed: u64,
        needs: &BTreeMap<String, String>,
    ) -> Result<Task, Failure> {
        let arm = self.arm(cell);
        let axes = without(&without(&cell.axes, &arm.without_axes), &step.without_axes);
        Task {
            id: String::new(),
            kind: format!("{} ({})", step.name, step.job.display()),
            title: format!("{} for {}, seed {seed}", step.name, arm.name),
            job: self.base.join(&step.job),
            settings: overlaid(&step.set, &axes),
            seed,
            needs: needs.clone(),
            keeps_models: true,
        }
        .identified()
    }
}

impl Task {
    /// With the needs that its settings name, and the id that job, settings, seed and needs give. The data and the
    /// program are not part of it.
    fn identified(mut self) -> Result<Self, Failure> {
        let named: Vec<String> = self.settings.values().flat_map(placeholder::names).collect();
        self.needs.retain(|name, _| named.contains(name));
        let job = self.resolved(|id| Path::new("run").join(id))?;
        let text = toml::to_string(&job).map_err(anyhow::Error::from)?;
        let hash = blake3::hash(text.as_bytes()).to_hex();
        self.id = hash[..ID_LEN].to_owned();
        Ok(self)
    }

    /// The job, with the folder of each step that it names.
    pub(super) fn resolved(&self, folder: impl Fn(&str) -> PathBuf) -> Result<Job, Failure> {
        retort_job::read(&self.job, &self.arguments(folder)).map_err(Failure::input)
    }

    /// The settings as `--set` takes them.
    fn arguments(&self, folder: impl Fn(&str) -> PathBuf) -> Vec<String> {
        let mut with = |name: &str| {
            let id = self.needs.get(name)?;
            Some(folder(id).display().to_string())
        };
        let settings = self.settings.iter();
        let mut arguments: Vec<String> = settings
            .map(|(key, value)| format!("{key}={}", placeholder::replaced(value, &mut with)))
            .collect();
        arguments.push(format!("run.seed={}", self.seed));
        arguments
    }

    /// A command that repeats the run, once the runs it needs are there as `{NAME}`.
    pub(super) fn command(&self) -> String {
        let named: BTreeMap<&str, &str> = self.needs.iter().map(|(name, id)| (&**id, &**name)).collect();
        let folder = |id: &str| PathBuf::from(format!("{{{}}}", named.get(id).copied().unwrap_or(id)));
        let settings = self.arguments(folder);
        let settings: String = settings.iter().map(|s| format!(" --set {}", quoted(s))).collect();
        format!("retort run {}{settings}", self.job.display())
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=/,:{}".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Every combination of the values, the last key's changing fastest; one empty combination of nothing.
fn combinations(lists: &Lists) -> Vec<Settings> {
    lists.iter().fold(vec![Settings::new()], |all, (key, values)| {
        let with = |settings: &Settings, value: &toml::Value| {
            let mut settings = settings.clone();
            settings.insert(key.clone(), value.clone());
            settings
        };
        let with = &with;
        all.iter()
            .flat_map(|settings| values.iter().map(move |value| with(settings, value)))
            .collect()
    })
}

/// Settings with others on top: each replaces the same key and all that lies below it.
fn overlaid(settings: &Settings, over: &Settings) -> Settings {
    let covered = |key: &str| {
        over.keys().any(|o| {
            key.strip_prefix(o.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let kept = settings.iter().filter(|(key, _)| !covered(key));
    let all = kept.chain(over).map(|(key, value)| (key.clone(), value.clone()));
    all.collect()
}

fn without(settings: &Settings, keys: &[String]) -> Settings {
    let kept = settings.iter().filter(|(key, _)| !keys.contains(key));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}
