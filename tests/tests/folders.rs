//! Folders of pictures and of sounds, over real processes: training, and what an export makes of single files.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use image::{GrayImage, imageops};
use retort_data::{DatasetConfig, Part};
use retort_tests::online::{LIMIT, exactly_once, text};
use retort_tests::{Harness, json};
use serde_json::Value;

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

/// Runs a job to its end and gives its folder and report.
fn run(h: &Harness, job: &str) -> (PathBuf, Value) {
    let (file, out) = (h.job("job.toml", job), h.path("run"));
    let running = h.start(&["run", text(&file), "--out", text(&out), "--json"]);
    let (code, stdout) = running.end(LIMIT).unwrap();
    assert_eq!(code, 0, "{stdout}");
    (out, serde_json::from_str(&stdout).unwrap())
}

fn accuracy(report: &Value) -> f64 {
    report["students"][0]["test_accuracy"]["mean"].as_f64().unwrap()
}

/// What a fresh process says of a file, most probable class first.
fn predict(h: &Harness, model: &Path, file: &Path) -> Vec<(String, f64)> {
    let answer = h.ok(&["predict", text(model), text(file), "--top", "10", "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let classes = answer[0]["classes"].as_array().unwrap().iter();
    classes
        .map(|c| {
            (
                c["class"].as_str().unwrap().to_owned(),
                c["probability"].as_f64().unwrap(),
            )
        })
        .collect()
}

fn refused(h: &Harness, model: &Path, file: &Path, expected: &str) {
    let output = h.call(&["predict", text(model), text(file)]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(expected) && error.contains(text(file)), "{error}");
}

const IMAGES: &str = r#"
[run]
name = "images"
seed = 2
epochs = 12
batch_size = 20

[dataset]
format = "images"
path = "data"
labelled = 400
validation = 100
images = { height = 8, width = 8, grey = true }
views = { noise = 0.02, mixup = 0.2 }

[[teachers]]
name = "wide"
model = { architecture = "cnn", width = 8, depth = 2 }
source = { kind = "trained", learning_rate = 0.01, publish_every = 10 }

[[students]]
name = "small"
model = { architecture = "mobilenet", width = 16, depth = 2 }
learning_rate = 0.01
teachers = [{ name = "wide" }]

[distillation]
temperature = 2.0
alpha = 0.5
gate = "none"
"#;

/// The first digits of each part as PNG files, every tenth of them larger and in colour.
fn images(folder: &Path) {
    let config = DatasetConfig {
        name: Some("digits".into()),
        ..DatasetConfig::default()
    };
    let digits = retort_data::load(&config, Path::new("."), 1).unwrap();
    for (part, name, count) in [(Part::Train, "train", 600), (Part::Test, "test", 200)] {
        let split = digits.split(part);
        for sample in 0..count {
            let mut values = [0.0; 64];
            split.write(sample, &mut values);
            let bytes = values.map(|v| (v * 255.0) as u8);
            let image = GrayImage::from_raw(8, 8, bytes.to_vec()).unwrap();
            let class = folder.join(name).join(split.label(sample).to_string());
            std::fs::create_dir_all(&class).unwrap();
            let file = class.join(format!("{sample}.png"));
            if sample % 10 == 0 {
                let large = imageops::resize(&image, 16, 16, imageops::FilterType::Nearest);
                image::DynamicImage::from(large).to_rgb8().save(file).unwrap();
            } else {
                image.save(file).unwrap();
            }
        }
    }
}

#[test]
fn a_small_network_learns_from_a_folder_of_pictures() {
    let h = harness();
    images(&h.path("data"));
    let (folder, report) = run(&h, IMAGES);
    exactly_once(&h, &folder, &report, 500 * 12);
    assert_eq!(report["dataset"]["name"], "images");
    assert!(
        accuracy(&report) > 0.6,
        "{}",
        report["students"][0]["test_accuracy"]
    );

    // A fresh process gives the report's accuracy, one file after the other.
    let student = folder.join("students/small");
    let mut args = vec!["predict", text(&student), "--top", "1", "--json"];
    let classes = std::fs::read_dir(h.path("data/test")).unwrap();
    let files: Vec<PathBuf> = classes
        .flat_map(|class| std::fs::read_dir(class.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    args.extend(files.iter().map(|file| text(file)));
    let answers: Value = serde_json::from_str(&h.ok(&args)).unwrap();
    let right = files
        .iter()
        .zip(answers.as_array().unwrap())
        .filter(|(file, answer)| {
            let class = file.parent().unwrap().file_name().unwrap();
            answer["classes"][0]["class"].as_str().unwrap() == class
        });
    let found = right.count() as f64 / files.len() as f64;
    assert!(
        (found - accuracy(&report)).abs() < 1e-9,
        "{found} {}",
        accuracy(&report)
    );

    let broken = h.path("broken.png");
    std::fs::write(&broken, "no picture").unwrap();
    refused(&h, &student, &broken, "no image in PNG");
    refused(&h, &student, &h.path("absent.png"), "no image in PNG");
}

const SOUNDS: &str = r#"
[run]
name = "sounds"
seed = 2
epochs = 10
batch_size = 8

[dataset]
format = "wav"
path = "data"
validation = 8
audio = { seconds = 0.25, mels = 16, hop_ms = 20 }
views = { shift = 1, gain = 3.0, mixup = 0.2 }

[[teachers]]
name = "wide"
model = { architecture = "cnn", width = 4, depth = 2 }
source = { kind = "trained", learning_rate = 0.01, publish_every = 5 }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [8] }
learning_rate = 0.01
teachers = [{ name = "wide" }]

[distillation]
temperature = 2.0
alpha = 0.5
gate = "none"
"#;

/// Writes a tone of so many Hz, 16 bits, in all channels.
fn tone(file: &Path, hertz: f64, spec: hound::WavSpec, seconds: f64) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer = hound::WavWriter::create(file, spec).unwrap();
    let rate = f64::from(spec.sample_rate);
    for i in 0..(seconds * rate) as u32 {
        let value = (TAU * hertz * f64::from(i) / rate).sin() * 8_000.0;
        for _ in 0..spec.channels {
            writer.write_sample(value as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

const MONO: hound::WavSpec = hound::WavSpec {
    channels: 1,
    sample_rate: 8_000,
    bits_per_sample: 16,
    sample_format: hound::SampleFormat::Int,
};

#[test]
fn an_export_hears_single_files_as_the_data_set_does() {
    let h = harness();
    for i in 0..24 {
        for (part, offset) in [("train", 0.0), ("test", 5.0)] {
            let of = |class: &str| h.path("data").join(part).join(class).join(format!("{i}.wav"));
            let step = f64::from(i) * 10.0 + offset;
            tone(&of("low"), 300.0 + step, MONO, 0.25);
            tone(&of("high"), 1_500.0 + 2.0 * step, MONO, 0.25);
        }
    }
    let (folder, report) = run(&h, SOUNDS);
    exactly_once(&h, &folder, &report, 40 * 10);
    assert!(
        accuracy(&report) > 0.9,
        "{}",
        report["students"][0]["test_accuracy"]
    );
    let student = folder.join("students/small");
    let audio = &json(&student.join("model.json"))["audio"];
    assert_eq!((&audio["rate"], &audio["hop_ms"]), (&8_000.into(), &20.into()));

    // Whatever its rate, channels and length are.
    let studio = hound::WavSpec {
        channels: 2,
        sample_rate: 44_100,
        ..MONO
    };
    let file = h.path("studio.wav");
    for (hertz, class) in [(350.0, "low"), (1_700.0, "high")] {
        tone(&file, hertz, studio, 0.4);
        let studio = predict(&h, &student, &file);
        tone(&file, hertz, MONO, 0.25);
        let plain = predict(&h, &student, &file);
        assert_eq!((studio[0].0.as_str(), plain[0].0.as_str()), (class, class));
        assert!((studio[0].1 - plain[0].1).abs() < 0.05, "{studio:?} {plain:?}");
    }

    let empty = h.path("empty.wav");
    tone(&empty, 0.0, MONO, 0.0);
    refused(&h, &student, &empty, "no samples: record it again");
    let float = h.path("float.wav");
    let spec = hound::WavSpec {
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
        ..MONO
    };
    hound::WavWriter::create(&float, spec)
        .unwrap()
        .finalize()
        .unwrap();
    refused(&h, &student, &float, "floating-point samples");
    let other = h.path("other.wav");
    std::fs::write(&other, "RIFF no sound").unwrap();
    refused(&h, &student, &other, "no WAV file of");
    refused(&h, &student, &h.path("absent.wav"), "cannot be read");

    // A front end that does not fit the model is no front end.
    let card = student.join("model.json");
    let whole = std::fs::read_to_string(&card).unwrap();
    for (from, to, expected) in [
        (
            "\"hop_ms\": 20",
            "\"hop_ms\": 10",
            "audio is a front end for samples of 1x23x16",
        ),
        (
            "\"hop_ms\": 20",
            "\"hop_ms\": 0",
            "audio.hop_ms = 0: expected 1 to 25",
        ),
    ] {
        assert!(whole.contains(from), "{whole}");
        std::fs::write(&card, whole.replace(from, to)).unwrap();
        let output = h.call(&["predict", text(&student), text(&file)]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// The student's own initial state teaches it, and it does not learn: only if both see the same views do they say the same.
const SAME: &str = r#"
[run]
name = "same"
seed = 2
epochs = 2
batch_size = 32

[dataset]
name = "digits"
labelled = 100
views = { shift = 2, noise = 0.3, mixup = 1.0 }

[[teachers]]
name = "itself"
source = { kind = "ema", of = "small", decay = 0.5 }

[[students]]
name = "small"
model = { architecture = "cnn", width = 4, depth = 2 }
learning_rate = 1e-12
optimizer = "sgd"
teachers = [{ name = "itself" }]

[distillation]
temperature = 0.1
encoding = "f32"
alpha = 0.5
gate = "none"
"#;

#[test]
fn teacher_and_student_see_the_same_mixture() {
    let h = harness();
    let (folder, report) = run(&h, SAME);
    exactly_once(&h, &folder, &report, 1_297 * 2);
    let curves = json(&folder.join("curves.json"));
    let divergences: Vec<f64> = divergences(&curves);
    assert!(divergences.len() > 2, "{curves}");
    let most = divergences.iter().copied().fold(0.0, f64::max);
    assert!(most < 1e-5, "{most}");
}

/// All numbers under the name `kl`.
fn divergences(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(divergences).collect(),
        Value::Object(fields) => {
            let own = fields.get("kl").and_then(Value::as_f64);
            own.into_iter()
                .chain(fields.values().flat_map(divergences))
                .collect()
        }
        _ => Vec::new(),
    }
}
