//! Texts with and without labels, over real processes.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use retort_tests::online::{exactly_once, text};
use retort_tests::{Harness, skipped};
use serde_json::Value;

const JOB: &str = r#"
[run]
name = "text"
seed = 2
epochs = 4
batch_size = 32

[dataset]
format = "text"
path = "data"
unlabelled = "data/more.txt"
validation = 30

[dataset.text]
text = "sentence"
label = "about"
tokens = { kind = "words-hashed", ngrams = [1, 1], buckets = 200 }
length = 8

[[teachers]]
name = "reader"
model = { architecture = "transformer", width = 8, depth = 1, heads = 2 }
source = { kind = "trained", learning_rate = 0.01, publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "embedding-bag", embedding = 4 }
learning_rate = 0.05
teachers = [{ name = "reader", weight = 1.0 }]

[distillation]
temperature = 2.0
alpha = 0.5
gate = "none"
"#;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// Three words of five that only sentences about this have, between words that all have.
fn sentence(topic: usize, i: usize) -> String {
    let word = |k: usize| ["rain", "salt", "rail"][topic].to_owned() + &((i * 7 + k * 3) % 5).to_string();
    format!("the {} and {} or {}", word(0), word(1), word(i))
}

/// 180 lines for training of which every third has no label, and two that are none; 60 for testing, 120 more without
/// labels.
fn data(h: &Harness) -> PathBuf {
    let folder = h.path("data");
    std::fs::create_dir_all(&folder).unwrap();
    let (mut train, mut test, mut more) = (String::new(), "sentence\tabout\n".to_owned(), String::new());
    let topics = ["weather", "food", "trains"];
    for i in 0..180 {
        let (topic, text) = (i % 3, sentence(i % 3, i));
        let label = if i / 3 % 3 == 0 {
            "null".to_owned()
        } else {
            format!("{:?}", topics[topic])
        };
        writeln!(train, "{{\"about\": {label}, \"sentence\": {text:?}}}").unwrap();
    }
    train += "{\"about\": \"food\"}\n{\n";
    for i in 0..60 {
        writeln!(test, "{}\t{}", sentence(i % 3, i + 500), topics[i % 3]).unwrap();
    }
    for i in 0..120 {
        writeln!(more, "{}", sentence(i % 3, i + 1_000)).unwrap();
    }
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    std::fs::write(folder.join("test.tsv"), test).unwrap();
    std::fs::write(folder.join("more.txt"), more).unwrap();
    folder
}

#[test]
fn a_student_learns_from_texts_that_nobody_labelled() {
    let h = harness();
    data(&h);
    let job = h.job("job.toml", JOB);
    let checked = h.ok(&["check", text(&job)]);
    // 120 of 180 lines have a label, 30 of these are held out.
    let counts = "270 samples of 1x1x8, 90 labelled, 180 without a label";
    assert!(checked.contains(counts), "{checked}");
    let bad = [
        "train.jsonl line 181: sentence = absent",
        "train.jsonl line 182: line = \"{\"",
    ];
    assert!(bad.iter().all(|row| checked.contains(row)), "{checked}");
    let report = h.ok(&["run", text(&job), "--out", "out", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    exactly_once(&h, &h.path("out"), &report, 4 * 270);
    assert_eq!(report["dataset"]["labelled"], 90);
    assert_eq!(report["dataset"]["unlabelled"], 180);
    let (left_out, first) = (&report["dataset"]["bad_rows"], |i: usize| {
        report["dataset"]["bad_rows"]["first"][i]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(left_out["count"], 2);
    assert!((0..2).all(|i| first(i).contains(bad[i])), "{left_out}");
    for log in ["student-worker-1.log", "teacher-server-1.log"] {
        let log = std::fs::read_to_string(h.path("out/logs").join(log)).unwrap();
        assert!(
            log.contains("left out: 2 rows cannot be used") && log.contains(bad[0]),
            "{log}"
        );
    }
    assert_eq!(report["soft_targets"]["samples"], 4 * 270);
    let accuracy = &report["students"][0]["test_accuracy"];
    assert!(accuracy["mean"].as_f64().unwrap() > 0.8, "{accuracy}");

    let student = h.path("out").join("students/small");
    let again: Value = serde_json::from_str(&h.ok(&["evaluate", text(&student), "--json"])).unwrap();
    assert_eq!(again["test_accuracy"], accuracy["values"][0]);
    let file = h.job("question.txt", "Rain1, rain2 ... and rain4?");
    let answer = h.ok(&["predict", text(&student), text(&file), "--top", "1"]);
    assert!(answer.contains(": weather ("), "{answer}");
}

/// The job above without its data set's tables, and with these.
fn with_dataset(dataset: &str) -> String {
    let from = JOB.find("[dataset]").unwrap();
    let to = JOB.find("[[teachers]]").unwrap();
    format!("{}{dataset}\n{}", &JOB[..from], &JOB[to..])
}

#[test]
fn a_student_learns_what_comes_next_in_a_text() {
    let h = harness();
    // Of a letter always the same one follows, but for the spaces.
    std::fs::write(
        h.path("book.txt"),
        "to be or not to be that is the question ".repeat(60),
    )
    .unwrap();
    let dataset = "[dataset]\nformat = \"text\"\npath = \"book.txt\"\nvalidation = 256\n\
        [dataset.text]\ntokens = { kind = \"bytes\" }\nlength = 6\nnext = { targets = 1, stride = 3 }\n";
    let job = with_dataset(dataset)
        .replace(
            "embedding-bag\", embedding = 4",
            "mlp\", embedding = 4, hidden = [24]",
        )
        .replace("temperature = 2.0", "temperature = 2.0\nencoding = \"top-4\"");
    let job = h.job("job.toml", &job);
    let checked = h.ok(&["check", text(&job)]);
    assert!(checked.contains("samples of 1x1x6"), "{checked}");
    let report = h.ok(&[
        "run",
        text(&job),
        "--out",
        "out",
        "--json",
        "--set",
        "run.epochs=8",
    ]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let samples = report["dataset"]["train"].as_u64().unwrap();
    assert_eq!(report["dataset"]["labelled"], samples);
    exactly_once(&h, &h.path("out"), &report, 8 * samples);
    let accuracy = report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap();
    assert!(accuracy > 0.8, "{accuracy}");
    let student = h.path("out").join("students/small");
    let file = h.job("question.txt", "that i");
    let answer = h.ok(&["predict", text(&student), text(&file), "--top", "1"]);
    assert!(answer.contains(": s ("), "{answer}");
}

#[test]
fn a_student_tells_files_apart_by_their_bytes() {
    let h = harness();
    let folder = h.path("files");
    std::fs::create_dir_all(&folder).unwrap();
    let content = |kind: usize, i: usize| match kind {
        0 => format!("#!/bin/sh\necho {i}\nexit {}\n", i % 7),
        1 => format!("<html><p>{i}</p></html>\n"),
        _ => format!("{{\"number\": {i}, \"list\": [{}]}}\n", i % 9),
    };
    let names = ["shell", "html", "json"];
    let (mut train, mut test) = (String::new(), String::new());
    for i in 0..240 {
        let name = format!("{i}.bin");
        std::fs::write(folder.join(&name), content(i % 3, i)).unwrap();
        let list = if i < 180 { &mut train } else { &mut test };
        let label = names[i % 3];
        if i < 180 && i % 2 == 0 {
            writeln!(list, "{{\"text\": {name:?}}}").unwrap();
        } else {
            writeln!(list, "{{\"text\": {name:?}, \"label\": {label:?}}}").unwrap();
        }
    }
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    std::fs::write(folder.join("test.jsonl"), test).unwrap();
    std::fs::write(folder.join("classes.txt"), "html\nshell\njson\nelf\n").unwrap();
    let dataset = "[dataset]\nformat = \"text\"\npath = \"files\"\nvalidation = 30\n\
        [dataset.text]\ntokens = { kind = \"file-bytes\" }\nlength = 24\n";
    let job = with_dataset(dataset).replace(
        "embedding-bag\", embedding = 4",
        "cnn\", embedding = 4, width = 4, depth = 2",
    );
    let job = h.job("job.toml", &job);
    let run = [
        "run",
        text(&job),
        "--out",
        "out",
        "--json",
        "--set",
        "run.epochs=8",
    ];
    let report: Value = serde_json::from_str(&h.ok(&run)).unwrap();
    exactly_once(&h, &h.path("out"), &report, 8 * 150);
    assert_eq!(report["dataset"]["labelled"], 60);
    assert_eq!(report["dataset"]["classes"], 4);
    let accuracy = report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap();
    assert!(accuracy > 0.9, "{accuracy}");
    let student = h.path("out").join("students/small");
    let file = h.job("unknown", "<html><p>999</p></html>");
    let answer = h.ok(&["predict", text(&student), text(&file), "--top", "1"]);
    assert!(answer.contains(": html ("), "{answer}");

    std::fs::remove_file(folder.join("7.bin")).unwrap();
    let output = h.call(&["check", text(&job), "--set", "dataset.bad_rows=0"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("text = \"7.bin\": expected a file that can be read"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_texts_is_refused_before_anything_starts() {
    let h = harness();
    let folder = data(&h);
    let job = h.job("job.toml", JOB);
    let refused = |setting: &str, parts: &[&str]| {
        h.refused(&["check", text(&job), "--set", setting], parts);
    };
    refused(
        "students.0.model={ architecture = 'mlp', hidden = [4] }",
        &[
            "students.0.model",
            "model.architecture is mlp, expected an embedding",
        ],
    );
    refused(
        "dataset.views.noise=0.1",
        &["views.noise", "tokens are no pixels"],
    );
    refused(
        "distillation.loss=dkd",
        &["dkd needs every sample's label, and 180 training samples have none"],
    );
    refused("dataset.labelled=91", &["labelled = 91: expected at most 90"]);
    refused(
        "dataset.text.label='class'",
        &["train.jsonl holds no label", "\"class\""],
    );
    let digits = "dataset={ name = 'digits' }";
    refused(
        digits,
        &["model.architecture is embedding-bag, expected mlp, cnn, resnet, mobilenet or transformer"],
    );
    std::fs::write(folder.join("test.tsv"), "sentence\tabout\nso\tfood\nlong\tlove\n").unwrap();
    refused(
        "dataset.bad_rows=2",
        &["test.tsv line 3: about = \"love\": expected one of the 3 labels of "],
    );
}

/// A job of the examples whose data a script makes; `None`, loudly, where it was not run.
fn example(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let data = root.join("retort-runs/data").join(name);
    if !data.join("unlabelled.txt").is_file() {
        skipped(&format!(
            "no {name}: run examples/data/{name}.sh {}",
            data.display()
        ));
        return None;
    }
    Some(root.join("examples").join(format!("{name}.toml")))
}

#[test]
fn the_examples_teach_something() {
    for (name, samples, chance) in [("languages", 5 * 21_199, 1.0 / 8.0), ("reviews", 6 * 8_068, 0.5)] {
        let Some(job) = example(name) else { continue };
        let h = harness();
        let settings = ["--set", "run.baseline=false"];
        let run = ["run", text(&job), "--out", "out", "--json"];
        let report: Value = serde_json::from_str(&h.ok(&[&run[..], &settings].concat())).unwrap();
        exactly_once(&h, &h.path("out"), &report, samples);
        let accuracy = report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap();
        assert!(accuracy > chance + 0.05, "{name}: {accuracy}");
    }
}
