//! Bad input: exit code 2 before any process starts, and a message that says what would be valid.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use retort_tests::Harness;

const JOB: &str = r#"
[run]
name = "bad"
epochs = 1

[dataset]
name = "digits"

[[teachers]]
name = "wide"
model = { architecture = "mlp", hidden = [16] }
source = { kind = "trained" }

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [4] }
teachers = [{ name = "wide" }]
"#;

/// Both `check` and `run` refuse `job` with `settings`, naming every part, and start nothing.
fn refused(harness: &Harness, job: &str, settings: &[&str], parts: &[&str]) {
    let file = harness.job("job.toml", job);
    let file = file.to_str().unwrap();
    for command in ["check", "run"] {
        let mut args = vec![command, file];
        for setting in settings {
            args.extend(["--set", setting]);
        }
        if command == "run" {
            args.extend(["--out", "out"]);
        }
        harness.refused(&args, parts);
        assert!(
            !harness.path("out").exists(),
            "{command} {settings:?} started something"
        );
    }
}

fn harness() -> Harness {
    Harness::new(env!("CARGO_BIN_EXE_retort-harness"))
}

#[test]
fn the_job_that_the_others_break_is_fine() {
    let h = harness();
    let file = h.job("job.toml", JOB);
    assert!(h.ok(&["check", file.to_str().unwrap()]).contains("fine"));
}

#[test]
fn values_outside_their_bounds() {
    let h = harness();
    for (setting, parts) in [
        (
            "distillation.temperature=0.0",
            &["job.toml", "distillation.temperature", "0.001 <= T"][..],
        ),
        (
            "distillation.temperature=-1.0",
            &["distillation.temperature", "-1"],
        ),
        (
            "distillation.temperature=inf",
            &["distillation.temperature", "inf", "finite"],
        ),
        (
            "distillation.alpha=1.01",
            &["distillation.alpha", "1.01", "0..=1"],
        ),
        ("distillation.alpha=-0.5", &["distillation.alpha", "-0.5"]),
        ("students.0.replicas=0", &["students.0.replicas", "from 1"]),
        ("teachers.0.replicas=0", &["teachers.0.replicas", "from 1"]),
        (
            "students.0.model={ architecture = \"onnx\" }",
            &["students.0.model.architecture", "onnx", "retort import"],
        ),
        ("run.epochs=0", &["run.epochs", "from 1"]),
        ("students.0.teachers.0.name=nobody", &["nobody", "wide"]),
        ("students.0.device=gpu", &["students.0.device", "gpu", "flex"]),
        #[cfg(not(feature = "libtorch"))]
        (
            "students.0.device=libtorch",
            &["students.0.device", "libtorch", "feature"],
        ),
        (
            "dataset.labelled=100000",
            &["dataset", "labelled", "100000", "1297"],
        ),
        ("dataset.validation=0", &["dataset.validation", "gate"]),
        ("dataset.name=digts", &["digts", "digits"]),
        ("fleet.lease=5", &["fleet", "lease"]),
        ("fleet.heartbeat=9s", &["fleet.heartbeat", "half"]),
    ] {
        refused(&h, JOB, &[setting], parts);
    }
}

#[test]
fn several_problems_are_named_at_once() {
    let h = harness();
    refused(
        &h,
        JOB,
        &[
            "distillation.temperature=0.0",
            "students.0.replicas=0",
            "distillation.alpha=2.0",
        ],
        &[
            "distillation.temperature",
            "students.0.replicas",
            "distillation.alpha",
        ],
    );
}

#[test]
fn unknown_keys_and_missing_files() {
    let h = harness();
    refused(
        &h,
        &JOB.replace("epochs = 1", "epochs = 1\nepoch = 2"),
        &[],
        &["epoch", "epochs", "line"],
    );
    refused(
        &h,
        &JOB.replace(
            "name = \"digits\"",
            "name = \"fashion-mnist\"\npath = \"nowhere\"",
        ),
        &[],
        &["nowhere"],
    );
    let output = h.call(&["run", "absent.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("absent.toml"));
    let fixed = JOB.replace(
        "model = { architecture = \"mlp\", hidden = [16] }\nsource = { kind = \"trained\" }",
        "source = { kind = \"checkpoint\", path = \"no-model\" }",
    );
    refused(&h, &fixed, &[], &["teachers.0.source.path", "no-model"]);
}

/// A data set of two 2x2 images as plain IDX files, with `labels`.
fn idx(harness: &Harness, folder: &str, labels: &[u8], cut: usize) {
    let folder = harness.path(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let n = u32::try_from(labels.len()).unwrap();
    for part in ["train", "t10k"] {
        let mut images = vec![0, 0, 8, 3];
        for dim in [n, 2, 2] {
            images.extend(dim.to_be_bytes());
        }
        images.extend((0..n * 4).map(|i| u8::try_from(i % 251).unwrap()));
        images.truncate(images.len() - cut);
        std::fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let mut bytes = vec![0, 0, 8, 1];
        bytes.extend(n.to_be_bytes());
        bytes.extend(labels);
        std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), bytes).unwrap();
    }
}

fn idx_job(folder: &str) -> String {
    JOB.replace(
        "name = \"digits\"",
        &format!("format = \"idx\"\npath = \"{folder}\"\nvalidation = 2"),
    )
}

#[test]
fn truncated_files_and_wrong_content() {
    let h = harness();
    let labels: Vec<u8> = (0..20).map(|i| i % 3).collect();
    idx(&h, "good", &labels, 0);
    let file = h.job("good.toml", &idx_job("good"));
    assert!(h.ok(&["check", file.to_str().unwrap()]).contains("fine"));
    idx(&h, "cut", &labels, 7);
    refused(&h, &idx_job("cut"), &[], &["train-images-idx3-ubyte", "expected"]);
    // Named like Fashion-MNIST, but with another content: its hash is known.
    let named = JOB.replace("name = \"digits\"", "name = \"fashion-mnist\"\npath = \"good\"");
    refused(&h, &named, &[], &["train-images", "md5"]);
}

/// A WAV file of 16 bits at 8 kHz: a header that announces `samples`, and as many of them less `cut` bytes.
fn wav(harness: &Harness, file: &str, samples: u32, cut: usize) {
    let file = harness.path(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + 2 * samples).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    // PCM, one channel; samples and bytes a second; bytes and bits a sample.
    bytes.extend([1u16, 1].map(u16::to_le_bytes).concat());
    bytes.extend([8_000u32, 16_000].map(u32::to_le_bytes).concat());
    bytes.extend([2u16, 16].map(u16::to_le_bytes).concat());
    bytes.extend(b"data");
    bytes.extend((2 * samples).to_le_bytes());
    bytes.extend((0..2 * samples).map(|i| u8::try_from(i % 251).unwrap()));
    bytes.truncate(bytes.len() - cut);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn sounds_that_cannot_be_read_or_cut() {
    let h = harness();
    for part in ["train", "test"] {
        for i in 0..20 {
            wav(&h, &format!("sounds/{part}/{}/{i}.wav", i % 2), 1_000, 0);
        }
    }
    let sounds = "format = \"wav\"\npath = \"sounds\"\nvalidation = 2\naudio = { seconds = 0.125 }";
    let job = JOB.replace("name = \"digits\"", sounds);
    let file = h.job("good.toml", &job);
    assert!(h.ok(&["check", file.to_str().unwrap()]).contains("fine"));
    for (setting, parts) in [
        (
            "dataset.audio.rate=0",
            ["dataset.audio.rate", "2000 to 192000 Hz"],
        ),
        (
            "dataset.audio.seconds=0.01",
            ["dataset.audio.seconds", "a window"],
        ),
        ("dataset.audio.mels=200", ["audio.mels = 200", "at most 86"]),
        ("dataset.audio.hops=5", ["hops", "hop_ms"]),
        ("dataset.views.flip=true", ["dataset.views.flip", "false"]),
        ("dataset.views.gain=99.0", ["dataset.views.gain", "40 decibels"]),
        ("dataset.path=nowhere", ["read", "nowhere: No such file"]),
    ] {
        refused(&h, &job, &[setting], &parts);
    }
    wav(&h, "sounds/train/1/7.wav", 1_000, 3);
    let parts = [
        "sounds/train/1/7.wav: no WAV file of",
        "PCM: Failed to read enough bytes",
    ];
    let named = h.ok(&["check", file.to_str().unwrap()]);
    assert!(
        named.contains("left out, since they cannot be used: 1\n"),
        "{named}"
    );
    assert!(parts.iter().all(|part| named.contains(part)), "{named}");
    refused(
        &h,
        &job,
        &["dataset.bad_rows=0"],
        &[&parts[..], &["dataset.bad_rows = 0"]].concat(),
    );
}

#[test]
fn parquet_that_is_none_or_not_built_in() {
    let h = harness();
    std::fs::create_dir_all(h.path("table")).unwrap();
    std::fs::write(h.path("table/train.parquet"), "PAR1").unwrap();
    let (name, reason) = if cfg!(feature = "parquet") {
        ("table/train.parquet, expected a Parquet file", "read")
    } else {
        (
            "table/train.parquet is a Parquet file",
            "build with --features parquet",
        )
    };
    for format in ["text", "images"] {
        let table = format!("format = \"{format}\"\npath = \"table\"");
        refused(
            &h,
            &JOB.replace("name = \"digits\"", &table),
            &[],
            &[name, reason],
        );
    }
}

#[test]
fn a_teacher_of_other_classes_or_inputs() {
    let h = harness();
    let labels: Vec<u8> = (0..40).map(|i| i % 3).collect();
    idx(&h, "data", &labels, 0);
    let teacher_only: String = idx_job("data").split("[[students]]").next().unwrap().to_owned();
    let file = h.job("teacher.toml", &teacher_only);
    h.ok(&["run", file.to_str().unwrap(), "--out", "trained"]);
    let fixed = JOB.replace(
        "model = { architecture = \"mlp\", hidden = [16] }\nsource = { kind = \"trained\" }",
        "source = { kind = \"checkpoint\", path = \"trained/teachers/wide\" }",
    );
    refused(
        &h,
        &fixed,
        &[],
        &[
            "teachers.0.source.path",
            "3 classes",
            "10 classes",
            "1x2x2",
            "1x8x8",
        ],
    );
}

#[test]
fn an_output_folder_that_is_taken() {
    let h = harness();
    let file = h.job("job.toml", JOB);
    std::fs::create_dir(h.path("taken")).unwrap();
    std::fs::write(h.path("taken/file"), "x").unwrap();
    let output = h.call(&["run", file.to_str().unwrap(), "--out", "taken"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("taken"));
}

#[test]
fn layers_that_are_not_there_or_do_not_fit() {
    let h = harness();
    let features = |student: &str, teacher: &str, loss: &str| {
        format!(
            "distillation.features={{ loss = \"{loss}\", student_layer = \"{student}\", teacher_layer = \"{teacher}\" }}"
        )
    };
    let cnn = "teachers.0.model={ architecture = \"cnn\", width = 4 }";
    for (settings, parts) in [
        (
            vec![features("hidden1", "hidden2", "hint")],
            [
                "distillation.features.teacher_layer = \"hidden2\"",
                "expected a layer of \"wide\"",
                "hidden1",
            ],
        ),
        (
            vec![features("conv1", "hidden1", "hint")],
            [
                "distillation.features.student_layer = \"conv1\"",
                "expected a layer of \"small\"",
                "hidden1",
            ],
        ),
        (
            vec![cnn.to_owned(), features("hidden1", "conv1", "attention")],
            [
                "distillation.features.student_layer = \"hidden1\"",
                "has 1 positions",
                "relational",
            ],
        ),
    ] {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        refused(&h, JOB, &settings, &parts);
    }
    let fine = features("hidden1", "conv1", "relational");
    let file = h.job("job.toml", JOB);
    let args = ["check", file.to_str().unwrap(), "--set", cnn, "--set", &fine];
    assert!(h.ok(&args).contains("fine"));
}

#[test]
fn a_share_without_a_sample() {
    let h = harness();
    let share = "students.0.share={ part = 999, of = 1000 }";
    // A thousandth holds one or two of 1,297 samples, and the baseline needs a label.
    refused(
        &h,
        JOB,
        &[share, "run.baseline=true", "dataset.labelled=10", "run.seed=3"],
        &["students.0.share = 999 of 1000", "\"small@alone\""],
    );
}
