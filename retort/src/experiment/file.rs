//! The experiment file, as written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;

/// Values by dotted job key. A key sorts before those below it, so they can be set in order.
pub(super) type Settings = BTreeMap<String, toml::Value>;
/// Values to go through, by dotted job key.
pub(super) type Lists = BTreeMap<String, Vec<toml::Value>>;

/// `experiments/NAME.toml`. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) experiment: Experiment,
    pub(super) arms: Vec<Arm>,
    #[serde(default)]
    pub(super) search: Search,
    #[serde(default)]
    pub(super) compare: Compare,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Experiment {
    pub(super) name: String,
    /// What the table is to answer.
    pub(super) question: String,
    /// First of the final seeds.
    #[serde(default = "one")]
    pub(super) seed: u64,
    /// Final runs of each row (1..=1000).
    #[serde(default = "Experiment::seeds")]
    pub(super) seeds: u32,
    /// Runs of each trial of the search (1..=1000), with seeds that no final run has.
    #[serde(default = "Experiment::tuning_seeds")]
    pub(super) tuning_seeds: u32,
    /// The job of every arm that names none; paths are relative to the experiment file.
    #[serde(default)]
    pub(super) job: Option<PathBuf>,
    /// What is compared: a path into `report.json`, by index or by name (`students.0.test_accuracy`).
    #[serde(default = "Experiment::metric")]
    pub(super) metric: String,
    /// Settings of every arm.
    #[serde(default)]
    pub(super) set: Settings,
    /// The table has a block of rows for each value (for each combination, of several axes).
    #[serde(default)]
    pub(super) axes: Lists,
    /// More columns by their heading: a path, or the ratio of two (`soft_targets.bytes / soft_targets.samples`).
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    /// Runs whose models the arms start from.
    #[serde(default)]
    pub(super) prepare: Vec<Step>,
}

impl Experiment {
    fn seeds() -> u32 {
        3
    }

    fn tuning_seeds() -> u32 {
        1
    }

    fn metric() -> String {
        "students.0.test_accuracy".into()
    }
}

fn one() -> u64 {
    1
}

/// One way to train, compared with the others.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arm {
    pub(super) name: String,
    #[serde(default)]
    pub(super) job: Option<PathBuf>,
    #[serde(default)]
    pub(super) set: Settings,
    /// Its own values in the search, beside or instead of the common ones; every arm must end up with the same number of
    /// trials.
    #[serde(default)]
    pub(super) search: Lists,
    #[serde(default)]
    pub(super) prepare: Vec<Step>,
    /// Axes that mean nothing to it: its row is the same at each of their values.
    #[serde(default)]
    pub(super) without_axes: Vec<String>,
}

/// A run before an arm's, for each value of the axes and each seed. `{NAME}` in a later setting is its folder, which has
/// `teachers/` and `students/`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) job: PathBuf,
    #[serde(default)]
    pub(super) set: Settings,
    /// Axes that its job does not follow.
    #[serde(default)]
    pub(super) without_axes: Vec<String>,
}

/// What is tuned: every combination of the values is a trial.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Search {
    /// The highest mean of it over the tuning seeds wins, the first listed of equal ones.
    #[serde(default = "Search::metric")]
    pub(super) metric: String,
    #[serde(flatten)]
    pub(super) keys: Lists,
}

impl Search {
    fn metric() -> String {
        "students.0.validation_accuracy".into()
    }
}

impl Default for Search {
    fn default() -> Self {
        Self {
            metric: Self::metric(),
            keys: Lists::new(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compare {
    /// The arm that the others are compared with, paired by seed.
    pub(super) against: Option<String>,
}

impl File {
    /// Reads and checks an experiment file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::input(format!("read experiment {}: {e}", path.display())))?;
        Self::parse(&text, path).map_err(Failure::input)
    }

    /// Parses and checks; `path` is named in errors only.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, retort_job::Error> {
        let file: Self = toml::from_str(text).map_err(|e| retort_job::Error::Syntax {
            file: path.to_owned(),
            message: e.to_string(),
        })?;
        let problems = file.problems();
        if problems.is_empty() {
            Ok(file)
        } else {
            Err(retort_job::Error::Invalid {
                file: path.to_owned(),
                problems,
            })
        }
    }

    /// The search of an arm: the common values, and its own.
    pub(super) fn search_of(&self, arm: &Arm) -> Lists {
        let mut keys = self.search.keys.clone();
        keys.extend(arm.search.clone());
        keys
    }

    /// The steps before an arm, in order.
    pub(super) fn steps_of<'a>(&'a self, arm: &'a Arm) -> impl Iterator<Item = &'a Step> {
        self.experiment.prepare.iter().chain(&arm.prepare)
    }
}
