//! The program as its users have it: a fleet of its own processes, and what is made of their model.

use std::path::Path;

use retort_tests::Harness;
use retort_tests::online::{exactly_once, text};
use serde_json::Value;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-custom"))
}

fn job() -> String {
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("rings.toml");
    text(&job).to_owned()
}

#[test]
fn a_fleet_trains_what_only_this_program_knows() {
    let h = harness();
    let said = h.ok(&["check", &job()]);
    assert!(said.contains("1x1x2") && said.contains("60 labelled"), "{said}");
    let report = h.ok(&["run", &job(), "--out", "out", "--json", "--set", "run.epochs=6"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    exactly_once(&h, &h.path("out"), &report, 6 * 1800);
    assert_eq!(report["soft_targets"]["samples"], 6 * 1800);
    let student = &report["students"][0];
    assert_eq!(
        (&student["parameters"], &student["flops_per_sample"]),
        (&(3 * 24 + 25 * 3).into(), &Value::Null)
    );
    let accuracy = student["test_accuracy"]["mean"].as_f64().unwrap();
    assert!(accuracy > 0.7, "a guess has 0.68: {accuracy}");

    let measured = h.ok(&["evaluate", "out/students/small", "--json"]);
    let measured: Value = serde_json::from_str(&measured).unwrap();
    assert_eq!(measured["test_accuracy"], student["test_accuracy"]["mean"]);
    h.ok(&["export", "out", "--group", "small", "--to", "copy"]);
    let point = h.job("point.txt", "0.1 -0.1");
    let predicted = h.ok(&["predict", "copy", text(&point), "--json"]);
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    assert_eq!(predicted[0]["classes"].as_array().unwrap().len(), 3);
}

#[test]
fn its_parameters_are_checked_like_any() {
    let h = harness();
    for (setting, part) in [
        (
            "students.0.model.custom.width=0",
            "students.0.model = this model: expected one for inputs of 1x1x2: architecture \"sines\": width = 0: expected 1..=4096",
        ),
        ("students.0.model.custom.widht=8", "unknown field `widht`"),
        (
            "students.0.model.custom.name=cosines",
            "architecture \"cosines\": unknown to this program, which brings sines",
        ),
        (
            "dataset.custom.name=squares",
            "custom.name = \"squares\": expected one of [\"rings\"]",
        ),
    ] {
        let output = h.call(&["check", &job(), "--set", setting]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{setting}: {message}");
        assert!(message.contains(part), "{setting}: {message}");
    }
}
