//! Teachers that other groups make, over real processes: averages, earlier states, peers, a teacher that learns
//! from its student.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use retort_tests::Harness;
use retort_tests::online::{exactly_once, text};
use serde_json::Value;

const SAMPLES: u64 = 1297;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// A job of the examples, made short.
fn run(h: &Harness, example: &str, epochs: u32, settings: &[&str]) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let job = std::fs::read_to_string(format!("{path}/{example}.toml")).unwrap();
    let file = h.job("job.toml", &job);
    let epochs = format!("run.epochs={epochs}");
    let fixed = [
        "run",
        text(&file),
        "--out",
        "out",
        "--json",
        "--set",
        &epochs,
        "--set",
        "run.baseline=false",
    ];
    let more = settings.iter().flat_map(|s| ["--set", s]);
    let args: Vec<&str> = fixed.into_iter().chain(more).collect();
    serde_json::from_str(&h.ok(&args)).unwrap()
}

fn teacher<'a>(report: &'a Value, name: &str) -> &'a Value {
    let teachers = report["teachers"].as_array().unwrap();
    let found = teachers.iter().find(|t| t["name"] == name);
    found.unwrap_or_else(|| panic!("no teacher {name} in {teachers:?}"))
}

fn count(teacher: &Value, key: &str) -> u64 {
    teacher[key].as_u64().unwrap()
}

#[test]
fn a_student_learns_from_the_average_of_its_own_versions() {
    let h = harness();
    let report = run(&h, "digits-ema", 6, &["students.0.replicas=2"]);
    exactly_once(&h, &h.path("out"), &report, 6 * SAMPLES);
    let mean = teacher(&report, "mean");
    assert!(count(mean, "versions_trained_on") > 2, "{mean}");
    assert_eq!(report["soft_targets"]["samples"], 6 * SAMPLES);
    // Another model than the student's, made of its versions, and one that can be used.
    let h = &h;
    let evaluate = |folder: &str| h.ok(&["evaluate", text(&h.path(folder)), "--json"]);
    let accuracy = |text: String| {
        let json: Value = serde_json::from_str(&text).unwrap();
        json["test_accuracy"]
            .as_f64()
            .or(json["accuracy"].as_f64())
            .unwrap()
    };
    let own = mean["test_accuracy"]["mean"].as_f64().unwrap();
    assert_eq!(accuracy(evaluate("out/teachers/mean")), own);
    let weights = |folder: &str| std::fs::read(h.path(folder).join("model.safetensors")).unwrap();
    assert_ne!(weights("out/teachers/mean"), weights("out/students/small"));
}

#[test]
fn a_student_learns_from_its_state_at_the_end_of_the_epoch_before() {
    let h = harness();
    let report = run(&h, "digits-own-predictions", 5, &[]);
    exactly_once(&h, &h.path("out"), &report, 5 * SAMPLES);
    let before = teacher(&report, "before");
    // The initial state and the ends of the first epochs; whether the last one served is a matter of time.
    assert!((4..=6).contains(&count(before, "versions")), "{before}");
    assert!(count(before, "versions_trained_on") <= 5, "{before}");
}

#[test]
fn each_generation_waits_for_the_last_state_of_the_one_before() {
    let h = harness();
    let report = run(&h, "digits-born-again", 2, &[]);
    exactly_once(&h, &h.path("out"), &report, 3 * 2 * SAMPLES);
    for generation in ["generation-1", "generation-2"] {
        let teacher = teacher(&report, generation);
        let one = (1, 1);
        let found = (count(teacher, "versions"), count(teacher, "versions_trained_on"));
        assert_eq!(found, one, "{teacher}");
    }
    assert_eq!(report["soft_targets"]["samples"], 2 * 2 * SAMPLES);
}

#[test]
fn students_teach_each_other() {
    let h = harness();
    let report = run(&h, "digits-mutual", 6, &[]);
    exactly_once(&h, &h.path("out"), &report, 2 * 6 * SAMPLES);
    for peer in ["left", "right"] {
        let peer = teacher(&report, peer);
        assert!(count(peer, "versions_trained_on") > 2, "{peer}");
    }
    assert_eq!(report["soft_targets"]["samples"], 2 * 6 * SAMPLES);
}

#[test]
fn a_teacher_learns_from_its_student_while_it_teaches() {
    let h = harness();
    let report = run(&h, "digits-collaborative", 6, &[]);
    exactly_once(&h, &h.path("out"), &report, 6 * SAMPLES);
    assert!(count(teacher(&report, "wide"), "versions_trained_on") > 2);
    // The manifests of the teacher's group say what taught it.
    let audit: Value = serde_json::from_str(&h.ok(&["audit", text(&h.path("out")), "--json"])).unwrap();
    let groups = audit["groups"].as_array().unwrap();
    let wide = groups.iter().find(|g| g["group"] == "wide").unwrap();
    let versions = wide["teacher_versions"]["small"].as_object().unwrap();
    let samples: u64 = versions.values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(samples, 6 * SAMPLES, "{wide}");
}

#[test]
fn a_layer_of_the_student_learns_from_one_of_the_teacher() {
    for (example, teacher_bytes) in [
        // f16, and 4 bytes for each sample: units, channels at 4 x 4 and 2 x 2 places, 8 tokens.
        ("digits-hint", 2 * 256 + 4),
        ("digits-attention", 2 * 32 * 16 + 4),
        ("digits-cosine", 2 * 32 * 8 + 4),
        ("digits-relational", 2 * 64 * 4 + 4),
    ] {
        let h = harness();
        let report = run(&h, example, 3, &[]);
        exactly_once(&h, &h.path("out"), &report, 3 * SAMPLES);
        let sent = &report["soft_targets"];
        assert_eq!(sent["samples"], 3 * SAMPLES, "{example}");
        let bytes = sent["bytes"].as_u64().unwrap() as f64 / (3 * SAMPLES) as f64;
        let soft = 2.0 * 10.0; // f16
        assert!(
            (bytes - soft - f64::from(teacher_bytes)).abs() < 4.0,
            "{example}: {bytes} bytes a sample"
        );
        // What is exported has no projection.
        let model = h.path("out/students/small");
        let card: Value = serde_json::from_slice(&std::fs::read(model.join("model.json")).unwrap()).unwrap();
        let weights = std::fs::read(model.join("model.safetensors")).unwrap();
        assert!(!String::from_utf8_lossy(&weights[..2_000.min(weights.len())]).contains("projection"));
        assert!(weights.len() as u64 >= 4 * card["parameters"].as_u64().unwrap());
        assert!(h.ok(&["evaluate", text(&model)]).contains("accuracy"));
    }
}

#[test]
fn students_with_disjoint_halves_teach_each_other() {
    let h = harness();
    let report = run(&h, "digits-halves", 4, &[]);
    exactly_once(&h, &h.path("out"), &report, 2 * 4 * SAMPLES);
    assert_eq!(report["soft_targets"]["samples"], 2 * 4 * SAMPLES);
}
