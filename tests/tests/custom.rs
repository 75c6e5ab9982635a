//! What only another program knows: refused before anything starts, and named.

use retort_tests::Harness;
use retort_tests::online::{ONLINE, text};

#[test]
fn models_and_data_of_another_program_are_refused() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let student = "model = { architecture = \"mlp\", hidden = [16] }";
    let model = "model = { architecture = \"custom\", custom = { name = \"sines\", width = 24 } }";
    assert!(ONLINE.contains(student));
    let foreign_model = h.job("model.toml", &ONLINE.replace(student, model));
    let foreign_data = ONLINE.replace(
        "name = \"digits\"",
        "format = \"custom\"\ncustom = { name = \"rings\" }",
    );
    let foreign_data = h.job("data.toml", &foreign_data);
    let program = "run the program that brings it";
    for command in [&["check"][..], &["run", "--out", "out"]] {
        let args = |file| [command, &[text(file)]].concat();
        h.refused(&args(&foreign_model), &["students.0.model", "\"sines\"", program]);
        h.refused(&args(&foreign_data), &["custom.name = \"rings\"", program]);
    }
    assert!(!h.path("out").exists(), "nothing was started");

    let card = serde_json::json!({
        "format": 1, "name": "small", "input": { "channels": 1, "height": 1, "width": 2 }, "classes": 3,
        "model": { "architecture": "custom", "custom": { "name": "sines", "width": 24 } },
        "preprocessing": { "mean": [0.0], "std": [1.0] }, "temperature": 1, "parameters": 147,
        "dataset": { "name": "rings", "digest": "" }, "retort": "0.0.0",
    });
    std::fs::create_dir(h.path("small")).unwrap();
    std::fs::write(h.path("small/model.json"), card.to_string()).unwrap();
    std::fs::write(h.path("small/model.safetensors"), "").unwrap();
    let point = h.job("point.txt", "0.1 0.2");
    h.refused(
        &["predict", "small", text(&point)],
        &["small/model.json", "\"sines\"", program],
    );
}
