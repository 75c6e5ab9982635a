//! `docs/job-file.md` names the keys that the program reads, and their defaults.

use std::collections::{BTreeMap, BTreeSet};

use retort_data::{DatasetConfig, Views};
use retort_job::{Distillation, Exits, Features, Fleet, Job, Model, Run, Source, Student, Sync, Teacher};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

const REFERENCE: &str = include_str!("../../../docs/job-file.md");

/// Rows of the tables by heading: key and default.
fn reference() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in REFERENCE.lines() {
        if line.starts_with("##") {
            heading = line.trim_start_matches('#').trim().trim_matches('`').to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let mut cells = row.split(" | ");
            let (key, default) = (cells.next().expect("a key"), cells.next().expect("a default"));
            let key = key.trim_end_matches('`').to_owned();
            tables
                .entry(heading.clone())
                .or_default()
                .insert(key, default.to_owned());
        }
    }
    tables
}

/// The keys that a type reads, as its own error lists them.
fn keys<T: DeserializeOwned + std::fmt::Debug>(begin: &str) -> BTreeSet<String> {
    let error = toml::from_str::<T>(&format!("{begin}\nno-such-key = 1"))
        .expect_err("an unknown key")
        .message()
        .to_owned();
    let expected = error.split("expected").nth(1).expect("what is expected");
    let names = expected.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

fn source(kind: &str) -> BTreeSet<String> {
    keys::<Source>(&format!("kind = {kind:?}"))
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let heading = |kind: &str| format!("source = {{ kind = {kind:?} }}");
    let mut expected = BTreeMap::from([
        ("[run]".to_owned(), keys::<Run>("")),
        ("[dataset]".to_owned(), keys::<DatasetConfig>("")),
        ("[dataset.views]".to_owned(), keys::<Views>("")),
        ("[[teachers]]".to_owned(), keys::<Teacher>("")),
        ("[[students]]".to_owned(), keys::<Student>("")),
        ("model".to_owned(), keys::<Model>("")),
        ("model.exits".to_owned(), keys::<Exits>("")),
        ("[distillation]".to_owned(), keys::<Distillation>("")),
        ("[distillation.features]".to_owned(), keys::<Features>("")),
        ("[sync]".to_owned(), keys::<Sync>("")),
        ("[fleet]".to_owned(), keys::<Fleet>("")),
    ]);
    for kind in ["checkpoint", "trained", "ema", "snapshot", "peers"] {
        expected.insert(heading(kind), source(kind));
    }
    let found: BTreeMap<String, BTreeSet<String>> = reference()
        .into_iter()
        .map(|(heading, rows)| (heading, rows.into_keys().collect()))
        .collect();
    assert_eq!(found, expected);
}

/// As little as a job can say.
const SPARSE: &str = r#"
[run]
name = "r"
epochs = 1

[dataset]
name = "digits"
views = {}

[[teachers]]
name = "t"
source = { kind = "trained" }

[[students]]
name = "s"
model = { architecture = "cnn", exits = { at = [1] } }

[distillation.features]
loss = "hint"
student_layer = "a"
teacher_layer = "b"
"#;

/// What a job says when it is asked for everything.
fn said(job: &Table, path: &str) -> Table {
    let mut value = &Value::Table(job.clone());
    for part in path.split('.') {
        value = match value {
            Value::Array(all) => &all[part.parse::<usize>().expect("an index")],
            other => &other[part],
        };
    }
    value.as_table().expect("a table").clone()
}

#[test]
fn defaults_are_those_of_the_reference() {
    let job: Job = toml::from_str(SPARSE).expect("a job");
    let job = Table::try_from(job).expect("a table");
    let reference = reference();
    for (heading, path) in [
        ("[run]", "run"),
        ("[dataset.views]", "dataset.views"),
        ("[[teachers]]", "teachers.0"),
        ("source = { kind = \"trained\" }", "teachers.0.source"),
        ("[[students]]", "students.0"),
        ("model", "students.0.model"),
        ("model.exits", "students.0.model.exits"),
        ("[distillation]", "distillation"),
        ("[distillation.features]", "distillation.features"),
        ("[sync]", "sync"),
        ("[fleet]", "fleet"),
    ] {
        let said = said(&job, path);
        for (key, default) in &reference[heading] {
            let Some(default) = default.strip_prefix('`').and_then(|d| d.strip_suffix('`')) else {
                continue; // required, or nothing
            };
            let found: Value = default.parse().expect("a value");
            // A key that is left out where it has its default is as good.
            if let Some(value) = said.get(key) {
                assert_eq!(*value, found, "{heading} {key}");
            }
        }
    }
    // What the loop above compares.
    assert_eq!(said(&job, "fleet")["prefetch"], Value::from(8));
}
