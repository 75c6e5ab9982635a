//! What an experiment found: `result.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::file::{Lists, Settings};
use super::measured::Measured;
use super::plan::{Cell, Plan};
use super::quantity::Quantity;
use crate::report::{Metric, stats};

/// The whole result; every figure of a seed is in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) question: String,
    /// The command line that repeats it.
    pub(super) command: String,
    pub(super) metric: String,
    pub(super) columns: BTreeMap<String, String>,
    pub(super) seeds: Vec<u64>,
    pub(super) tuning_seeds: Vec<u64>,
    pub(super) search: Searched,
    /// The arm that others are compared with.
    pub(super) against: Option<String>,
    /// Name and digest of every data set that was used.
    pub(super) datasets: BTreeMap<String, BTreeSet<String>>,
    /// Versions of the program.
    pub(super) retort: BTreeSet<String>,
    /// Runs, steps and search included.
    pub(super) runs: usize,
    /// What the runs took together, in this call or before.
    pub(super) wall_s: f64,
    /// Processor cores of the machine.
    pub(super) cores: usize,
    pub(super) rows: Vec<Row>,
}

/// How every arm was tuned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Searched {
    pub(super) metric: String,
    /// The same for every arm.
    pub(super) trials_per_row: usize,
    /// What each arm's search went through.
    pub(super) values: BTreeMap<String, Lists>,
}

/// One arm at one place of the axes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) arm: String,
    pub(super) axes: Settings,
    /// What the search chose; empty where nothing was searched.
    pub(super) chosen: Settings,
    /// All that was tried, with the validation figure of each tuning seed.
    pub(super) tried: Vec<Trial>,
    /// The metric of each final seed.
    pub(super) metric: Metric,
    /// This arm minus the one it is compared with, paired by seed.
    pub(super) difference: Option<Difference>,
    /// Null where the arm's reports have no such figure.
    pub(super) columns: BTreeMap<String, Option<Metric>>,
    /// The runs that repeat the first seed, steps first; `{NAME}` is the folder of a step.
    pub(super) commands: Vec<String>,
    /// What its final runs took.
    pub(super) wall_s: f64,
}

/// One combination of the search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Trial {
    pub(super) settings: Settings,
    pub(super) scores: Vec<f64>,
    pub(super) mean: f64,
}

/// A paired difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) values: Vec<f64>,
    pub(super) mean: f64,
    /// 95 %, by Student's t; null of a single seed.
    pub(super) interval: Option<[f64; 2]>,
}

/// The finished final runs of a row.
pub(super) struct Finals {
    pub(super) chosen: Settings,
    pub(super) tried: Vec<Trial>,
    /// A report for each final seed.
    pub(super) reports: Vec<Measured>,
    pub(super) commands: Vec<String>,
}

/// The first of the best.
pub(super) fn best(tried: &[Trial]) -> Option<&Trial> {
    tried
        .iter()
        .reduce(|best, trial| if trial.mean > best.mean { trial } else { best })
}

impl Row {
    /// # Errors
    /// Where a report lacks the metric.
    pub(super) fn new(plan: &Plan, cell: &Cell, finals: Finals) -> anyhow::Result<Self> {
        let e = &plan.file.experiment;
        let arm = plan.arm(cell).name.clone();
        let all = |path: &str| {
            let quantity: Quantity = path.parse().map_err(anyhow::Error::msg)?;
            anyhow::Ok(quantity.over(&finals.reports))
        };
        let metric = all(&e.metric)?;
        let metric =
            metric.ok_or_else(|| anyhow::anyhow!("arm {arm:?}: its reports have no {}", e.metric))?;
        let columns = e
            .columns
            .iter()
            .map(|(heading, path)| Ok((heading.clone(), all(path)?)));
        Ok(Self {
            arm,
            axes: cell.axes.clone(),
            metric,
            difference: None,
            columns: columns.collect::<anyhow::Result<_>>()?,
            wall_s: finals.reports.iter().map(|r| wall_s(&r.report)).sum(),
            chosen: finals.chosen,
            tried: finals.tried,
            commands: finals.commands,
        })
    }
}

/// Fills in the difference of each row from the arm that is compared with, at the same place of the axes.
pub(super) fn compare(rows: &mut [Row], against: &str) {
    let references: Vec<(Settings, Vec<f64>)> = rows
        .iter()
        .filter(|row| row.arm == against)
        .map(|row| (row.axes.clone(), row.metric.values.clone()))
        .collect();
    for row in rows.iter_mut().filter(|row| row.arm != against) {
        let Some((_, reference)) = references.iter().find(|(axes, _)| *axes == row.axes) else {
            continue;
        };
        let pairs = row.metric.values.iter().zip(reference);
        let values: Vec<f64> = pairs.map(|(mine, theirs)| mine - theirs).collect();
        row.difference = stats::mean(&values).map(|mean| Difference {
            mean,
            interval: stats::interval_95(&values),
            values,
        });
    }
}

/// Seconds that a run took.
pub(super) fn wall_s(report: &Value) -> f64 {
    report["run"]["wall_s"].as_f64().unwrap_or(0.0)
}
