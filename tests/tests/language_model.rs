//! Language models, which are taught token by token, over real processes.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use retort_codec::{Encoding, HEADER_LEN};
use retort_tests::Harness;
use retort_tests::online::{exactly_once, text};
use serde_json::Value;

const EPOCHS: u64 = 6;
/// Tokens of a window, all of which have a target.
const LENGTH: u64 = 12;

const JOB: &str = r#"
[run]
name = "lines"
seed = 2
epochs = 6
batch_size = 16

[dataset]
format = "text"
path = "book.txt"
validation = 24

[dataset.text]
tokens = { kind = "bytes" }
length = 12
next = { documents = "lines" }

[[teachers]]
name = "wide"
model = { architecture = "transformer", width = 24, heads = 2, depth = 2 }
source = { kind = "trained", learning_rate = 0.01, publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "transformer", width = 16, heads = 2, depth = 1 }
learning_rate = 0.02
replicas = 2
teachers = [{ name = "wide", weight = 1.0 }]

[distillation]
temperature = 2.0
alpha = 0.5
gate = "none"

[sync]
strategy = "local-sgd"
every = 4
"#;

fn harness() -> Harness {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let lines = "to be or not\nto be\nthat is\nthe question\n\n";
    std::fs::write(h.path("book.txt"), lines.repeat(90)).unwrap();
    h
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_student_is_taught_every_token_of_packed_lines() {
    for encoding in [Encoding::F16, "top-4".parse().unwrap()] {
        let h = harness();
        let job = h.job("job.toml", JOB);
        let encodes = format!("distillation.encoding={encoding}");
        let run = ["run", text(&job), "--out", "out", "--json", "--set", &encodes];
        let report = parsed(&h.ok(&run));
        let data = &report["dataset"];
        let samples = EPOCHS * data["train"].as_u64().unwrap();
        exactly_once(&h, &h.path("out"), &report, samples);
        assert_eq!(data["targets_per_sample"], LENGTH);
        assert_eq!(data["text_bytes_per_target"], 1.0);
        // "end", a space and 12 letters.
        let classes = data["classes"].as_u64().unwrap() as usize;
        assert_eq!(classes, 14);

        let sent = &report["soft_targets"];
        let tokens = samples * LENGTH;
        let rows = tokens * encoding.row_len(classes) as u64;
        let bytes = sent["frames"].as_u64().unwrap() * HEADER_LEN as u64 + rows;
        assert_eq!(
            (&sent["samples"], &sent["bytes"]),
            (&samples.into(), &bytes.into())
        );
        let each = number(&sent["bytes_per_target"]);
        assert!((each - bytes as f64 / tokens as f64).abs() < 1e-9, "{each}");

        let (student, teacher) = (&report["students"][0], &report["teachers"][0]);
        for model in [student, teacher] {
            let (nll, perplexity) = (&model["test_nll"], &model["test_perplexity"]);
            let expected = number(&nll["mean"]).exp();
            assert!(
                (number(&perplexity["mean"]) - expected).abs() < 1e-9,
                "{perplexity}"
            );
            // Of bytes.
            let bits = number(&model["test_bits_per_byte"]["mean"]);
            assert!((bits.exp2() - expected).abs() < 1e-9, "{bits}");
            // Among 14 tokens; only the first of a line is hard to tell.
            assert!(expected < 3.0, "{encoding}: {model}");
        }
        let folder = h.path("out").join("students/small");
        let again = parsed(&h.ok(&["evaluate", text(&folder), "--json"]));
        assert_eq!(again["test_accuracy"], student["test_accuracy"]["values"][0]);
        for key in ["test_perplexity", "test_bits_per_byte"] {
            assert_eq!(again[key], student[key]["values"][0]);
        }
        // More than a window shows, and less.
        for (question, answer) in [("to be or not that is the ques", ": t ("), ("tha", ": t (")] {
            let file = h.job("question.txt", question);
            let said = h.ok(&["predict", text(&folder), text(&file), "--top", "1"]);
            assert!(said.contains(answer), "{question}: {said}");
        }
        let page = std::fs::read_to_string(h.path("out").join("report.html")).unwrap();
        for part in ["Perplexity", "bits a byte", " a token)"] {
            assert!(page.contains(part), "{part}");
        }
    }
}

/// Byte pairs of the letters of the book; one token ends a text.
#[cfg(feature = "tokenizers")]
const PAIRS: &str = r#"{ "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
    "added_tokens": [{ "id": 18, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true }],
    "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
    "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
    "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": { "t": 0, "o": 1, "b": 2, "e": 3, "r": 4, "n": 5, "h": 6, "a": 7, "i": 8, "s": 9, "q": 10, "u": 11,
            "Ġ": 12, "to": 13, "be": 14, "Ġbe": 15, "th": 16, "Ġo": 17 },
        "merges": [["t", "o"], ["b", "e"], ["Ġ", "be"], ["t", "h"], ["Ġ", "o"]] } }"#;

#[cfg(feature = "tokenizers")]
#[test]
fn a_student_is_taught_pieces_of_words() {
    let h = harness();
    std::fs::write(h.path("pairs.json"), PAIRS).unwrap();
    let tokens = "tokens = { kind = \"tokenizer\", path = \"pairs.json\" }";
    let job = h.job("job.toml", &JOB.replace("tokens = { kind = \"bytes\" }", tokens));
    let report = parsed(&h.ok(&["run", text(&job), "--out", "out", "--json"]));
    let data = &report["dataset"];
    exactly_once(
        &h,
        &h.path("out"),
        &report,
        EPOCHS * data["train"].as_u64().unwrap(),
    );
    assert_eq!(
        (&data["classes"], &data["targets_per_sample"]),
        (&19.into(), &LENGTH.into())
    );
    // Four lines of 36 bytes together and what ends them, in 27 tokens and four of these.
    let bytes = number(&data["text_bytes_per_target"]);
    assert!((bytes - 40.0 / 31.0).abs() < 0.02, "{bytes}");
    let student = &report["students"][0];
    for model in [student, &report["teachers"][0]] {
        let (nll, bits) = (
            number(&model["test_nll"]["mean"]),
            number(&model["test_bits_per_byte"]["mean"]),
        );
        assert!(
            (bits - nll / bytes / std::f64::consts::LN_2).abs() < 1e-9,
            "{bits}"
        );
        assert!(nll.exp() < 4.0, "{model}");
    }
    let folder = h.path("out").join("students/small");
    assert_eq!(
        std::fs::read_to_string(folder.join("tokenizer.json")).unwrap(),
        PAIRS
    );
    let again = parsed(&h.ok(&["evaluate", text(&folder), "--json"]));
    for key in ["test_accuracy", "test_bits_per_byte"] {
        assert_eq!(again[key], student[key]["values"][0]);
    }
    for (question, answer) in [("to be or not that is the ques", ": t ("), ("tha", ": t (")] {
        let file = h.job("question.txt", question);
        let said = h.ok(&["predict", text(&folder), text(&file), "--top", "1"]);
        assert!(said.contains(answer), "{question}: {said}");
    }
    let other = h.job(
        "other.toml",
        &JOB.replace("tokens = { kind = \"bytes\" }", tokens),
    );
    std::fs::write(h.path("pairs.json"), PAIRS.replace("18", "19")).unwrap();
    let path = "teachers.0={ name = 'wide', source = { kind = 'checkpoint', path = 'out/teachers/wide' } }";
    let refused = h.call(&["check", text(&other), "--set", path]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    for part in [
        "teachers.0.source.path",
        "a model of 19 classes",
        "a teacher of 20 classes",
    ] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// With a fixed teacher a run can be repeated bit for bit, from what the first one recorded too.
#[test]
fn what_a_teacher_said_of_every_token_is_replayed() {
    let h = harness();
    let online = h.job("online.toml", JOB);
    h.ok(&["run", text(&online), "--out", "teacher", "--set", "run.epochs=2"]);
    let fixed = JOB.replace(
        "source = { kind = \"trained\", learning_rate = 0.01, publish_every = 10 }",
        "source = { kind = \"checkpoint\", path = \"teacher/teachers/wide\", store = \"store\" }",
    );
    let from = fixed
        .find("model = { architecture = \"transformer\", width = 24")
        .unwrap();
    let to = from + fixed[from..].find('\n').unwrap();
    let fixed = format!("{}{}", &fixed[..from], &fixed[to + 1..]);
    let job = h.job("fixed.toml", &fixed.replace("replicas = 2", "replicas = 1"));
    let student = |out: &str| {
        let report = parsed(&h.ok(&["run", text(&job), "--out", out, "--json"]));
        let samples = EPOCHS * report["dataset"]["train"].as_u64().unwrap();
        exactly_once(&h, &h.path(out), &report, samples);
        assert_eq!(report["soft_targets"]["samples"], samples);
        std::fs::read(h.path(out).join("students/small/model.safetensors")).unwrap()
    };
    let (scored, replayed) = (student("scored"), student("replayed"));
    assert!(scored == replayed, "the weights differ");
    let log = h.path("replayed").join("logs");
    let logs: String = std::fs::read_dir(log)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default())
        .collect();
    assert!(
        logs.contains("are recorded, the model is not loaded"),
        "the store was not used"
    );
}

#[test]
fn what_does_not_fit_windows_is_refused_before_anything_starts() {
    let h = harness();
    let job = h.job("job.toml", JOB);
    let refused = |settings: &[&str], parts: &[&str]| {
        let mut call = vec!["check", text(&job)];
        for setting in settings {
            call.extend(["--set", setting]);
        }
        h.refused(&call, parts);
    };
    refused(
        &["students.0.model={ architecture = 'mlp', embedding = 4, hidden = [4] }"],
        &["students.0.model", "expected transformer", "text.next.targets"],
    );
    refused(
        &["dataset.text.next.targets=13"],
        &[
            "dataset.text.next.targets = 13",
            "1..=12, the positions of a window",
        ],
    );
    refused(
        &["dataset.without_classes=[1]"],
        &["without_classes = [1]: expected absent"],
    );
    refused(
        &["dataset.text.next={ documents = 'pages' }"],
        &["pages", "paragraphs"],
    );
    refused(
        &[
            "dataset.text.length=4096",
            "dataset.block_samples=16384",
            "dataset.validation=1",
            "dataset.text.next.stride=1",
        ],
        &["dataset.block_samples = 16384", "soft targets of a block"],
    );
    std::fs::write(h.path("book.txt"), "one\ntwo\0\n").unwrap();
    refused(
        &[],
        &["book.txt line 2: byte = 0: expected a text without byte 0"],
    );
}
