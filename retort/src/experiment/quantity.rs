//! Figures of a report, named by paths into `report.json`.

use std::str::FromStr;

use retort_job::{GroupKind, Job};
use serde_json::Value;

/// What a path may lead to is said by the schema that reports are tested against.
const SCHEMA: &str = include_str!("../../../docs/report.schema.json");

/// A figure of a report, or the ratio of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantity {
    path: String,
    per: Option<String>,
}

impl FromStr for Quantity {
    /// What would be valid.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, per) = match text.split_once(" / ") {
            Some((path, per)) => (path.trim(), Some(per.trim().to_owned())),
            None => (text.trim(), None),
        };
        known(path)?;
        per.as_deref().map_or(Ok(()), known)?;
        Ok(Self {
            path: path.to_owned(),
            per,
        })
    }
}

impl Quantity {
    /// Its value in the report of one seed; none where the report has none.
    pub(super) fn of(&self, report: &Value) -> Option<f64> {
        let value = at(report, &self.path)?;
        match &self.per {
            Some(per) => Some(value / at(report, per)?).filter(|v| v.is_finite()),
            None => Some(value),
        }
    }

    /// Whether a job's report will have it: its first part names one of the models there are.
    pub(super) fn within(&self, job: &Job) -> Result<(), String> {
        for path in [Some(&self.path), self.per.as_ref()].into_iter().flatten() {
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
        let last = self.path.rsplit('.').next().unwrap_or_default();
        self.per.is_none() && (last.contains("accuracy") || last.contains("agreement"))
    }
}

/// A number, or a metric of a single seed.
fn at(report: &Value, path: &str) -> Option<f64> {
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
    value.as_f64().or_else(|| value.get("mean")?.as_f64())
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
        let of = |path: &str| path.parse::<Quantity>().unwrap().of(&report);
        assert_eq!(of("students.0.test_accuracy"), Some(0.5));
        assert_eq!(of("students.small.test_accuracy"), Some(0.5));
        assert_eq!(of("students.big.test_accuracy"), None);
        assert_eq!(of("students.0.kl_to_teacher"), None);
        assert_eq!(of("soft_targets.bytes / soft_targets.samples"), Some(4.0));
        assert_eq!(of("soft_targets.bytes / soft_targets.frames"), None);
    }
}
