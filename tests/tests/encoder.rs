//! BERT as a teacher: brought in with its tokenizer, heard by a fleet, used on plain text; and refused where it does not fit.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use retort_tests::online::{exactly_once, text};
use retort_tests::{Harness, json};
use serde_json::Value;

/// `{tokens}` and `{more}` stand for what scenarios differ in.
const JOB: &str = r#"
[run]
name = "encoder"
seed = 3
epochs = 6
batch_size = 32

[dataset]
format = "text"
path = "data"
validation = 40

[dataset.text]
tokens = {tokens}
length = 8

[[teachers]]
name = "bert"
source = { kind = "checkpoint", path = "teacher" }

[[students]]
name = "small"
{student}
teachers = [{ name = "bert", weight = 1.0 }]

[distillation]
temperature = 2.0
alpha = 0.9
gate = "none"
"#;

const BAG: &str = "model = { architecture = \"embedding-bag\", embedding = 4 }\nlearning_rate = 0.05";
const TOKENIZER: &str = "{ kind = \"tokenizer\", path = \"bert/tokenizer.json\" }";

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// The job, and the folder `bert` with the small encoder of `crates/models/assets/bert`.
fn job(h: &Harness, tokens: &str, student: &str) -> PathBuf {
    let folder = h.path("bert");
    std::fs::create_dir_all(&folder).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/models/assets/bert");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(assets.join(name), folder.join(name)).unwrap();
    }
    data(h);
    let job = JOB.replace("{tokens}", tokens).replace("{student}", student);
    h.job("job.toml", &job)
}

/// 200 sentences for training, 60 for testing, in words that the encoder knows and one that it does not.
fn data(h: &Harness) {
    let folder = h.path("data");
    std::fs::create_dir_all(&folder).unwrap();
    let lines = |from: usize, to: usize| {
        let mut lines = String::new();
        for i in from..to {
            let (word, label) = [("good", "positive"), ("bad", "negative")][i % 2];
            let film = ["The film", "A film", "Films", "the films"][i / 2 % 4];
            let more = [" is", " is a", " is the", " is really"][i / 8 % 4];
            writeln!(
                lines,
                "{{\"text\": \"{film}{more} {word}\", \"label\": \"{label}\"}}"
            )
            .unwrap();
        }
        lines
    };
    std::fs::write(folder.join("train.jsonl"), lines(0, 200)).unwrap();
    std::fs::write(folder.join("test.jsonl"), lines(200, 260)).unwrap();
}

fn run(h: &Harness, job: &Path, out: &str) -> Value {
    let report = h.ok(&["run", text(job), "--out", out, "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    exactly_once(h, &h.path(out), &report, 6 * 160);
    report
}

#[cfg(feature = "tokenizers")]
fn accuracy(of: &Value) -> f64 {
    of["test_accuracy"]["mean"].as_f64().unwrap()
}

#[cfg(not(feature = "tokenizers"))]
#[test]
fn a_build_without_the_feature_says_what_to_build() {
    let h = harness();
    let job = job(&h, TOKENIZER, BAG);
    let parts = ["text.tokens", "bert/tokenizer.json", "--features tokenizers"];
    h.refused(&["check", text(&job)], &parts);
    h.refused(&["run", text(&job), "--out", "out"], &parts);
    let import = ["import", "bert", "--job", text(&job), "--out", "teacher"];
    h.refused(&import, &parts);
    assert!(!h.path("out").exists() && !h.path("teacher").exists());
}

#[cfg(feature = "tokenizers")]
mod with_the_feature {
    use super::*;

    /// Imported, taught with, and then used where nothing but the export is left.
    #[test]
    fn a_fleet_learns_from_an_imported_encoder() {
        let h = harness();
        let job = job(&h, TOKENIZER, BAG);
        let import = ["import", "bert", "--job", text(&job), "--out", "teacher"];
        let said = h.ok(&import);
        for part in [
            "bert",
            "2 classes",
            "classifier fitted to 160 labelled samples",
            "40 validation samples",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let checked = h.ok(&["check", text(&job)]);
        assert!(checked.contains("160 samples of 1x1x8"), "{checked}");
        let report = run(&h, &job, "out");
        let (teacher, student) = (&report["teachers"][0], &report["students"][0]);
        assert!(accuracy(teacher) > 0.9 && accuracy(student) > 0.9, "{report}");

        let measured = h.ok(&["evaluate", "out/teachers/bert", "--json"]);
        let measured: Value = serde_json::from_str(&measured).unwrap();
        assert_eq!(measured["test_accuracy"], teacher["test_accuracy"]["mean"]);
        h.ok(&["export", "out", "--group", "small", "--to", "checkpoint"]);
        std::fs::remove_dir_all(h.path("bert")).unwrap();
        std::fs::remove_dir_all(h.path("teacher")).unwrap();
        let question = h.job("question.txt", "the film is good, it is good good");
        for model in ["out/students/small", "out/teachers/bert", "checkpoint"] {
            let answer = h.ok(&["predict", model, text(&question), "--top", "1"]);
            assert!(answer.contains(": positive ("), "{model}: {answer}");
        }
        let tokenizer = h.path("checkpoint/tokenizer.json");
        std::fs::write(&tokenizer, "{}").unwrap();
        let parts = ["tokens.blake3", "the hash of tokenizer.json"];
        h.refused(&["predict", "checkpoint", text(&question)], &parts);
        std::fs::remove_file(&tokenizer).unwrap();
        let parts = ["read checkpoint/tokenizer.json"];
        h.refused(&["predict", "checkpoint", text(&question)], &parts);
        h.refused(
            &["check", text(&job)],
            &["text.tokens: read ", "bert/tokenizer.json"],
        );
    }

    #[test]
    fn an_import_is_refused_with_what_was_expected() {
        let h = harness();
        let job = job(&h, TOKENIZER, BAG);
        let job = text(&job);
        let import = ["import", "bert", "--job", job, "--out", "teacher"];
        h.refused(
            &["import", "bert", "--out", "teacher"],
            &["--job", "without a classifier"],
        );
        let set = |setting: &'static str| [&import[..], &["--set", setting]].concat();
        for (setting, parts) in [
            (
                "dataset.text.tokens={ kind = 'bytes' }",
                &["dataset.text.tokens is Bytes", "bert/tokenizer.json"][..],
            ),
            (
                "dataset.text.length=11",
                &["max_position_embeddings is 10, expected at least 11"],
            ),
            (
                "dataset.text.length=2",
                &["tokenizer.json: length is 2, expected at least 3"],
            ),
            ("dataset.validation=0", &["dataset.validation is 0"]),
            (
                "dataset.text.tokens.blake3='00'",
                &["text.tokens", "expected 00, another tokenizer's file"],
            ),
        ] {
            h.refused(&set(setting), parts);
        }
        let config = h.path("bert/config.json");
        let plain = std::fs::read_to_string(&config).unwrap();
        let larger = plain.replace("\"vocab_size\": 12", "\"vocab_size\": 30522");
        std::fs::write(&config, larger).unwrap();
        h.refused(
            &import,
            &["bert: config.json: vocab_size is 30522, expected 12, the tokens of its tokenizer"],
        );
        std::fs::remove_file(&config).unwrap();
        h.refused(&import, &["bert/config.json"]);
        assert!(!h.path("teacher").exists(), "nothing was written");

        // Another order of classes is another teacher.
        std::fs::write(&config, plain).unwrap();
        h.ok(&import);
        let labels = h.path("data/classes.txt");
        std::fs::write(&labels, "positive\nnegative\n").unwrap();
        h.refused(&["check", job], &["class 0 is \"negative\"", "\"positive\""]);
    }
}

/// The encoder that `examples/data/minilm.sh` brings in; `None`, loudly, where it was not run.
#[cfg(feature = "tokenizers")]
fn minilm() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../retort-runs/data/minilm/teacher");
    if data.is_dir() {
        return Some(data);
    }
    let folder = data.with_file_name("");
    retort_tests::skipped(&format!(
        "no MiniLM: run examples/data/minilm.sh {}",
        folder.display()
    ));
    None
}

/// Ids and mean outputs of some texts, against those of transformers (`crates/models/assets/bert/minilm.py`).
#[cfg(feature = "tokenizers")]
#[test]
fn the_real_encoder_puts_out_what_its_makers_do() {
    use retort_models::{Classifier, Device};

    let Some(folder) = minilm() else { return };
    let mut model = Classifier::load(&folder, &Device::flex()).unwrap();
    let tokens = model.spec().tokens.clone().unwrap().below(&folder);
    let length = model.spec().input.width;
    let encoder = tokens.open(length).unwrap();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/models/assets/bert/minilm.json");
    for sample in json(&reference).as_array().unwrap() {
        let numbers = |key: &str| -> Vec<f64> {
            let values = sample[key].as_array().unwrap();
            values.iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let ids = encoder.encode(sample["text"].as_str().unwrap()).unwrap();
        let plain: Vec<f64> = ids.iter().map(|&id| f64::from(id)).collect();
        assert_eq!(plain, numbers("ids"), "{sample}");
        let pooled = model.pooled(&ids, 1).unwrap();
        let expected = numbers("pooled");
        assert_eq!(pooled.len(), expected.len());
        for (found, expected) in pooled.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}

/// Between layers of different widths: the student's is projected for one loss and seen by its attention map for the other.
#[test]
fn layers_of_an_encoder_teach_narrower_ones() {
    use retort_data::{Shape, Tokens};
    use retort_models::{Card, DatasetReference, Device, Export, Net, Preprocessing, Spec};

    let h = harness();
    let student =
        "model = { architecture = \"transformer\", width = 6, depth = 1, heads = 2 }\nlearning_rate = 0.01";
    let tokens = "{ kind = \"words-hashed\", ngrams = [1, 1], buckets = 50 }";
    let job = job(&h, tokens, student);
    let spec = Spec {
        model: toml::from_str("architecture = 'bert'\nwidth = 8\nheads = 2\nhidden = [12]").unwrap(),
        input: Shape {
            channels: 1,
            height: 1,
            width: 8,
        },
        classes: 2,
        rows: 1,
        preprocessing: Preprocessing::none(1),
        tokens: Some(Tokens::WordsHashed {
            ngrams: [1, 1],
            buckets: 50,
        }),
        projection: None,
    };
    let net = Net::new(&spec, 1, &Device::flex()).unwrap();
    let mut card = Card::new("bert", &spec, net.parameters(), DatasetReference::default());
    card.class_names = vec!["negative".to_owned(), "positive".to_owned()];
    Export::new(card, net.to_safetensors())
        .save(&h.path("teacher"))
        .unwrap();
    for loss in ["hint", "attention"] {
        let features = format!(
            "\n[distillation.features]\nloss = \"{loss}\"\nstudent_layer = \"block1\"\nteacher_layer = \"block2\"\n"
        );
        let file = h.job(
            "features.toml",
            &(std::fs::read_to_string(&job).unwrap() + &features),
        );
        let report = run(&h, &file, loss);
        // Of two classes and of 8 tokens by 8 numbers, in f16, with 4 bytes for each sample.
        let sent = &report["soft_targets"];
        assert_eq!(sent["samples"], 6 * 160, "{loss}");
        let bytes = sent["bytes"].as_u64().unwrap() as f64 / (6.0 * 160.0);
        let expected = f64::from(2 * 2 + 2 * 8 * 8 + 4);
        assert!((bytes - expected).abs() < 8.0, "{loss}: {bytes} bytes a sample");
        let curves = json(&h.path(loss).join("curves.json"));
        let groups = curves["groups"].as_array().unwrap();
        let small = groups.iter().find(|group| group["group"] == "small").unwrap();
        let points = small["points"].as_array().unwrap();
        let losses = points.iter().filter_map(|point| point["feature_loss"].as_f64());
        let losses: Vec<f64> = losses.collect();
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.9 * first, "{loss}: {losses:?}");
        let model = std::fs::read(h.path(loss).join("students/small/model.safetensors")).unwrap();
        assert!(!String::from_utf8_lossy(&model).contains("projection"), "{loss}");
    }
}
