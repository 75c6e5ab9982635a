//! Experiments as files, plans and tables; real runs are among the scenarios.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::file::File;
use super::outcome::{self, Finals, Outcome, Row, Trial};
use super::plan::Plan;
use super::store::Store;
use super::{Failure, Work, listing, preflight, table};

const FILE: &str = r#"
    [experiment]
    name = "labels"
    question = "Where does the teacher stop mattering?"
    seeds = 3
    tuning_seeds = 2
    job = "../../examples/digits-online.toml"
    set = { "run.epochs" = 2, "run.baseline" = false }
    columns = { "bytes a sample" = "soft_targets.bytes / soft_targets.samples" }

    [experiment.axes]
    "dataset.labelled" = [50, 100]

    [[arms]]
    name = "alone"
    set = { "teachers" = [], "students.0.teachers" = [] }

    [[arms]]
    name = "online"

    [search]
    "students.0.learning_rate" = [0.005, 0.01, 0.02]

    [compare]
    against = "alone"
"#;

const OFFLINE: &str = r#"
    [experiment]
    name = "offline"
    question = "?"
    seeds = 2
    job = "../../examples/digits-offline.toml"
    set = { "run.baseline" = false, "teachers.0.source.path" = "{teacher}/teachers/wide" }
    prepare = [{ name = "teacher", job = "../../examples/digits-teacher.toml", without_axes = ["distillation.temperature"] }]

    [experiment.axes]
    "distillation.temperature" = [1.0, 4.0]

    [[arms]]
    name = "offline"

    [[arms]]
    name = "alone"
    set = { "teachers" = [], "students.0.teachers" = [] }
    without_axes = ["distillation.temperature"]
"#;

/// As if the file lay in this crate's folder of sources.
fn plan(text: &str) -> Plan {
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/experiment/..");
    let file = File::parse(text, Path::new("e.toml")).unwrap_or_else(|e| panic!("{e}"));
    Plan::new(file, base)
}

fn refused(text: &str) -> String {
    File::parse(text, Path::new("e.toml"))
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn arms_and_axes_become_rows_with_the_same_search() {
    let plan = plan(FILE);
    let arms: Vec<&str> = plan.cells.iter().map(|c| plan.arm(c).name.as_str()).collect();
    assert_eq!(arms, ["alone", "online", "alone", "online"]);
    assert!(plan.cells.iter().all(|c| c.candidates.len() == 3));
    let (seeds, tuning) = (plan.seeds(), plan.tuning_seeds());
    assert_eq!((seeds.len(), tuning.len()), (3, 2));
    assert!(tuning.iter().all(|seed| !seeds.contains(seed)));
}

#[test]
fn unequal_effort_is_refused_with_both_counts() {
    let more = FILE.replace(
        "name = \"online\"",
        "name = \"online\"\nsearch = { \"distillation.alpha\" = [0.5, 0.9] }",
    );
    let text = refused(&more);
    let expected =
        "arms.1.search = 6 trials for arm \"online\": expected 3 trials, as many as arm \"alone\" has";
    assert!(text.contains(expected), "{text}");
    let both = more.replace(
        "name = \"alone\"",
        "name = \"alone\"\nsearch = { \"students.0.weight_decay\" = [0.0, 0.001] }",
    );
    assert_eq!(plan(&both).cells[0].candidates.len(), 6);
    // Other values of the same key are its own affair.
    let other = FILE.replace(
        "name = \"alone\"",
        "name = \"alone\"\nsearch = { \"students.0.learning_rate\" = [0.001, 0.002, 0.005] }",
    );
    assert_eq!(plan(&other).cells.len(), 4);
}

#[test]
fn bad_files_are_refused_by_key_value_and_bound() {
    for (from, to, parts) in [
        ("seeds = 3", "seeds = 0", ["experiment.seeds = 0", "1 to 1000"]),
        (
            "name = \"online\"",
            "name = \"alone\"",
            ["arms.1.name", "no other arm"],
        ),
        (
            "against = \"alone\"",
            "against = \"nobody\"",
            ["compare.against = \"nobody\"", "alone, online"],
        ),
        (
            "[search]",
            "[search]\nmetric = \"students.0.test_accuracy\"",
            ["search.metric", "validation"],
        ),
        ("[50, 100]", "[50, 50]", ["experiment.axes", "each once"]),
        (
            "[0.005, 0.01, 0.02]",
            "[]",
            ["search.\"students.0.learning_rate\"", "at least one"],
        ),
        (
            "\"run.epochs\" = 2",
            "\"run.seed\" = 2",
            ["run.seed", "the experiment sets it"],
        ),
        (
            "soft_targets.bytes /",
            "soft_targets.byte /",
            ["bytes a sample", "frames"],
        ),
        ("question", "questoin", ["e.toml", "questoin"]),
        (
            "[search]",
            "[search]\n\"dataset.labelled\" = [1]",
            ["dataset.labelled", "no axis"],
        ),
        (
            "name = \"online\"",
            "name = \"online\"\nset = { \"teachers.0.source.path\" = \"{teacher}/x\" }",
            ["{teacher}", "a step before it"],
        ),
        (
            "name = \"online\"",
            "name = \"online\"\nwithout_axes = [\"run.epochs\"]",
            ["run.epochs", "dataset.labelled"],
        ),
    ] {
        assert!(FILE.contains(from), "{from}");
        let text = refused(&FILE.replacen(from, to, 1));
        assert!(parts.iter().all(|part| text.contains(part)), "{to}: {text}");
    }
}

fn preflight_error(text: &str) -> String {
    match preflight::check(&plan(text)) {
        Err(Failure::Input(message)) => message,
        other => panic!("must be refused as bad input: {other:?}"),
    }
}

#[test]
fn every_job_is_checked_before_the_first_starts() {
    let counts = preflight::check(&plan(FILE)).unwrap();
    // Two places of the axis, three candidates of two seeds, three final runs.
    let each = 2 * (3 * 2 + 3);
    assert_eq!(
        counts,
        BTreeMap::from([("alone".into(), each), ("online".into(), each)])
    );
    let text = preflight_error(&FILE.replace("[50, 100]", "[50, 5000]"));
    for part in [
        "alone",
        "dataset.labelled = 5000",
        "digits-online.toml",
        "at most 1297",
    ] {
        assert!(text.contains(part), "{part} missing in {text}");
    }
    let text = preflight_error(&FILE.replace("0.02]", "-1.0]"));
    assert!(
        text.contains("students.0.learning_rate = -1: expected a finite number > 0"),
        "{text}"
    );
    let far = FILE.replace("seeds = 3", "metric = \"students.1.test_accuracy\"\nseeds = 3");
    let text = preflight_error(&far);
    assert!(
        text.contains("experiment.metric") && text.contains("(small)"),
        "{text}"
    );
}

#[test]
fn steps_come_first_and_only_once_for_all_that_share_them() {
    let plan = plan(OFFLINE);
    let counts = preflight::check(&plan).unwrap();
    let of = |name: &str| {
        counts
            .iter()
            .find(|(kind, _)| kind.starts_with(name))
            .map(|(_, n)| *n)
    };
    // One teacher a seed for both temperatures and both arms; `alone` is the same at each temperature.
    assert_eq!(
        (of("teacher"), of("offline"), of("alone")),
        (Some(2), Some(4), Some(2))
    );
    let tasks = plan
        .tasks(&plan.cells[0], &plan.cells[0].candidates[0], 7)
        .unwrap();
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[1].needs["teacher"], tasks[0].id);
    let job = tasks[1].resolved(|id| Path::new("/kept").join(id)).unwrap();
    let text = toml::to_string(&job).unwrap();
    let path = format!("path = \"/kept/{}/teachers/wide\"", tasks[0].id);
    assert!(text.contains(&path) && text.contains("seed = 7"), "{text}");
    assert!(
        tasks[1]
            .command()
            .contains("'teachers.0.source.path=\"{teacher}/teachers/wide\"'"),
        "{}",
        tasks[1].command()
    );
    let alone = plan
        .tasks(&plan.cells[1], &plan.cells[1].candidates[0], 7)
        .unwrap();
    assert_eq!(alone.len(), 1, "nothing in it names the teacher");
    assert!(
        listing(&plan, &counts)
            .unwrap()
            .contains("8 different runs at most"),
        "{}",
        listing(&plan, &counts).unwrap()
    );
}

#[test]
fn a_model_that_no_step_makes_is_refused() {
    let text = preflight_error(&OFFLINE.replace("teachers/wide", "teachers/wise"));
    assert!(
        text.contains("\"teachers/wise\"") && text.contains("(teachers/wide)"),
        "{text}"
    );
}

#[test]
fn ids_tell_runs_apart_by_what_they_train() {
    let plan = plan(FILE);
    let mut ids = BTreeSet::new();
    for cell in &plan.cells {
        for candidate in &cell.candidates {
            for seed in [1, 2] {
                ids.insert(plan.tasks(cell, candidate, seed).unwrap()[0].id.clone());
            }
        }
    }
    assert_eq!(ids.len(), 4 * 3 * 2);
    let again = self::plan(FILE);
    let id = |plan: &Plan| {
        plan.tasks(&plan.cells[1], &plan.cells[1].candidates[2], 2)
            .unwrap()[0]
            .id
            .clone()
    };
    assert_eq!(id(&plan), id(&again));
}

/// What a run with this seed and rate would have reported.
fn report(seed: u64, rate: f64, taught: bool) -> Value {
    // The best rate at validation is 0.01 alone and 0.02 with a teacher.
    let best = if taught { 0.02 } else { 0.01 };
    let validation = 0.9 - (rate - best).abs();
    let test = 0.8
        + 0.001 * seed as f64
        + if taught {
            0.05 + 0.002 * (seed % 2) as f64
        } else {
            0.0
        };
    let metric = |value: f64| json!({ "mean": value, "sd": 0.0, "values": [value] });
    json!({
        "run": { "wall_s": 2.0, "retort": "0.0.0" },
        "dataset": { "name": "digits", "digest": "abc" },
        "students": [{ "name": "small", "test_accuracy": metric(test), "validation_accuracy": metric(validation) }],
        "soft_targets": { "bytes": if taught { 480 } else { 0 }, "samples": if taught { 20 } else { 0 } },
    })
}

/// An outcome of runs that are all there: nothing may be started.
fn resumed() -> Outcome {
    let plan = plan(FILE);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let seeds = plan.seeds().into_iter().chain(plan.tuning_seeds());
    for seed in seeds.collect::<Vec<_>>() {
        for cell in &plan.cells {
            for candidate in &cell.candidates {
                let task = plan.tasks(cell, candidate, seed).unwrap().remove(0);
                let rate = candidate["students.0.learning_rate"].as_float().unwrap();
                store.pretend(&task, &report(seed, rate, plan.arm(cell).name == "online"));
            }
        }
    }
    let runs = preflight::check(&plan).unwrap();
    let mut outcome = None;
    crate::failure::block_on(async {
        outcome = Some(Work::new(&plan, &store, &runs)?.all().await?);
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e:?}"));
    outcome.unwrap()
}

#[test]
fn what_is_there_is_not_run_again_and_validation_alone_chooses() {
    let outcome = resumed();
    assert_eq!((outcome.runs, outcome.wall_s), (36, 72.0));
    let rates: Vec<f64> = outcome
        .rows
        .iter()
        .map(|row| row.chosen["students.0.learning_rate"].as_float().unwrap())
        .collect();
    assert_eq!(rates, [0.01, 0.02, 0.01, 0.02]);
    assert!(
        outcome
            .rows
            .iter()
            .all(|row| row.tried.len() == 3 && row.tried[0].scores.len() == 2)
    );
    let difference = outcome.rows[1].difference.as_ref().unwrap();
    assert_eq!(difference.values.len(), 3);
    assert!(
        (difference.mean - (0.05 + 0.004 / 3.0)).abs() < 1e-12,
        "{difference:?}"
    );
    assert!(outcome.rows[0].difference.is_none());
    let json = serde_json::to_value(&outcome).unwrap();
    assert_eq!(json["rows"][1]["metric"]["values"].as_array().unwrap().len(), 3);
    assert_eq!(json["datasets"]["digits"][0], "abc");
    assert_eq!(json["rows"][0]["columns"]["bytes a sample"], Value::Null);
}

#[test]
fn the_table_says_spread_interval_choice_and_effort() {
    let text = table::render(&resumed());
    for part in [
        "| `dataset.labelled` | arm | `students.0.test_accuracy`, % | difference from alone (95 % interval) | bytes a \
         sample | chosen |",
        "| 50 | alone | 80.20 ± 0.10 | - | - | learning_rate 0.01 |",
        "| 100 | online | 85.33 ± 0.15 | +5.13 (+4.85 to +5.42) | 24.00 ± 0 | learning_rate 0.02\\* |",
        "final seeds 1, 2, 3, measured after the last epoch",
        "3 trials of 2 seed(s) (1001, 1002)",
        "at the end of its list",
        "All arms: `students.0.learning_rate` of [0.005, 0.01, 0.02].",
        "Of 2 differences from alone, 2 lie above zero",
        "36 runs took 1 min 12 s",
    ] {
        assert!(text.contains(part), "{part} missing in\n{text}");
    }
}

#[test]
fn harm_and_nothing_are_said_like_help() {
    let plan = plan(FILE);
    let finals = |values: [f64; 3]| Finals {
        chosen: plan.cells[0].candidates[0].clone(),
        tried: Vec::new(),
        reports: values
            .iter()
            .map(|v| json!({ "students": [{ "test_accuracy": v }] }).into())
            .collect(),
        commands: Vec::new(),
    };
    let values = [
        [0.8, 0.81, 0.82],
        [0.7, 0.712, 0.718],
        [0.8, 0.8, 0.8],
        [0.81, 0.79, 0.8],
    ];
    let rows = plan
        .cells
        .iter()
        .zip(values)
        .map(|(cell, v)| Row::new(&plan, cell, finals(v)).unwrap());
    let mut rows: Vec<Row> = rows.collect();
    outcome::compare(&mut rows, "alone");
    let text = table::render(&Outcome { rows, ..resumed() });
    assert!(
        text.contains("0 lie above zero with their whole interval, 1 below it; the intervals of the other 1 include zero"),
        "{text}"
    );
    assert!(text.contains("-10.00 (-"), "{text}");
}

#[test]
fn of_equal_trials_the_first_listed_wins() {
    let plan = plan(FILE);
    let tried: Vec<Trial> = plan.cells[0]
        .candidates
        .iter()
        .zip([0.5, 0.7, 0.7])
        .map(|(settings, mean)| Trial {
            settings: settings.clone(),
            scores: vec![mean],
            mean,
        })
        .collect();
    assert_eq!(outcome::best(&tried), Some(&tried[1]));
}

#[test]
fn a_folder_of_something_else_and_a_second_experiment_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Failure::Input(m)) if m.contains("empty or absent")));
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Failure::Input(m)) if m.contains("another experiment")));
    drop(first);
    assert!(Store::open(dir.path()).is_ok());
}

#[test]
fn the_experiments_of_this_repository_can_start() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../experiments");
    let entries = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = entries
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(!files.is_empty());
    for path in files {
        let file = File::read(&path).unwrap_or_else(|e| panic!("{e:?}"));
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert_eq!(file.experiment.name, stem);
        match preflight::check(&Plan::new(file, folder.clone())) {
            Ok(runs) => assert!(runs.values().sum::<usize>() > 0),
            // Data that this machine may lack.
            Err(Failure::Input(message)) => {
                let elsewhere = [
                    "install the Debian package",
                    "retort-runs/data",
                    "read /usr/share/asterisk/sounds",
                ];
                let lines = message
                    .lines()
                    .filter(|line| !elsewhere.iter().any(|data| line.contains(data)));
                assert_eq!(lines.collect::<String>(), "", "{}", path.display());
            }
            Err(other) => panic!("{}: {other:?}", path.display()),
        }
    }
}
