//! Weights that PyTorch trained, as a teacher over real processes.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use retort_tests::Harness;
use retort_tests::online::{exactly_once, text};
use serde_json::Value;

/// `Sequential(Flatten, Linear(64, 24), ReLU, Linear(24, 16), ReLU, Linear(16, 10))`, the digits as Retort gives them, trained by
/// `tests/tests/pytorch/make.py`.
const WEIGHTS: &[u8] = include_bytes!("pytorch/digits.safetensors");

const CARD: &str = r#"
shape = [1, 8, 8]
model = { architecture = "mlp", hidden = [24, 16] }
gives = "logits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
names = { "hidden.0" = "1", "hidden.1" = "3", "classifier" = "5" }
"#;

const JOB: &str = r#"
[run]
name = "pytorch"
seed = 2
epochs = 6
batch_size = 32

[dataset]
name = "digits"
labelled = 40

[[teachers]]
name = "theirs"
source = { kind = "checkpoint", path = "teacher" }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [16] }
learning_rate = 0.02
teachers = [{ name = "theirs" }]
"#;

fn harness() -> Harness {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    std::fs::write(h.path("digits.safetensors"), WEIGHTS).unwrap();
    h
}

#[test]
fn a_fleet_learns_from_weights_of_pytorch() {
    let h = harness();
    h.job("digits.toml", CARD);
    let card = h.ok(&["import", "digits.safetensors", "--out", "teacher", "--json"]);
    let card: Value = serde_json::from_str(&card).unwrap();
    assert_eq!(
        (&card["name"], &card["parameters"]),
        (&"digits".into(), &2130.into())
    );
    let job = h.job("job.toml", JOB);
    let report = h.ok(&["run", text(&job), "--out", "out", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    exactly_once(&h, &h.path("out"), &report, 6 * 1297);
    let accuracy = |of: &Value| of["test_accuracy"]["mean"].as_f64().unwrap();
    // PyTorch trained it on all digits.
    assert!(
        accuracy(&report["teachers"][0]) > 0.95,
        "{}",
        report["teachers"][0]
    );
    assert!(
        accuracy(&report["students"][0]) > 0.7,
        "{}",
        report["students"][0]
    );

    // The names of its classes are held, as nothing else says what they are.
    let other = CARD.replace("\"0\", \"1\"", "\"1\", \"0\"");
    h.job("digits.toml", &other);
    h.ok(&["import", "digits.safetensors", "--out", "mixed-up"]);
    let job = h.job("job.toml", &JOB.replace("\"teacher\"", "\"mixed-up\""));
    let message = refused(&h, &["check", text(&job)]);
    assert!(message.contains("class 0 is \"1\""), "{message}");
}

/// The command ends with 2 and makes nothing; what it says.
fn refused(h: &Harness, args: &[&str]) -> String {
    let output = h.call(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    message
}

#[test]
fn a_card_that_does_not_fit_is_refused() {
    let h = harness();
    for (from, to, parts) in [
        (
            "[24, 16]",
            "[24, 8]",
            ["5.weight is [10, 16], expected [10, 8]", ""],
        ),
        (
            "\"hidden.1\" = \"3\"",
            "\"hidden.1\" = \"2\"",
            ["hidden.1.bias", "3.bias, 3.weight is left over"],
        ),
        (
            "\"hidden.1\"",
            "\"hidden1\"",
            ["names: \"hidden1\" is no part", "hidden.1.weight"],
        ),
        (
            "gives = \"logits\"",
            "gives = \"probabilities\"",
            ["gives = \"probabilities\"", "\"logits\", which"],
        ),
        (
            "model = {",
            "# model = {",
            ["model = (absent)", "network of ours"],
        ),
        ("hidden = [24", "hiden = [24", ["digits.toml", "hiden"]),
        (
            "shape = [1, 8, 8]",
            "shape = [1, 8, 9]",
            ["1.weight is [24, 64], expected [24, 72]", ""],
        ),
    ] {
        let card = CARD.replace(from, to);
        assert_ne!(card, CARD, "{from}");
        h.job("digits.toml", &card);
        let message = refused(&h, &["import", "digits.safetensors", "--out", "teacher"]);
        assert!(parts.iter().all(|part| message.contains(part)), "{to}: {message}");
        assert!(!h.path("teacher").exists(), "{to}");
    }
    std::fs::write(h.path("digits.safetensors"), &WEIGHTS[..500]).unwrap();
    h.job("digits.toml", CARD);
    let message = refused(&h, &["import", "digits.safetensors", "--out", "teacher"]);
    assert!(
        message.contains("digits.safetensors: not a safetensors file"),
        "{message}"
    );
}
