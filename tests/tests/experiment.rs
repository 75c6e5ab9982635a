//! An experiment over real fleets: stopped by Ctrl-C, gone on with, and its result.

use std::path::Path;
use std::time::Duration;

use retort_tests::{Harness, eventually, json, signal};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(240);

const JOB: &str = r#"
[run]
name = "tiny"
epochs = 2

[dataset]
name = "digits"
labelled = 50

[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [16] }
source = { kind = "trained", learning_rate = 0.01 }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [8] }
teachers = [{ name = "wide" }]

[distillation]
gate = "none"
"#;

const EXPERIMENT: &str = r#"
[experiment]
name = "tiny"
question = "Does it run?"
seeds = 2
job = "job.toml"
columns = { "bytes" = "soft_targets.bytes" }

[[arms]]
name = "alone"
set = { "teachers" = [], "students.0.teachers" = [] }

[[arms]]
name = "offline"
set = { "teachers" = [{ name = "wide", source = { kind = "checkpoint", path = "{made}/teachers/wide" } }] }
prepare = [{ name = "made", job = "job.toml", set = { "students" = [] } }]

[search]
"students.0.learning_rate" = [0.01, 0.03]

[compare]
against = "alone"
"#;

/// Runs that are finished.
fn finished(out: &Path) -> Vec<(String, std::time::SystemTime)> {
    let trials = std::fs::read_dir(out.join("trials"))
        .into_iter()
        .flatten()
        .flatten();
    let mut finished: Vec<_> = trials
        .filter_map(|trial| {
            let modified = std::fs::metadata(trial.path().join("report.json"))
                .ok()?
                .modified()
                .ok()?;
            Some((trial.file_name().to_string_lossy().into_owned(), modified))
        })
        .collect();
    finished.sort();
    finished
}

#[test]
fn an_experiment_goes_on_where_it_was_stopped() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    h.job("job.toml", JOB);
    let file = h.job("experiment.toml", EXPERIMENT);
    let out = h.path("out");
    let args = [
        "experiment",
        file.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--json",
    ];

    let running = h.start(&args);
    eventually("two runs are finished", LIMIT, || {
        (finished(&out).len() >= 2).then_some(())
    })
    .unwrap();
    signal(running.pid(), Signal::INT).unwrap();
    let (code, text) = running.end(LIMIT).unwrap();
    assert_eq!((code, text.as_str()), (130, ""));
    assert!(!out.join("result.json").exists());

    let before = finished(&out);
    let result: serde_json::Value = serde_json::from_str(&h.ok(&args)).unwrap();
    assert_eq!(result, json(&out.join("result.json")));
    let after = finished(&out);
    assert!(
        before.iter().all(|run| after.contains(run)),
        "{before:?} became {after:?}"
    );
    // Two arms of two candidates and two final seeds, and a teacher for each of three seeds.
    assert_eq!(
        (after.len(), result["runs"].as_u64()),
        (2 * (2 + 2) + 3, Some(11))
    );

    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["metric"]["values"].as_array().unwrap().len(), 2);
        let scores = row["tried"].as_array().unwrap();
        let score = |i: usize| scores[i]["mean"].as_f64().unwrap();
        let best = if score(1) > score(0) { 1 } else { 0 };
        assert_eq!(row["chosen"], scores[best]["settings"]);
    }
    assert!(rows[1]["difference"]["interval"].is_array());
    assert!(rows[1]["columns"]["bytes"]["mean"].as_f64().unwrap() > 0.0);
    let table = std::fs::read_to_string(out.join("result.md")).unwrap();
    assert!(
        table.contains("| offline |") && table.contains("11 runs took"),
        "{table}"
    );
    // Only steps keep their models, and nothing unfinished stays.
    let kept = after
        .iter()
        .filter(|(id, _)| out.join("trials").join(id).join("teachers").is_dir());
    assert_eq!(kept.count(), 3);
    assert!(
        after
            .iter()
            .all(|(id, _)| !out.join("trials").join(id).join("run").exists())
    );
}

#[test]
fn a_bad_arm_starts_nothing() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    h.job("job.toml", JOB);
    for (from, to, parts) in [
        (
            "[0.01, 0.03]",
            "[0.01, -0.03]",
            ["job.toml", "students.0.learning_rate = -0.03"],
        ),
        (
            "name = \"offline\"",
            "name = \"offline\"\nsearch = { \"distillation.alpha\" = [0.1, 0.5] }",
            ["4 trials for arm \"offline\"", "2 trials"],
        ),
    ] {
        let file = h.job("experiment.toml", &EXPERIMENT.replace(from, to));
        let output = h.call(&["experiment", file.to_str().unwrap(), "--out", "out"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(!h.path("out").exists());
    }
}
