//! Figures of a report, named by paths into `report.json`.

use std::str::FromStr;

use retort_job::{GroupKind, Job};
use serde_json::Value;

use super::measured::Measured;
use crate::report::metrics::churn;
use crate::report::{Metric, stats};

/// What a path may lead to is said by the schema that reports are tested against.
const SCHEMA: &str = include_str!("../../../docs/report.schema.json");

/// A figure of a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Quantity {
    /// In its report, or the ratio of two that are.
    Figure { path: String, per: Option<String> },
    /// `samples_to(students.0, 0.9)`: how many samples a group trained on until its accuracy on held-out data was this.
    SamplesTo { model: String, accuracy: f64 },
    /// `churn(students.0)`: the mean share of test samples whose top class is another than with another seed.
    Churn { model: String },
}

impl FromStr for Quantity {
    /// What would be valid.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((function, rest)) = text.split_once('(') {
            return call(function.trim(), rest);
        }
        let (path, per) = match text.split_once(" / ") {
            Some((path, per)) => (path.trim(), Some(per.trim().to_owned())),
            None => (text.trim(), None),
        };
        known(path)?;
        per.as_deref().map_or(Ok(()), known)?;
        Ok(Self::Figure {
            path: path.to_owned(),
            per,
        })
    }
}

fn call(function: &str, rest: &str) -> Result<Quantity, String> {
    let expected = "a path into report.json, samples_to(MODEL, ACCURACY) or churn(MODEL), with a MODEL such as students.0";
    let arguments = rest.trim_end().strip_suffix(')').ok_or(expected)?;
    let mut arguments = arguments.split(',').map(str::trim);
    let (model, accuracy, more) = (
        arguments.next().unwrap_or_default(),
        arguments.next(),
        arguments.next(),
    );
    let lists = ["students", "baselines", "teachers"];
    let named = model
        .split_once('.')
        .is_some_and(|(list, which)| lists.contains(&list) && !which.is_empty());
    let accuracy = accuracy.map(|a| a.parse::<f64>().ok().filter(|a| (0.0..=1.0).contains(a)));
    let model = model.to_owned();
    match (function, accuracy, more) {
        ("samples_to", Some(Some(accuracy)), None) if named => Ok(Quantity::SamplesTo { model, accuracy }),
        ("churn", None, None) if named => Ok(Quantity::Churn { model }),
        _ => Err(expected.to_owned()),
    }
}

impl Quantity {
    /// Its value in one run; none where that has none, and of what only several runs have.
    pub(super) fn of(&self, run: &Measured) -> Option<f64> {
        match self {
            Self::Figure { path, per: None } => at(&run.report, path),
            Self::Figure { path, per: Some(per) } => {
                let ratio = at(&run.report, path)? / at(&run.report, per)?;
                Some(ratio).filter(|v| v.is_finite())
            }
            Self::SamplesTo { model, accuracy } => run.samples_to(name(&run.report, model)?, *accuracy),
            Self::Churn { .. } => None,
        }
    }

    /// Its values in runs that differ by their seed; none unless all have one.
    pub(super) fn over(&self, runs: &[Measured]) -> Option<Metric> {
        let Self::Churn { model } = self else {
            return Metric::of(runs.iter().map(|run| self.of(run)));
        };
        let tops = runs.iter().map(|run| run.predictions(name(&run.report, model)?));
        let tops: Vec<Vec<usize>> = tops.collect::<Option<_>>()?;
        // Of each seed against all others: their mean is that of all pairs.
        let of = |i: usize| {
            let others = (0..tops.len()).filter(|j| *j != i);
            let pairs = others.map(|j| churn(&[tops[i].clone(), tops[j].clone()]));
            let shares: Vec<f64> = pairs.collect::<Option<_>>()?;
            stats::mean(&shares)
        };
        Metric::of((0..tops.len()).map(of))
    }

    /// Whether a job's report will have it: its first part names one of the models there are.
    pub(super) fn within(&self, job: &Job) -> Result<(), String> {
        let paths = match self {
            Self::Figure { path, per } => [Some(path), per.as_ref()],
            Self::SamplesTo { model, .. } | Self::Churn { model } => [Some(model), None],
        };
        for path in paths.into_iter().flatten() {
            let mut parts = path.split('.');
            let (Some(list), Some(which)) = (parts.next(), parts.next()) else {
                continue;
            };
            let kind = match list {
                "students" => Some(GroupKind::Student),
                "baselines" => Some(GroupKind::Baseline),
                "teachers" => None,
                _ => continue,
            };
            let names: Vec<String> = match kind {
                Some(kind) => job
                    .groups()
                    .into_iter()
                    .filter(|g| g.kind == kind)
                    .map(|g| g.name)
                    .collect(),
                None => job.teachers.iter().map(|t| t.name.clone()).collect(),
            };
            let there = match which.parse::<usize>() {
                Ok(index) => index < names.len(),
                Err(_) => names.iter().any(|name| name == which),
            };
            if !there {
                return Err(format!(
                    "one of the job's {} {list} ({})",
                    names.len(),
                    names.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// Whether it is a share that people read in percent.
    pub(super) fn percent(&self) -> bool {
        match self {
            Self::Figure { path, per: None } => {
                let last = path.rsplit('.').next().unwrap_or_default();
                last.contains("accuracy") || last.contains("agreement") || last == "corrected"
            }
            Self::Churn { .. } => true,
            Self::Figure { .. } | Self::SamplesTo { .. } => false,
        }
    }
}

/// The name of the model at a path.
fn name<'a>(report: &'a Value, path: &str) -> Option<&'a str> {
    walk(report, path)?.get("name")?.as_str()
}

/// A number, or a metric of a single seed.
fn at(report: &Value, path: &str) -> Option<f64> {
    let value = walk(report, path)?;
    value.as_f64().or_else(|| value.get("mean")?.as_f64())
}

fn walk<'a>(report: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = report;
    for part in path.split('.') {
        value = match value {
            Value::Array(items) => match part.parse::<usize>() {
                Ok(index) => items.get(index)?,
                Err(_) => items
                    .iter()
                    .find(|item| item["name"] == part || item["class"] == part)?,
            },
            other => other.get(part)?,
        };
    }
    Some(value)
}

/// Walks the schema along a path that must end at a number or a metric.
fn known(path: &str) -> Result<(), String> {
    let root: Value = serde_json::from_str(SCHEMA).map_err(|e| format!("a readable schema: {e}"))?;
    let mut schema = resolved(&root, &root);
    let mut walked = String::from("report.json");
    for part in path.split('.') {
        let next = match (schema.get("properties"), schema.get("items")) {
            (Some(properties), _) => properties.get(part),
            (None, items) => items,
        };
        let Some(next) = next else {
            let keys = schema.get("properties").and_then(Value::as_object);
            let keys: Vec<&str> = keys.into_iter().flatten().map(|(k, _)| k.as_str()).collect();
            return Err(match keys.is_empty() {
                true => format!("a path into report.json; {walked} has nothing below it"),
                false => format!("a path into report.json; {walked} has {}", keys.join(", ")),
            });
        };
        schema = resolved(&root, next);
        walked = format!("{walked}.{part}");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let number = types.iter().any(|t| t == "number" || t == "integer");
    if number || schema["properties"].get("mean").is_some() {
        Ok(())
    } else {
        Err(format!("a path to a number; {walked} is none"))
    }
}

/// Follows references, and takes what may be null as what it is otherwise.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        return resolved(root, &root["$defs"][name]);
    }
    let choices = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    match choices.iter().find(|choice| choice["type"] != "null") {
        Some(choice) => resolved(root, choice),
        None => schema,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_report_has_are_known() {
        for path in [
            "students.0.test_accuracy",
            "students.small.kl_to_teacher",
            "baselines.0.test_nll",
            "teachers.0.test_accuracy",
            "students.0.per_class.3.accuracy",
            "soft_targets.bytes / soft_targets.samples",
            "students.0.left_out.corrected",
            "students.0.exits.0.test_accuracy",
            "samples_to(students.0, 0.9)",
            "churn(students.small)",
            "run.wall_s",
        ] {
            assert!(path.parse::<Quantity>().is_ok(), "{path}");
        }
    }

    #[test]
    fn others_are_refused_with_what_there_is() {
        for (path, part) in [
            ("students.0.test_acuracy", "test_accuracy"),
            ("student.0.test_accuracy", "students"),
            ("students.0", "is none"),
            ("run.name", "is none"),
            ("run.wall_s.x", "nothing below"),
            ("soft_targets.bytes / soft_targets.sample", "samples"),
            ("samples_to(students.0)", "samples_to(MODEL, ACCURACY)"),
            ("samples_to(students.0, 90)", "samples_to(MODEL, ACCURACY)"),
            ("churn(student.0)", "churn(MODEL)"),
            ("churn(students.0", "churn(MODEL)"),
            ("median(students.0)", "churn(MODEL)"),
        ] {
            let error = path.parse::<Quantity>().unwrap_err();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    #[test]
    fn values_are_found_by_index_and_name() {
        let report = serde_json::json!({
            "students": [{ "name": "small", "test_accuracy": { "mean": 0.5, "sd": 0.0, "values": [0.5] },
                           "kl_to_teacher": null }],
            "soft_targets": { "bytes": 40, "samples": 10, "frames": 0 },
        });
        let run = Measured::from(report);
        let of = |path: &str| path.parse::<Quantity>().unwrap().of(&run);
        assert_eq!(of("students.0.test_accuracy"), Some(0.5));
        assert_eq!(of("students.small.test_accuracy"), Some(0.5));
        assert_eq!(of("students.big.test_accuracy"), None);
        assert_eq!(of("students.0.kl_to_teacher"), None);
        assert_eq!(of("soft_targets.bytes / soft_targets.samples"), Some(4.0));
        assert_eq!(of("soft_targets.bytes / soft_targets.frames"), None);
    }

    #[test]
    fn what_a_report_leaves_out_is_measured_from_curves_and_predictions() {
        let run = |seed: usize, tops: [usize; 4]| {
            let point = |positions: usize, accuracy: Option<f64>| serde_json::json!({ "step": 1, "positions": positions, "epoch": 0, "held_out_accuracy": accuracy });
            let points = [
                point(0, Some(0.1)),
                point(64, None),
                point(128 + seed, Some(0.8)),
                point(256, Some(0.9)),
            ];
            Measured {
                report: serde_json::json!({ "students": [{ "name": "small" }] }),
                curves: serde_json::from_value(serde_json::json!({
                    "groups": [{ "run": "seed 1", "group": "small", "kind": "student", "points": points }]
                }))
                .unwrap(),
                predictions: [("small".to_owned(), vec![tops.to_vec()])].into(),
            }
        };
        let runs = [run(0, [0, 1, 2, 3]), run(1, [0, 1, 2, 0]), run(2, [0, 1, 0, 0])];
        let over = |text: &str| text.parse::<Quantity>().unwrap().over(&runs);
        assert_eq!(
            over("samples_to(students.0, 0.8)").unwrap().values,
            [128.0, 129.0, 130.0]
        );
        assert_eq!(
            over("samples_to(students.small, 0.85)").unwrap().values,
            [256.0; 3]
        );
        assert_eq!(over("samples_to(students.0, 0.95)"), None, "never reached");
        assert_eq!(over("samples_to(students.1, 0.8)"), None);
        assert_eq!(over("churn(students.0)").unwrap().values, [0.375, 0.25, 0.375]);
        assert_eq!(over("churn(students.0)").unwrap().mean, (0.25 + 0.5 + 0.25) / 3.0);
        assert_eq!(
            "churn(students.0)".parse::<Quantity>().unwrap().over(&runs[..1]),
            None,
            "a single seed"
        );
    }
}
