//! Teachers from ONNX files: brought in, checked, heard by a whole fleet; and refused by a build that cannot run them.

use std::path::{Path, PathBuf};

use retort_tests::Harness;
use retort_tests::online::{ONLINE, text, with_fixed_teacher};

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// A file of `crates/models/assets/onnx`.
fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/models/assets/onnx")
        .join(name)
}

/// The online job with the teacher in the folder `digits` instead of one that learns.
fn job(h: &Harness, more: &str) -> PathBuf {
    let place = format!("path = \"digits\"{more}");
    h.job("taught.toml", &with_fixed_teacher(ONLINE, &place))
}

#[cfg(not(feature = "onnx"))]
#[test]
fn a_build_without_the_feature_says_what_to_build() {
    let h = harness();
    let folder = h.path("digits");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(asset("digits.onnx"), folder.join("model.onnx")).unwrap();
    let card = serde_json::json!({
        "format": 1, "name": "digits", "input": { "channels": 1, "height": 8, "width": 8 }, "classes": 10,
        "model": { "architecture": "onnx",
            "onnx": { "input": "x", "layout": "flat", "output": "logits", "gives": "logits" } },
        "preprocessing": { "mean": [0.0], "std": [0.0625] }, "temperature": 1, "parameters": 1810,
        "dataset": { "name": "", "digest": "" }, "retort": "0.0.0",
    });
    std::fs::write(folder.join("model.json"), card.to_string()).unwrap();
    let file = job(&h, "");
    let feature = "--features onnx";
    for command in [&["check"][..], &["run", "--out", "out"]] {
        let args = [command, &[text(&file)]].concat();
        h.refused(&args, &["teachers.0.source.path", feature]);
    }
    assert!(!h.path("out").exists(), "nothing was started");
    let image = h.job("image.pgm", "P2\n1 1\n255\n9\n");
    h.refused(&["predict", "digits", text(&image)], &[feature]);
    let model = asset("digits.onnx");
    h.refused(
        &["import", text(&model), "--out", "other"],
        &["digits.onnx", feature],
    );
    assert!(!h.path("other").exists(), "nothing was written");
}

#[cfg(feature = "onnx")]
mod with_the_feature {
    #![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

    use retort_tests::json;
    use retort_tests::online::exactly_once;
    use serde_json::{Value, json};

    use super::*;

    fn import(h: &Harness) {
        let model = asset("digits.onnx");
        let said = h.ok(&["import", text(&model), "--out", "digits"]);
        for part in ["10 classes", "1810 parameters", "probabilities"] {
            assert!(said.contains(part), "{said}");
        }
    }

    fn run(h: &Harness, file: &Path, name: &str) -> Value {
        serde_json::from_str(&h.ok(&["run", text(file), "--out", name, "--json"])).unwrap()
    }

    /// Fetched by a teacher server, heard by two replicas, reported, copied, measured and used.
    #[test]
    fn a_fleet_learns_from_a_foreign_teacher() {
        let h = harness();
        import(&h);
        let report = run(&h, &job(&h, ""), "out");
        exactly_once(&h, &h.path("out"), &report, 6 * 1297);
        assert_eq!(report["soft_targets"]["samples"], 6 * 1297);
        let teacher = &report["teachers"][0];
        let bytes = std::fs::read(asset("digits.onnx")).unwrap();
        assert_eq!(
            (
                &teacher["parameters"],
                &teacher["bytes"],
                &teacher["flops_per_sample"]
            ),
            (&json!(1810), &json!(bytes.len()), &Value::Null)
        );
        assert!(
            teacher["test_accuracy"]["mean"].as_f64().unwrap() > 0.9,
            "{teacher}"
        );
        assert!(teacher["cost"]["latency_ms"].as_f64().unwrap() > 0.0);
        let student = report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap();
        assert!(student > 0.5, "the student learned: {student}");
        let copy = h.path("out/teachers/wide");
        assert_eq!(std::fs::read(copy.join("model.onnx")).unwrap(), bytes);
        assert!(h.path("out/report.html").is_file());

        let measured = h.ok(&["evaluate", text(&copy), "--json"]);
        let measured: Value = serde_json::from_str(&measured).unwrap();
        assert_eq!(measured["test_accuracy"], teacher["test_accuracy"]["mean"]);
        h.refused(&["evaluate", "digits"], &["--job"]);
        let compared = ["evaluate", "out/students/small", "--teacher", "digits", "--json"];
        let compared: Value = serde_json::from_str(&h.ok(&compared)).unwrap();
        assert_eq!(
            compared["agreement_with_teacher"],
            report["students"][0]["agreement_with_teacher"]["mean"]
        );
        let row = "0 9 16 16 0 0 0 0\n";
        let image = h.job("one.pgm", &format!("P2\n8 8\n16\n{}", row.repeat(8)));
        let predicted = h.ok(&["predict", "digits", text(&image), "--json"]);
        let predicted: Value = serde_json::from_str(&predicted).unwrap();
        assert_eq!(predicted[0]["classes"].as_array().unwrap().len(), 3);
        h.ok(&["export", "digits", "--to", "again"]);
        assert_eq!(
            json(&h.path("again/model.json")),
            json(&h.path("digits/model.json"))
        );
    }

    /// What is read of a file is part of what was recorded: another output is another teacher.
    #[test]
    fn recorded_soft_targets_belong_to_what_was_read() {
        let h = harness();
        import(&h);
        let file = job(&h, ", store = \"soft-targets\"");
        run(&h, &file, "first");
        run(&h, &file, "second");
        let card = h.path("digits/model.json");
        let mut other = json(&card);
        other["model"]["onnx"]["output"] = "logits".into();
        other["model"]["onnx"]["gives"] = "logits".into();
        std::fs::write(&card, other.to_string()).unwrap();
        run(&h, &file, "third");
        for (name, recorded) in [("first", 0), ("second", 1297), ("third", 0)] {
            let log = h.path(name).join("logs/teacher-server-1.log");
            let log = std::fs::read_to_string(log).unwrap();
            assert!(
                log.contains(&format!("{recorded} of 1297 samples are recorded")),
                "{name}: {log}"
            );
        }
    }

    #[test]
    fn an_import_is_refused_with_file_key_value_and_what_was_expected() {
        let h = harness();
        let card = std::fs::read_to_string(asset("digits.toml")).unwrap();
        let model = asset("digits.onnx");
        for (from, to, parts) in [
            (
                "shape = [1, 8, 8]",
                "shape = [1, 8, 9]",
                &["digits.onnx", "input \"x\"", "batch x 72"][..],
            ),
            ("\"flat\"", "\"nchw\"", &["input \"x\"", "batch x 1 x 8 x 8"]),
            ("\"flat\"", "\"rows\"", &["card.toml", "rows", "nhwc"]),
            ("scale = 16", "scale = 0", &["card.toml", "scale = 0", "> 0"]),
            (
                "scale = 16",
                "std = [1.0, 0.0]",
                &["std = [1.0, 0.0]", "1 finite numbers > 0"],
            ),
            (
                "scale = 16",
                "output = \"y\"",
                &["output is \"y\"", "probabilities"],
            ),
            (
                "scale = 16",
                "output = \"logits\"",
                &["output \"logits\" sums to", "expected 1"],
            ),
            (
                "scale = 16",
                "input = \"image\"",
                &["input is \"image\"", "\"x\""],
            ),
            (", \"9\"", "", &["output \"probabilities\"", "1 x 9"]),
            ("\"9\"", "\"8\"", &["classes = \"8\"", "each once"]),
            (
                "classes = ",
                "classes = \"names.txt\" #",
                &["card.toml", "classes", "names.txt"],
            ),
            ("gives = \"probabilities\"", "", &["card.toml", "gives"]),
        ] {
            assert!(card.contains(from), "{from}");
            let toml = h.job("card.toml", &card.replace(from, to));
            let args = ["import", text(&model), "--card", text(&toml), "--out", "digits"];
            h.refused(&args, parts);
        }
        let text_file = h.job("plain.onnx", "not a model");
        let toml = h.job("card.toml", &card);
        let args = [
            "import",
            text(&text_file),
            "--card",
            text(&toml),
            "--out",
            "digits",
        ];
        h.refused(&args, &["plain.onnx", "not a readable ONNX file"]);
        assert!(!h.path("digits").exists(), "nothing was written");
    }

    #[test]
    fn a_job_is_refused_where_it_does_not_fit_the_model() {
        let h = harness();
        import(&h);
        let file = job(&h, "");
        let file = text(&file);
        for (setting, parts) in [
            ("teachers.0.device=wgpu", &["teachers.0.device", "processor"][..]),
            ("dataset.name=mnist1d", &["teachers.0.source.path", "1x1x40"]),
        ] {
            h.refused(&["check", file, "--set", setting], parts);
        }
        let features = "\n[distillation.features]\nloss = \"hint\"\nstudent_layer = \"hidden1\"\nteacher_layer = \"hidden\"\n";
        let job = std::fs::read_to_string(file).unwrap() + features;
        let layers = h.job("layers.toml", &job);
        h.refused(&["check", text(&layers)], &["teacher_layer", "ONNX"]);
        let card = h.path("digits/model.json");
        let mut other = json(&card);
        other["class_names"][3] = "three".into();
        std::fs::write(&card, other.to_string()).unwrap();
        h.refused(&["check", file], &["class 3 is \"three\"", "\"3\""]);
    }

    /// By the library that `RETORT_ONNXRUNTIME` names. Without one there is nothing to test, which is said.
    #[cfg(feature = "onnxruntime")]
    #[test]
    fn the_users_library_answers_like_tract() {
        const LIBRARY: &str = "ORT_DYLIB_PATH";
        let Ok(library) = std::env::var("RETORT_ONNXRUNTIME") else {
            retort_tests::skipped("RETORT_ONNXRUNTIME names no shared library of ONNX Runtime");
            return;
        };
        let mut h = harness();
        import(&h);
        let file = job(&h, "");
        let measured = |h: &Harness| {
            let said = h.ok(&["evaluate", "digits", "--job", text(&file), "--json"]);
            serde_json::from_str::<Value>(&said).unwrap()
        };
        let tract = measured(&h);
        h.set(LIBRARY, &library);
        let theirs = measured(&h);
        assert_eq!(theirs["test_accuracy"], tract["test_accuracy"]);
        let nll = |said: &Value| said["test_nll"].as_f64().unwrap();
        assert!((nll(&theirs) - nll(&tract)).abs() < 1e-5, "{theirs}");
        let report = run(&h, &file, "out");
        exactly_once(&h, &h.path("out"), &report, 6 * 1297);
        assert_eq!(report["soft_targets"]["samples"], 6 * 1297);
        let again = report["teachers"][0]["test_nll"]["mean"].as_f64().unwrap();
        assert!((again - nll(&tract)).abs() < 1e-5);

        let card = h.path("digits/model.json");
        let mut inner = json(&card);
        inner["model"]["onnx"]["output"] = "logits".into();
        std::fs::write(&card, inner.to_string()).unwrap();
        h.refused(
            &["check", text(&file)],
            &["output is \"logits\"", "tract does", LIBRARY],
        );
        h.set(LIBRARY, "/nowhere/libonnxruntime.so");
        h.refused(
            &["check", text(&file)],
            &["ORT_DYLIB_PATH = /nowhere/libonnxruntime.so", "ONNX Runtime 1."],
        );
    }
}
